"""One subnet trained further from the supernet's weights, or alone from scratch: nas finetune.

It makes a run folder of its own within the supernet's, which the other stages read as any run: its
samplers, its losses and its steps are those of `nas train`, with the same subnet at every step.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rich.console import Console

from nas.config.config import Config
from nas.config.run_folder import FREE_KEYS, compose_config, memory_of, merge_overrides, open_run
from nas.export.pick import Pick, pick_arch
from nas.search.study import fingerprint
from nas.train.stage import train
from nas.train.weights import check_supernet, load_supernet
from search_spaces.space import to_record

FOLDERS = {"supernet": "finetuned", "scratch": "scratch"}  # by what training begins with
# What a subnet alone is trained with; options that an experiment sets for others are removed.
PARTS = {"paths": {"arch"}, "examples": set[str](), "distillation": {"hard_weight", "temperature"}}


def finetune(config: Config, run: Path, console: Console) -> None:
    """Trains the subnet that `pick` or `arch` names; goes on where an earlier command stopped.

    Raises what `nas.train.stage.train` raises.
    """
    check_supernet(config)
    supernet, step = load_supernet(config, run, partial(console.print, markup=False))
    here = {"step": step, "weights": fingerprint(supernet)}
    pick = pick_arch(config, run, here)
    remembered, conf = memory_of(run)
    overrides = merge_overrides(remembered, settings(config, run, pick))
    child, folder = open_run(without_others(overrides, conf), conf, create=True)
    train(child, folder, console)
    console.print(
        f"{folder} holds the subnet alone; nas export run={folder} writes it, "
        f"nas report run={run} compares",
        markup=False,
        soft_wrap=True,
    )


def settings(config: Config, run: Path, pick: Pick) -> list[str]:
    """What the subnet's run sets, as overrides of the supernet's."""
    train, own, inherits = config.train, config.finetune, config.start == "supernet"
    epochs = own.epochs or (-(-train.epochs // 10) if inherits else train.epochs)
    teaches = inherits and own.teacher == "largest"
    values: dict[str, object] = {
        "run": folder_of(config, run),
        "paths": "single",
        "paths.arch": literal(to_record(pick.arch)),
        "examples": "uniform",
        "distillation": "frozen" if teaches else "none",
        "train.init": run if inherits else "",
        "train.epochs": epochs,
        "train.lr": own.lr or (train.lr / 2 if inherits else train.lr),
        "train.min_lr": min(train.min_lr, own.lr or train.min_lr),
        "train.warmup_epochs": train.warmup_epochs * epochs // train.epochs,
        "train.snapshots": 0,
        "train.variance_draws": 0,
    }
    values |= {
        key: getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) for key in FREE_KEYS
    }
    values |= {f"budget.{key}": limit for key, limit in pick.budgets.record().items()}
    return [f"{key}={quoted(value)}" for key, value in values.items()]


def folder_of(config: Config, run: Path) -> Path:
    name = Path(config.arch).stem if config.arch else config.pick
    return run / (FOLDERS[config.start] + ("" if name == "best" else f"_{name}"))


def without_others(overrides: list[str], conf: Path | None) -> list[str]:
    """The overrides, with a deletion of each option that the parts of the subnet's run lack."""
    kept = [
        override
        for override in overrides
        if override.split("=")[0].partition(".")[0].lstrip("+~") not in PARTS
        or override.split("=")[0] in (*PARTS, "paths.arch")
    ]
    raw = compose_config(kept, conf)
    return kept + [
        f"~{part}.{name}"
        for part, known in PARTS.items()
        for name in raw[part]
        if name not in ("_target_", *known)
    ]


def literal(record: Mapping[str, object]) -> str:
    """A mapping of plain values in Hydra's own notation, whose keys have no quotes."""
    return f"{{{','.join(f'{key}:{json.dumps(value)}' for key, value in record.items())}}}"


def quoted(value: object) -> str:
    """A text or a path as Hydra reads it back; other values as they are."""
    if not isinstance(value, str | Path) or str(value).startswith("{"):
        return str(value)
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
