"""One subnet trained further from the supernet's weights, or alone from scratch: nas finetune.

It makes a run folder of its own within the supernet's, which the other stages read as any run: its
samplers, its losses and its steps are those of `nas train`, with the same subnet at every step.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

from rich.console import Console

from nas.budgets import KEYS
from nas.config.config import Config
from nas.config.run_folder import (
    FREE_KEYS,
    compose_config,
    memory_of,
    merge_overrides,
    open_run,
    override_key,
)
from nas.export.pick import Pick, pick_arch
from nas.search.study import fingerprint
from nas.train.stage import train
from nas.train.weights import check_supernet, load_supernet
from search_spaces.space import to_record

FOLDERS = {"supernet": "finetuned", "scratch": "scratch"}  # by what training begins with
# The parts that a subnet alone is trained with; of some files, the options that they have.
PARTS = ("paths", "examples", "distillation")
OPTIONS = {"single": ("arch",), "frozen": ("hard_weight", "temperature")}
# As this command says, not the supernet's.
KEPT = (*(key for key in FREE_KEYS if key != "train.init"), "wandb.mode", "wandb.project")


def finetune(config: Config, run: Path, console: Console) -> None:
    """Trains the subnet that `pick` or `arch` names; goes on where an earlier command stopped.

    Raises what `nas.train.stage.train` raises.
    """
    check_supernet(config)
    supernet, step = load_supernet(config, run, partial(console.print, markup=False))
    here = {"step": step, "weights": fingerprint(supernet)}
    pick = pick_arch(config, run, here)
    remembered, conf = memory_of(run)
    overrides = without_others(remembered, settings(config, run, pick), conf)
    child, folder = open_run(overrides, conf, create=True)
    train(child, folder, console)
    console.print(
        f"{folder} holds the subnet alone; nas export run={folder} writes it, "
        f"nas report run={run} compares",
        markup=False,
        soft_wrap=True,
    )


def settings(config: Config, run: Path, pick: Pick) -> dict[str, object]:
    """What the subnet's run sets, by key."""
    train, own, inherits = config.train, config.finetune, config.from_ == "supernet"
    init = str(run.resolve()) if inherits else ""  # wherever later commands are given
    epochs = own.epochs or (-(-train.epochs // 10) if inherits else train.epochs)
    lr = own.lr or (train.lr / 2 if inherits else train.lr)
    limits = dict.fromkeys(KEYS) | pick.budgets.record()  # of the search, and no others
    return {
        "run": str(folder_of(config, run)),
        "paths": "single",
        "paths.arch": to_record(pick.arch),
        "examples": "uniform",
        "distillation": "frozen" if own.teacher == "largest" else "none",
        "train.init": init,
        "train.epochs": epochs,
        "train.lr": lr,
        "train.min_lr": min(train.min_lr, lr),
        "train.warmup_epochs": train.warmup_epochs * epochs // train.epochs,
        "train.snapshots": 0,
        "train.variance_draws": 0,
        **{key: attrgetter(key)(config) for key in KEPT},
        **{f"budget.{key}": limit for key, limit in limits.items()},
    }


def folder_of(config: Config, run: Path) -> Path:
    name = Path(config.arch).stem if config.arch else config.pick
    return run / (FOLDERS[config.from_] + ("" if name == "best" else f"_{name}"))


def without_others(
    remembered: Sequence[str], own: Mapping[str, object], conf: Path | None
) -> list[str]:
    """The overrides of both, without the options that the subnet's parts lack.

    Those that an experiment sets are deleted.
    """
    known = {f"{part}.{name}" for part in PARTS for name in OPTIONS.get(str(own[part]), ())}
    kept = [
        override
        for override in remembered
        if (key := override_key(override)).split(".")[0] not in PARTS or key in known
    ]
    overrides = merge_overrides(kept, [f"{key}={literal(value)}" for key, value in own.items()])
    raw = compose_config(overrides, conf)
    found = [f"{part}.{name}" for part in PARTS for name in raw[part] if name != "_target_"]
    return overrides + [f"~{key}" for key in found if key not in known]


def literal(value: object) -> str:
    """A plain value in Hydra's own notation, in which keys have no quotes."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{literal(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, str):
        # Backslashes count as such only before a quote, and there they are doubled.
        escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
        return "'" + re.sub(r"(\\+)\Z", r"\1\1", escaped) + "'"
    return "null" if value is None else str(value)
