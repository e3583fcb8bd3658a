"""From a command line to a checked configuration, and from there to a run folder.

A run folder remembers the configuration that made it. Every later stage composes the same overrides
followed by its own, so `nas search run=runs/x` knows the experiment, and refuses to go on with a
training configuration that differs.
"""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import nas
from nas.config import Config, parse
from nas.files import write_atomic

# What decides the trained weights. Later stages may change the other keys, and these few:
TRAINING_KEYS = ("seed", "space", "source", "paths", "distillation", "data", "train")
FREE_KEYS = ("data.root", "data.workers", "train.log_every", "train.checkpoint_every")


def conf_dir() -> Path:
    """conf/ lies inside the installed package, or beside it in a checkout."""
    package = Path(nas.__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def compose_config(overrides: Sequence[str], extra_conf: Path | None = None) -> DictConfig:
    """Hydra's composition of conf/ with overrides; `extra_conf` is a folder searched as well."""
    overrides = list(overrides)
    if extra_conf is not None:
        overrides.append(f"hydra.searchpath=['file://{extra_conf.resolve()}']")
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            raw = compose("config", overrides)
        OmegaConf.resolve(raw)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(str(error)) from error
    return raw


def open_run(
    overrides: Sequence[str], extra_conf: Path | None = None, *, create: bool
) -> tuple[Config, Path]:
    """The configuration of a command and its run folder, which is made if `create`."""
    raw = compose_config(overrides, extra_conf)
    run = Path(str(raw.run))
    memory = run / "overrides.yaml"
    if memory.exists():
        remembered = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(memory)))
        extra_conf = extra_conf or (Path(path) if (path := remembered["conf"]) else None)
        raw = compose_config(merge_overrides(remembered["overrides"], overrides), extra_conf)
        refuse_changes(run, OmegaConf.load(run / "config.yaml"), raw)
        raw.run = str(run)
        return parse(raw), run
    if not create:
        raise ValueError(f"run must be a folder that nas train or nas measure made, got {run}")
    config = parse(raw)
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise ValueError(f"run must be a run folder, an empty or a new one, got {run}")
    run.mkdir(parents=True, exist_ok=True)
    write_atomic(run / "config.yaml", OmegaConf.to_yaml(raw))
    conf = str(extra_conf.resolve()) if extra_conf else ""
    write_atomic(memory, OmegaConf.to_yaml({"conf": conf, "overrides": list(overrides)}))
    return config, run


def merge_overrides(earlier: Sequence[str], later: Sequence[str]) -> list[str]:
    """Both lists; a key of the later one replaces the same key of the earlier."""
    keys = {override_key(override) for override in later}
    return [kept for kept in earlier if override_key(kept) not in keys] + list(later)


def override_key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


def refuse_changes(run: Path, before: Any, after: DictConfig) -> None:
    """Raises ValueError that names each training key in which two configurations differ."""
    old, new = dict(flatten(before)), dict(flatten(after))
    changes = [
        f"{key}: {old.get(key, 'absent')!r} there, {new.get(key, 'absent')!r} now"
        for key in sorted(old.keys() | new.keys())
        if key.split(".")[0] in TRAINING_KEYS
        and key not in FREE_KEYS
        and old.get(key) != new.get(key)
    ]
    if changes:
        raise ValueError(
            f"{run} was made with other settings (take another run=... or go on as there): "
            + "; ".join(changes)
        )


def flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys with their values; a list is one value."""
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True)
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{key}.")
        else:
            yield key, value


def code_version() -> str:
    """The commit of this code, with + if the files differ from it; its release if installed."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return version("atomweave")
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--abbrev=12"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or version("atomweave")
