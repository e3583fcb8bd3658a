"""Where images come from, and which split each belongs to.

An image's *number* counts through all images of the data set. `test` is the data set's own test
split, or is cut from all images; `val` is cut from what is left for training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Generator, Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.functional import to_pil_image

from nas.checks import check
from nas.config.sections import DataConfig
from nas.data.cluttered_digits import COUNTS, SIDE, cluttered
from nas.data.image_targets import read_targets

Split = Literal["train", "val", "test"]

MODES = {1: "L", 3: "RGB"}  # Pillow's mode for each number of channels


class UnreadableImage(ValueError):
    """An image file that cannot be decoded."""


@dataclass(frozen=True, eq=False)
class Source:
    """All images of a data set, and the numbers of those of each split."""

    read: Callable[[int], Image.Image]  # raises UnreadableImage
    targets: Tensor  # (n,) int64 of classes, or (n, T) float32
    names: tuple[str, ...]  # of the classes, or of the T columns
    splits: dict[Split, Tensor]  # int64, ascending
    pixels: Tensor | None = None  # (n, C, H, W) uint8, where all images are in memory anyway


def open_source(config: DataConfig, generator: Generator) -> Source:
    """Opens the data set; `generator` draws the splits.

    Raises ValueError for data that do not fit the configuration.
    """
    channels = tuple(MODES)
    check("data.in_chans", config.in_chans in channels, f"one of {channels}", config.in_chans)
    folder = open_listed if config.targets else open_folder
    openers = {
        "digits": open_digits,
        "cluttered_digits": open_cluttered,
        "image_folder": folder,
    }
    return openers.get(config.name, open_cifar)(config, generator)


def open_digits(config: DataConfig, generator: Generator) -> Source:
    """Scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels with values 0..16."""
    check("data.img_size", config.img_size == 8, "8 for digits", config.img_size)
    check("data.in_chans", config.in_chans == 1, "1 for digits", config.in_chans)
    check("data.num_classes", config.num_classes == 10, "10 for digits", config.num_classes)
    digits = load_digits()
    pixels = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    targets = torch.from_numpy(digits.target).long()
    names = tuple(str(digit) for digit in range(10))
    splits = make_splits(config, by_class(targets, names), generator)
    return Source(partial(read_pixels, pixels, "L"), targets, names, splits, pixels)


def open_cluttered(config: DataConfig, generator: Generator) -> Source:
    """Images of 24x24 pixels made of scikit-learn's digits; no scan is in two splits."""
    facts = {"img_size": SIDE, "in_chans": 1, "num_classes": 10}
    for key, value in facts.items():
        check(
            f"data.{key}",
            getattr(config, key) == value,
            f"{value} for cluttered_digits",
            getattr(config, key),
        )
    digits = load_digits()
    scans = torch.from_numpy(digits.images * (255 / 16))
    classes, names = torch.from_numpy(digits.target).long(), tuple(map(str, range(10)))
    parts = make_splits(config, by_class(classes, names), generator)
    pixels, targets, splits, begin = [], [], {}, 0
    for split, numbers in parts.items():
        images, chosen = cluttered(scans[numbers], generator, COUNTS[split])
        pixels.append(images)
        targets.append(classes[numbers][chosen])
        splits[split] = torch.arange(begin, begin + len(images))
        begin += len(images)
    images = torch.cat(pixels)
    return Source(partial(read_pixels, images, "L"), torch.cat(targets), names, splits, images)


def open_cifar(config: DataConfig, generator: Generator) -> Source:
    """Torchvision's CIFAR-10 or CIFAR-100, downloaded into `data.root` where absent."""
    dataset, num_classes = {"cifar10": (CIFAR10, 10), "cifar100": (CIFAR100, 100)}[config.name]
    rule = f"{num_classes} for {config.name}"
    check("data.num_classes", config.num_classes == num_classes, rule, config.num_classes)
    try:
        train, test = (dataset(config.root, train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"data.root must be a folder with {config.name}, or one that it can be downloaded "
            f"into, got {config.root!r}: {error}"
        ) from error
    pixels = torch.from_numpy(np.concatenate([train.data, test.data])).permute(0, 3, 1, 2)
    targets = torch.tensor(train.targets + test.targets)
    names, num_own = tuple(train.classes), len(train)
    classes = by_class(targets[:num_own], names)
    splits = make_splits(config, classes, generator, torch.arange(num_own, len(targets)))
    read = partial(read_pixels, pixels, MODES[config.in_chans])
    return Source(read, targets, names, splits, pixels)


def open_folder(config: DataConfig, generator: Generator) -> Source:
    """A folder of images: root/train/<class>, with or without root/test, or root/<class>.

    ImageNet's layout has `val` in the place of `test`: its validation images are our test split,
    and our val split is cut from train, as always.
    """
    train, test = list_folder(Path(config.root))
    rule = f"{len(train)}, the number of class folders in data.root"
    check("data.num_classes", config.num_classes == len(train), rule, config.num_classes)
    paths, labels = [], []
    for part in (train, test):
        for label, files in enumerate(part.values()):
            paths += files
            labels += [label] * len(files)
    targets = torch.tensor(labels)
    num_own, names = sum(map(len, train.values())), tuple(train)
    classes = by_class(targets[:num_own], names)
    splits = make_splits(config, classes, generator, torch.arange(num_own, len(paths)))
    return Source(partial(read_file, paths, MODES[config.in_chans]), targets, names, splits)


def open_listed(config: DataConfig, generator: Generator) -> Source:
    """The images that `data.targets` lists, with the numbers that it gives."""
    rows = read_targets(config)
    targets = torch.tensor([row.values for row in rows], dtype=torch.float32)  # (n, T)
    tests = torch.tensor([row.is_test for row in rows], dtype=torch.bool)
    own = {"listed in data.targets for training": (~tests).nonzero()[:, 0]}
    splits = make_splits(config, own, generator, tests.nonzero()[:, 0])
    read = partial(read_file, [row.path for row in rows], MODES[config.in_chans])
    return Source(read, targets, tuple(config.columns), splits)


Classes = dict[str, list[str]]  # the image files of each class


def list_folder(root: Path) -> tuple[Classes, Classes]:
    """The classes of train and of test, the latter empty where root has no test split."""
    train_root = root / "train" if (root / "train").is_dir() else root
    tests = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if len(tests) > 1 or (tests and train_root == root):
        found = [path.name for path in tests]
        raise ValueError(
            f"data.root must have a train folder beside test or val and not both of these, "
            f"since val is cut from train; {str(root)!r} has {found}"
        )
    train = list_classes(train_root)
    test = list_classes(tests[0]) if tests else {}
    if test and test.keys() != train.keys():
        odd = sorted(test.keys() ^ train.keys())
        raise ValueError(f"data.root must have the same classes in train and test, not so: {odd}")
    return train, test


def list_classes(root: Path) -> Classes:
    """The image files of each class folder, both sorted by name; hidden names are left out."""
    check("data.root", root.is_dir(), "a folder with one folder a class", str(root))
    names = (path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    classes = {name: list_images(root / name) for name in sorted(names)}
    check("data.root", len(classes) > 0, "a folder with one folder a class", str(root))
    return classes


def list_images(folder: Path) -> list[str]:
    files = sorted(
        str(path)
        for path in folder.rglob("*")
        if path.suffix.lower() in IMG_EXTENSIONS and path.name[0] != "."
    )
    if not files:
        raise ValueError(f"data.root must have images in every class folder, none in {folder}")
    return files


def read_pixels(pixels: Tensor, mode: str, number: int) -> Image.Image:
    return to_pil_image(pixels[number]).convert(mode)


def read_file(paths: list[str], mode: str, number: int) -> Image.Image:
    try:
        with Image.open(paths[number]) as image:
            # Pillow clips these to 255 instead of scaling them.
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits a channel (mode {image.mode})")
            return image.convert(mode)
    except Exception as error:  # decoders raise many kinds, most of them without the path
        raise UnreadableImage(f"data.root: cannot read image {paths[number]}: {error}") from error


def by_class(targets: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The numbers of each class's images."""
    return {
        f"of class {name!r}": (targets == label).nonzero()[:, 0] for label, name in enumerate(names)
    }


def make_splits(
    config: DataConfig, groups: dict[str, Tensor], generator: Generator, test: Tensor | None = None
) -> dict[Split, Tensor]:
    """The numbers of each split's images, cut in proportion from every group.

    `test` has those of the data set's own test split; where it has none, one is cut.
    """
    if test is None or len(test) == 0:
        groups, test = cut(groups, config.test_fraction, generator, keep=2)
    groups, val = cut(groups, config.val_fraction, generator, keep=1)
    return {"train": torch.cat(list(groups.values())).sort().values, "val": val, "test": test}


def cut(
    groups: dict[str, Tensor], fraction: float, generator: Generator, *, keep: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Draws a fraction of each group: what is left of each, and all that was drawn, ascending.

    At least one image of a group is drawn, and at least `keep` are left for later splits.
    """
    rest, drawn = {}, []
    for name, numbers in groups.items():
        rule = f"a folder with at least {keep + 1} images {name} to cut a split from"
        check("data.root", len(numbers) > keep, rule, len(numbers))
        count = min(max(1, round(fraction * len(numbers))), len(numbers) - keep)
        shuffled = numbers[torch.randperm(len(numbers), generator=generator)]
        drawn.append(shuffled[:count])
        rest[name] = shuffled[count:]
    return rest, torch.cat(drawn).sort().values
