"""The supernet of a run: made from its configuration, or with the weights that training saved."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch

from nas.checks import check
from nas.config.config import Config
from nas.data.batches import Dataset, load
from nas.files import write_atomic
from nas.train.checkpoint import load_checkpoint
from search_spaces.space import Arch
from supernet.sampling.paths import State
from supernet.supernet import Supernet

TASK = "task.json"  # facts of the task, fitted to the training targets


def new_supernet(config: Config) -> Supernet[Arch]:
    """Initial weights, a function of the seed alone, on the CPU."""
    generator = torch.Generator().manual_seed(config.seed)
    return config.supernet.from_config(
        config.space, config.task, config.source, generator=generator
    )


def initial_weights(
    config: Config, data: Dataset, warn: Callable[[str], None], *, is_new: bool
) -> tuple[Supernet[Arch], Supernet[Arch] | None]:
    """The supernet that training begins with, and the frozen one that teaches it, if one does.

    A training that is not new has a checkpoint, and needs of the run in train.init the teacher
    alone. Raises ValueError for a run there that cannot give them.
    """
    supernet, taught = new_supernet(config), config.distillation.teacher == "init"
    if not config.train.init or not (is_new or taught):
        return supernet, None
    init = Path(config.train.init)
    state = load_state(init, warn, "train.init")
    check_data(init, data)
    rule = "a finished run, whose largest subnet teaches (distillation)"
    check("train.init", state["finished"] or not taught, rule, f"{init} at step {state['step']}")
    try:
        supernet.load_state_dict(state["ema"])
    except RuntimeError as error:  # names every tensor that is missing or of another shape
        rule = "a run of the same space, source and sizes of data"
        raise ValueError(f"train.init must be {rule}, got {init}: {error}") from error
    return supernet, deepcopy(supernet) if taught else None


def check_supernet(config: Config) -> None:
    """Raises ValueError for a run whose training saw one subnet alone."""
    only = config.paths(space=config.space).only
    check("run", only is None, "of a supernet (nas train)", f"{config.run}, of one subnet alone")


def load_data(config: Config, run: Path, device: torch.device) -> Dataset:
    """The data of a trained run, checked to be those that it was trained on."""
    data = load(config.data, config.task, seed=config.seed, device=device)
    check_data(run, data)
    return data


def keep_task(run: Path, data: Dataset) -> None:
    """Writes what `check_data` compares with."""
    write_atomic(run / TASK, json.dumps(data.task.facts()))


def check_data(run: Path, data: Dataset) -> None:
    """Raises ValueError for data that a run was not trained on.

    What was learned from the training targets (how a regression scales them, the names of classes)
    belongs to the weights: data.root may move, its content may not change.
    """
    path = run / TASK
    if path.exists():  # not in runs of earlier versions
        known, found = json.loads(path.read_text()), json.loads(json.dumps(data.task.facts()))
        check("data.root", found == known, f"the data that {run} was trained on, {known}", found)


def load_state(run: Path, warn: Callable[[str], None], key: str = "run") -> State:
    """What the last checkpoint holds, on the CPU; raises ValueError if nothing was trained."""
    state = load_checkpoint(run, torch.device("cpu"), warn)
    if state is None:
        raise ValueError(f"{key} must hold a checkpoint; nas train run={run} makes one, got none")
    if not state["finished"]:
        warn(f"training has stopped at step {state['step']} and is not finished")
    return state


def load_supernet(
    config: Config, run: Path, warn: Callable[[str], None]
) -> tuple[Supernet[Arch], int]:
    """The averaged weights of the last checkpoint, on the CPU, and the step that it was made at.

    Raises ValueError if nothing was trained.
    """
    state = load_state(run, warn)
    supernet = new_supernet(config)
    supernet.load_state_dict(state["ema"])
    return supernet.eval(), int(state["step"])
