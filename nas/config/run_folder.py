"""From a command line to a checked configuration, and from there to a run folder.

A run folder remembers the configuration that made it. Every later stage composes the same overrides
followed by its own, so `nas search run=runs/x` knows the experiment, and refuses to go on with a
training configuration that differs.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

import nas
from nas.checks import check
from nas.config.config import Config, parse
from nas.config.errors import not_composed
from nas.config.old_names import renewed_overrides, renewed_settings
from nas.files import write_atomic

# What decides the trained weights. Later stages may change the other keys, and these few:
TRAINING_GROUPS = ("space", "source", "data", "task", "paths", "examples", "distillation")
TRAINING_KEYS = ("seed", "train", *TRAINING_GROUPS)
FREE_DATA_KEYS = ("data.root", "data.workers")
FREE_TRAIN_KEYS = (
    "train.init",  # the folder may move
    "train.device",
    "train.threads",
    "train.log_every",
    "train.checkpoint_every",
)
FREE_KEYS = (*FREE_DATA_KEYS, *FREE_TRAIN_KEYS)

MEMORY = "overrides.yaml"  # of the command that made the run; written first, it marks a run folder
SETTINGS = "config.yaml"  # what they composed to


def conf_dir() -> Path:
    """conf/ lies inside the installed package, or beside it in a checkout."""
    package = Path(nas.__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def compose_config(overrides: Sequence[str], extra_conf: Path | None = None) -> DictConfig:
    """Hydra's composition of conf/ with overrides; `extra_conf` is a folder searched as well."""
    for override in overrides:
        # Hydra's own options could import a package that lies in a stranger's folder.
        ours = re.split(r"[./@]", override_key(override))[0] != "hydra"
        check("an option", ours, "none of Hydra's own", override)
    overrides = list(overrides)
    if extra_conf is not None:
        check_conf(extra_conf)
        overrides.append(f"hydra.searchpath=['file://{extra_conf.resolve()}']")
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            raw = compose("config", overrides)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ValueError(not_composed(error)) from error
    except ValueError as error:  # Hydra's, of a group that is given no name
        raise ValueError(f"{error}, among {' '.join(overrides)}") from error
    resolve(raw)
    return raw


def check_conf(folder: Path) -> None:
    """Raises ValueError for a folder that Hydra could not search, or would pass over in part."""
    check("--conf", folder.is_dir(), "a folder", str(folder))
    plain = not set("'\\$") & set(str(folder.resolve()))
    check("--conf", plain, "a path without quotes, backslashes and dollars", str(folder))
    files = [path.relative_to(folder) for path in folder.glob("*/*.yaml")]
    taken = sorted(str(path) for path in files if (conf_dir() / path).exists())
    check("--conf", not taken, "a folder of files whose names conf/ does not have", taken)


def resolve(raw: DictConfig) -> None:
    """Puts in the values of interpolations, which may name other keys but call nothing.

    `${oc.env:TOKEN}` in a stranger's run folder would write a secret into config.yaml. What is
    still an interpolation afterwards was escaped, and whoever reads it next would resolve it.
    """
    rule = "a value, or an interpolation of another key"
    before = dict(texts(OmegaConf.to_container(raw)))
    for key, text in before.items():
        check(key, not re.search(r"\$\{.*:", text, re.DOTALL), rule, text)
    try:
        OmegaConf.resolve(raw)
    except OmegaConfBaseException as error:
        found = {key: text for key, text in before.items() if "${" in text}
        raise ValueError(f"{error}, among {found}") from error
    for key, text in texts(OmegaConf.to_container(raw)):
        check(key, "${" not in text, rule, before.get(key, text))


def texts(node: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a configuration, with its dotted key."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from texts(value, f"{key}[{index}]")


def open_run(
    overrides: Sequence[str], extra_conf: Path | None = None, *, create: bool
) -> tuple[Config, Path]:
    """The configuration of a command and its run folder, which is made if `create`.

    A folder without results is not bound to its configuration yet: a command that failed at once
    can be put right by another one, which inherits its options.
    """
    run = find_run(overrides, extra_conf)
    # Looked at before its marker, which another rank of a training may be writing just now.
    is_taken = run.exists() and (not run.is_dir() or bool(contents(run)))
    is_run = (run / MEMORY).is_file()
    if not is_run and not create:
        raise ValueError(f"run must be a folder that nas train or nas measure made, got {run}")
    if not is_run and is_taken:
        raise ValueError(f"run must be a run folder, an empty or a new one, got {run}")
    remembered, conf = memory_of(run) if is_run else ([], None)
    is_settled = is_run and bool(contents(run) - {MEMORY, SETTINGS})
    settings = read_settings(run) if is_settled else {}
    overrides, extra_conf = merge_overrides(remembered, overrides), extra_conf or conf
    raw = compose_config(overrides, extra_conf)
    raw.run = str(run)
    config = parse(raw)
    if config.archs:  # a plan is measured without a run
        return config, run
    if is_settled:
        refuse_changes(run, settings, raw)
    elif create:
        run.mkdir(parents=True, exist_ok=True)
        path = str(extra_conf.resolve()) if extra_conf else ""
        write_atomic(run / MEMORY, OmegaConf.to_yaml({"conf": path, "overrides": overrides}))
        write_atomic(run / SETTINGS, OmegaConf.to_yaml(raw))
    return config, run


def find_run(overrides: Sequence[str], extra_conf: Path | None) -> Path:
    """The folder that a command names, without what only the folder's own memory can complete."""
    named = [override for override in overrides if override_key(override) == "run"]
    if named and "${" not in named[-1]:
        try:
            value = OverridesParser.create().parse_override(named[-1]).value()
        except HydraException as error:
            raise ValueError(not_composed(error)) from error
    else:
        value = compose_config(merge_overrides([], overrides), extra_conf).run
    rule = "the name of a folder, in quotes if it reads as a number"
    check("run", isinstance(value, str) and value != "", rule, value)
    return Path(str(value))


def contents(run: Path) -> set[str]:
    """The names in a folder, but for what a killed process has left half written in a new one."""
    torn = re.compile(r"\.(overrides|config)\.[0-9a-f]+\.yaml")
    return {path.name for path in run.iterdir() if not torn.fullmatch(path.name)}


def memory_of(run: Path) -> tuple[list[str], Path | None]:
    """What `read_memory` reads, in the names of this version."""
    remembered, conf = read_memory(run / MEMORY)
    if not contents(run) - {MEMORY, SETTINGS}:
        return remembered, conf
    before = load_mapping(run / SETTINGS)
    return renewed_overrides(remembered, before, renewed_settings(before)), conf


def read_memory(path: Path) -> tuple[list[str], Path | None]:
    """The overrides and the folder of own groups of the command that made a run."""
    memory = load_mapping(path)
    overrides, conf = memory.get("overrides"), memory.get("conf")
    if not isinstance(conf, str) or not isinstance(overrides, list):
        raise ValueError(f"{path} must hold the text conf and a list of overrides, got {memory}")
    return [str(override) for override in overrides], Path(conf) if conf else None


def read_settings(run: Path) -> dict[str, Any]:
    """What a run was made with, in the names of this version; ValueError if it is damaged."""
    return renewed_settings(load_mapping(run / SETTINGS))


def load_mapping(path: Path) -> dict[str, Any]:
    """A YAML file of a run folder, interpolations as they are; ValueError if it is damaged."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} must be YAML, got: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping, got {content!r}")
    return cast(dict[str, Any], content)


def merge_overrides(earlier: Sequence[str], later: Sequence[str]) -> list[str]:
    """Both lists, of overrides of the same key only the last."""
    both = [*earlier, *later]
    last = {override_key(override): index for index, override in enumerate(both)}
    return [
        override for index, override in enumerate(both) if last[override_key(override)] == index
    ]


def override_key(override: str) -> str:
    return re.sub(r"[+~\s]", "", override.split("=")[0])


def refuse_changes(run: Path, before: Mapping[str, object], after: DictConfig) -> None:
    """Raises ValueError that names each training key in which two configurations differ."""
    old, new = dict(flatten(before)), dict(flatten(OmegaConf.to_container(after)))
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


def flatten(node: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys with their values; a list is one value."""
    if not isinstance(node, Mapping):
        yield key, node
        return
    for name, value in node.items():
        yield from flatten(value, f"{key}.{name}" if key else str(name))


def code_version() -> str:
    """The commit of this code, with + if its files were changed; its release if installed."""
    checkout = Path(__file__).resolve().parents[2]
    options = "--always", "--dirty=+", "--abbrev=12", "--exclude=*"
    command = ["git", "-C", str(checkout), "describe", *options]
    if not (checkout / ".git").exists():
        return version("atomweave")
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return found or version("atomweave")
