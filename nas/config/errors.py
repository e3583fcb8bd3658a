"""What to tell the user of options that Hydra or OmegaConf refuses: key, rule and what came."""

from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

# Lines of Hydra's that lead away: to a page about its grammar, and to an option that we have not.
NOISE = ("See https://", "3. To sweep over it")


def not_composed(error: Exception) -> str:
    """Of what `hydra.compose` raised."""
    if isinstance(error.__cause__, ConfigAttributeError | ConfigKeyError):
        return unknown_key(error.__cause__, addable=True)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(NOISE)] or [type(error).__name__]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group} must be one of {', '.join(error.options or [])}, got {name!r}"
    if isinstance(error, OverrideParseException):
        rule = "key=value, with quotes round a value of special characters (key='~/x')"
        reason = "" if lines[-1].startswith("^") else f": {lines[-1]}"
        return f"an option must be {rule}, got {error.override!r}{reason}"
    return "; ".join(lines)


def unknown_key(error: OmegaConfBaseException, *, addable: bool = False) -> str:
    """Of a key that does not exist: the nearest ones that do; `addable` tells how to add it."""
    key = str(error.full_key)
    parent, _, name = key.rpartition(".")
    node = error.parent_node
    names = [str(other) for other in node] if isinstance(node, DictConfig) else []
    known = [other for other in names if other != "hydra"]  # whose options are not ours
    nearest = get_close_matches(name, known)
    options = ", ".join(nearest or known) or "it has none"
    addition = f"; +{key}=... adds one" if addable and not nearest else ""
    where = f"an option of {parent}" if parent else "an option"
    return f"{key} must be {where} ({options}{addition}), got {name!r}"


def wrong_type(error: OmegaConfBaseException, raw: DictConfig, schema: type) -> str:
    """Of a value that does not fit its field of `schema`, or is missing."""
    if not error.full_key:
        return str(error).splitlines()[0]
    key = str(error.full_key).partition("[")[0]
    kind: Any = schema
    for name in key.split("."):
        if is_dataclass(kind):
            kind = next(field.type for field in fields(kind) if field.name == name)
        elif get_origin(kind) is dict:
            _, kind = get_args(kind)
    key = key.removesuffix("_")  # of a reserved word
    value = OmegaConf.select(raw, key)
    if value is None and kind is Any:
        return f"{key} must be given"
    rule = f"of type {kind.__name__ if isinstance(kind, type) else kind}"
    return f"{key} must be {'a mapping' if is_dataclass(kind) else rule}, got {value!r}"
