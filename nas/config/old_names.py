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
    for key, value in {"init": "", "update": "step"}.items():
        train.setdefault(key, value)
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
    space = now.get("space")
    if "task" in now and "task" not in before and isinstance(space, Mapping):
        added = {key: space[key] for key in ("supernet", "patch_size") if key in space}
        # The size of patches came with the data, and a space of the user's own has neither.
        renewed += [f"++space.{key}={value}" for key, value in added.items()]
    return renewed


def renewed_classes(node: object) -> object:
    """A copy with the classes' names of now."""
    if isinstance(node, Mapping):
        return {key: renewed_classes(value) for key, value in node.items()}
    if isinstance(node, list):
        return [renewed_classes(value) for value in node]
    if str(node).endswith(".candidate_paths.CandidatePaths"):
        check("paths", False, "one that is still here: candidates was deleted", node)
    return CLASSES.get(node, node) if isinstance(node, str) else node
