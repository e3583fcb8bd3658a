"""Components: parts of the configuration that name a class, `_target_`, with its arguments.

A run folder may come from a stranger, so looking at a component must not run code: only classes of
a few packages may be named, and importing waits until the package is known to be one of them.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from nas.checks import check
from search_spaces.space import Arch, Space
from supernet.supernet import Supernet

# The package of each component, by the first part of its key, and of the class that a key names.
PACKAGES = {
    "space": "search_spaces",
    "space.supernet": "supernet",
    "task": "supernet",
    "source": "supernet",
    "paths": "supernet",
    "examples": "supernet",
    "distillation": "supernet",
    "search": "optuna.samplers",
}
# Hydra's other special names, `_args_` and `_recursive_` among them, would pass by the checks.
SPECIAL = ("_target_", "_partial_")
PLAIN_TYPES = {"bool": bool, "int": int, "float": float | int, "str": str}


def build_space(node: object) -> tuple[Space[Arch], type[Supernet[Arch]]]:
    """The space that a node describes, and the class of its weights; ValueError names the key."""
    if not isinstance(node, Mapping):
        raise ValueError(f"space must be a mapping with a _target_, got {node!r}")
    space = build({name: value for name, value in node.items() if name != "supernet"}, "space")
    supernet = find_class(node.get("supernet"), "space.supernet")
    check("space", hasattr(space, "choices"), "a search space", space)
    known = issubclass(supernet, Supernet) and not inspect.isabstract(supernet)
    check("space.supernet", known, "a family of supernets", node["supernet"])
    return cast(Space[Arch], space), supernet


def build(node: object, key: str, **arguments: object) -> Any:
    """The object that a node describes, given further arguments; ValueError names the key."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ValueError(f"{key} must be a mapping with a _target_, got {node!r}")
    check_component(node, key)
    for name in arguments.keys() & node.keys():
        raise ValueError(f"{key}.{name} must be left out, since the run sets it, got {node[name]}")
    try:
        if not arguments:
            return instantiate(node, _convert_="all")
        # Arguments that are dataclasses would be turned into dictionaries by Hydra.
        return instantiate(node, _convert_="all", _partial_=True)(**arguments)
    except InstantiationException as error:
        raise ValueError(complaint(error.__cause__ or error, node, key)) from error
    except (TypeError, ValueError) as error:
        raise ValueError(complaint(error, node, key)) from error


def complaint(error: BaseException, node: Mapping[str, object], key: str) -> str:
    """The message of a class about its arguments, with the key in front."""
    message = str(error)
    first = message.split(" ", 1)[0]
    if first.split(".")[0] in (*PACKAGES, "data"):  # a task takes its sizes from the data
        return message
    inner = find_argument(node, first)
    return f"{key}.{inner}{message.removeprefix(first)}" if inner else f"{key}: {message}"


def find_argument(node: Mapping[str, object], name: str) -> str:
    """Where an argument stands in a component or in one within it; empty if it does not."""
    if name in node:
        return name
    parts = {part: value for part, value in node.items() if isinstance(value, Mapping)}
    found = {part: find_argument(value, name) for part, value in parts.items()}
    return next((f"{part}.{inner}" for part, inner in found.items() if inner), "")


def check_component(node: object, key: str) -> None:
    """Raises ValueError for what a component may not hold, at any depth."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            check_arguments(node, key)
        for name, value in node.items():
            check_component(value, f"{key}.{name}")
    elif isinstance(node, str):
        if "${" in node:  # Hydra would work it out after this check
            raise ValueError(f"{key} must be a plain value, got {node!r}")
    elif isinstance(node, Sequence):
        for index, value in enumerate(node):
            check_component(value, f"{key}[{index}]")


def check_arguments(node: Mapping[str, object], key: str) -> None:
    """Raises ValueError for an argument that the class does not have, or of another type."""
    found = find_class(node["_target_"], f"{key}._target_")
    parameters = inspect.signature(found).parameters
    for name, value in node.items():
        if name in SPECIAL:
            continue
        if name not in parameters:
            raise ValueError(
                f"{key}.{name} must be an argument of {found.__name__} "
                f"({', '.join(parameters) or 'which has none'}), got {value!r}"
            )
        annotation = inspect.formatannotation(parameters[name].annotation).strip("'")
        if not fits(value, annotation):
            raise ValueError(f"{key}.{name} must be of type {annotation}, got {value!r}")


def fits(value: object, annotation: str) -> bool:
    """Whether a value is of a plain type; every other annotation is left to the class."""
    if isinstance(value, bool):
        return annotation not in ("int", "float", "str")
    return isinstance(value, PLAIN_TYPES.get(annotation, object))


def find_class(target: object, key: str) -> type:
    """The class that a text names; ValueError if it is not one of the component's package."""
    package = f"{PACKAGES.get(key) or PACKAGES[key.split('.')[0]]}."
    refusal = f"{key} must be a class of {package[:-1]}, got {target!r}"
    if not isinstance(target, str) or not target.startswith(package):
        raise ValueError(refusal)
    try:
        found = get_object(target)
    except (ImportError, ValueError) as error:
        raise ValueError(refusal) from error
    # A module also reaches what it imports, so the class must be defined in the package itself.
    if not isinstance(found, type) or not f"{found.__module__}.".startswith(package):
        raise ValueError(refusal)
    return found
