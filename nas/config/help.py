"""The options of each stage as text, read from conf/: names, defaults, and what they mean."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from nas.config.run_folder import conf_dir

LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#]*?))? *(?:# (?P<meaning>.*))?$")


def describe_options(keys: Sequence[str], groups: Sequence[str]) -> str:
    """`keys` are top-level keys of config.yaml, `groups` folders of conf/."""
    rows = [
        (f"{name}={value}", meaning)
        for name, value, meaning in yaml_rows(conf_dir() / "config.yaml")
        if name.split(".")[0] in keys
    ]
    parts = [f"options, with their defaults (key=value):\n{aligned(rows)}"]
    for group in groups:
        parts.append(describe_group(conf_dir() / group, default_of(group)))
    return "\n\n".join(parts)


def describe_group(folder: Path, default: str) -> str:
    """Each file of a group with its first comment, then the options of the default one."""
    files = sorted(folder.glob("*.yaml"))
    names = [(f"{folder.name}={path.stem}", first_comment(path)) for path in files]
    text = f"{folder.name} (default {default or 'none'}):\n{aligned(names)}"
    if not default or folder.name == "source":  # whole trees, which are picked, not edited
        return text
    rows = [
        (f"{folder.name}.{name}={value}", meaning)
        for name, (value, meaning) in file_options(folder / f"{default}.yaml").items()
        if not name.endswith(("_target_", "_partial_"))
    ]
    return f"{text}\n  options of {folder.name}={default}:\n{aligned(rows)}"


def default_of(group: str) -> str:
    """The file that config.yaml picks of a group, empty for none."""
    text = (conf_dir() / "config.yaml").read_text()
    found = re.search(rf"^  - {group}: (\w+)$", text, re.MULTILINE)
    return found[1] if found and found[1] != "null" else ""


def first_comment(path: Path) -> str:
    """The first sentence of a file."""
    lines = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")]
    lines = [line for line in lines if not line.startswith("@package")]
    return re.split(r"(?<=[.?]) ", " ".join(lines))[0].rstrip(".")


def file_options(path: Path) -> dict[str, tuple[str, str]]:
    """Value and comment of each dotted name, with those of the files that `defaults` names."""
    options: dict[str, tuple[str, str]] = {}
    found = re.search(r"^defaults: \[(.*)\]$", path.read_text(), re.MULTILINE)
    for item in found[1].split(", ") if found else ():
        name, _, package = item.partition("@")
        inherited = file_options(path.with_name(f"{name}.yaml"))
        options |= {f"{package}.{n}".lstrip("."): row for n, row in inherited.items()}
    for name, value, meaning in yaml_rows(path):
        options[name] = value, meaning or options.get(name, ("", ""))[1]
    return options


def yaml_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """(dotted name, value, comment) of each line that sets a value."""
    parents: list[str] = []
    for line in path.read_text().splitlines():
        found = LINE.match(line)
        if not found or found["key"] == "defaults":
            continue
        parents = parents[: len(found["indent"]) // 2]
        name = ".".join([*parents, found["key"]])
        if found["value"]:
            yield name, found["value"], found["meaning"] or ""
        else:
            parents.append(found["key"])


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    width = max((len(left) for left, _ in rows), default=0)
    return "\n".join(f"  {left:{width}}  {right}".rstrip() for left, right in rows)
