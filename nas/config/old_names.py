"""Run folders of earlier versions: what they call by other names than we do now.

Overrides and settings are brought up to date as they are read; nothing is written.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy

from nas.checks import check

MOVED = {  # classes: the module that each was in, and is in
    "Atoms": ("supernet.sources", "supernet.sources.atoms"),
    "Factors": ("supernet.sources", "supernet.sources.low_rank"),
    "FactorisedPaths": ("supernet.path_importance", "supernet.sampling.path_importance"),
    "Free": ("supernet.sources", "supernet.sources.atoms"),
    "ImportanceData": ("supernet.data_importance", "supernet.sampling.example_importance"),
    "InPlaceDistillation": ("supernet.distillation", "supernet.losses"),
    "Labels": ("supernet.distillation", "supernet.losses"),
    "OneHot": ("supernet.sources", "supernet.sources.atoms"),
    "PublishedData": ("supernet.published", "supernet.sampling.published"),
    "PublishedPaths": ("supernet.published", "supernet.sampling.published"),
    "SandwichPaths": ("supernet.sampling", "supernet.sampling.paths"),
    "Sum": ("supernet.sources", "supernet.sources.source"),
    "UniformData": ("supernet.sampling", "supernet.sampling.examples"),
    "UniformPaths": ("supernet.sampling", "supernet.sampling.paths"),
}
CLASSES = {f"{before}.{name}": f"{now}.{name}" for name, (before, now) in MOVED.items()}
CLASS = re.compile(rf"\b({'|'.join(map(re.escape, CLASSES))})\b")
SUPERNETS = {  # spaces did not name theirs
    "search_spaces.vit.ViTSpace": "supernet.families.vit.ViTSupernet",
    "search_spaces.cell.CellSpace": "supernet.families.cell.CellSupernet",
}
OVERRIDES = (
    (CLASS, lambda found: CLASSES[found[1]]),
    (re.compile(r"^([+\s]*)train\.label_smoothing *="), r"\1task.label_smoothing="),
    (re.compile(r"^([+\s]*rank\.score *= *)top1\b"), r"\1metric"),
)
GONE = re.compile(
    r"^[+~\s]*(data\.patch_size|target\.img_size|train\.(schedule|momentum_choice)|"
    r"search\.predictor)\b"
)


def renewed_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """A config.yaml of any version with the names of this one, and the keys that it lacks."""
    found: dict[str, object] = renewed_classes(settings)  # type: ignore[assignment]
    space, data, train, target = (found.get(key) for key in ("space", "data", "train", "target"))
    if not (isinstance(space, dict) and isinstance(data, dict) and isinstance(train, dict)):
        return found
    for part, values in as_before(settings).items():
        found[part] |= values  # type: ignore[operator]
    if "patch_size" not in data or "label_smoothing" not in train:
        return found
    patch_size, smoothing = data.pop("patch_size"), train.pop("label_smoothing")
    for key, unused in {"schedule": "cosine", "momentum_choice": ""}.items():
        rule = f"{unused!r}: this version trains in no other way"
        check(f"train.{key}", train.pop(key, unused) == unused, rule, "another in the run folder")
    space["supernet"] = SUPERNETS.get(space.get("_target_", ""))
    if "embed_dim" in space:  # cells have no patches
        space["patch_size"] = patch_size
    keys = ("num_classes", "in_chans", "img_size", "mean", "std")
    task = {key: deepcopy(data.get(key)) for key in keys}
    found["task"] = {
        "_target_": "supernet.image_tasks.Classification",
        **task,
        "label_smoothing": smoothing,
    }
    data |= {"targets": "", "columns": []}
    if isinstance(target, dict):
        target.pop("img_size", None)
    return found


def renewed_overrides(
    overrides: Sequence[str], before: Mapping[str, object], now: Mapping[str, object]
) -> list[str]:
    """The overrides that made a run, whose settings were `before` and are called `now`."""
    renewed = []
    for override in overrides:
        if GONE.match(override):
            continue
        text = override
        for pattern, replacement in OVERRIDES:
            text = pattern.sub(replacement, text)
        renewed.append(text)
    added = as_before(before)
    renewed += [f"++{part}.{key}={v}" for part in added for key, v in added[part].items()]
    space = now.get("space")
    if "task" in now and "task" not in before and isinstance(space, Mapping):
        found = {key: space[key] for key in ("supernet", "patch_size") if key in space}
        # The size of patches came with the data, and a space of the user's own has neither.
        renewed += [f"++space.{key}={value}" for key, value in found.items()]
    return renewed


def as_before(settings: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """What a run without these options did, which is not their default of now; by part."""
    parts: dict[str, dict[str, object]] = {
        "train": {"init": "", "update": "step", "batches": "shared"}
    }
    paths = settings.get("paths")
    if isinstance(paths, Mapping) and str(paths.get("_target_")).endswith(".SandwichPaths"):
        parts["paths"] = {"largest_first": 0.0}
    added = {}
    for part, values in parts.items():
        known = settings.get(part)
        if isinstance(known, Mapping):
            added[part] = {key: value for key, value in values.items() if key not in known}
    return added


def renewed_classes(node: object) -> object:
    """A copy with the classes' names of now."""
    if isinstance(node, Mapping):
        return {key: renewed_classes(value) for key, value in node.items()}
    if isinstance(node, list):
        return [renewed_classes(value) for value in node]
    if str(node).endswith(".candidate_paths.CandidatePaths"):
        check("paths", False, "one that is still here: candidates was deleted", node)
    return CLASSES.get(node, node) if isinstance(node, str) else node
