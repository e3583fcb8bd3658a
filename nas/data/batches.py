"""Batches of normalised images on a device: held there (resident) or read as they come (stream).

Letters: B batch, C channels, H height, W width, n images. An image's *position* counts through one
split, its *number* through all images of the data set.
"""

import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.utils.data
from timm.data.mixup import Mixup
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from nas.checks import check
from nas.config.sections import DataConfig
from nas.data.augmentation import (
    Transform,
    eval_transform,
    flip,
    make_mixup,
    normalize,
    train_transform,
    translate,
)
from nas.data.images import Source, Split, UnreadableImage, open_source
from nas.seeds import derive_seed, seeded
from supernet.task import Batch, Task

__all__ = ["Dataset", "Split", "load"]

# What a seed is used for; each use has a stream of its own.
SPLITS, EXAMPLES, AUGMENTATION, MIXUP = range(4)


@dataclass(frozen=True, eq=False)
class Dataset(ABC):
    """A data set as batches on the device.

    Inputs are images (B, C, H, W) float32, normalised. Targets are classes (B,) int64, in training
    with mixup or cutmix probabilities (B, num_classes), or numbers (B, T) float32.
    """

    task: Task  # what is learned, fitted to the targets of the train split
    config: DataConfig
    source: Source
    mixup: Mixup | None

    @property
    def num_train(self) -> int:
        """Examples of the train split."""
        return self.num_examples("train")

    def num_examples(self, split: Split) -> int:
        return len(self.source.splits[split])

    def unmixed(self) -> Self:
        """The same without mixup and cutmix, whose images would shift the statistics of norms."""
        return replace(self, mixup=None)

    def mix(self, images: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Images, changed in place, and targets after mixup or cutmix."""
        if self.mixup is None:
            return images, targets
        with seeded(seed):
            mixed: tuple[Tensor, Tensor] = self.mixup(images, targets)
        return mixed

    @abstractmethod
    def train_batches(
        self, indices: Tensor, *, batch_size: int, seed: int, start: int = 0
    ) -> Iterator[Batch]:
        """Augmented batches of the train split, from batch number `start` on.

        `indices` (n,) int64 are positions within the split in the order of training, repeats
        allowed; those at the end that fill no batch are dropped. A batch depends on `indices`,
        `seed` and its number alone, so give each epoch a seed of its own.
        """

    @abstractmethod
    def eval_batches(
        self, split: Split, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[Batch]:
        """Every example of a split once, not augmented; the last batch may be smaller.

        They follow each other by number, so often by class, or as positions in `order` (n,) do.
        """


def load(config: DataConfig, task: Task, *, seed: int, device: torch.device) -> Dataset:
    """Opens the data set that is asked for; its splits depend on `seed` alone.

    Raises ValueError for data that do not fit the configuration and for settings that have no
    effect with the loader.
    """
    source = open_source(config, Generator().manual_seed(derive_seed(seed, SPLITS, 0)))
    mixup = make_mixup(config, task)
    task = task.fitted(source.targets[source.splits["train"]], source.names)
    if is_resident(config, len(source.targets)):
        rule = "empty with the resident loader (see data.loader, data.resident_mib)"
        check("data.auto_augment", not config.auto_augment, rule, config.auto_augment)
        rule = f"less than data.img_size ({config.img_size})"
        check("data.shift", config.shift < config.img_size, rule, config.shift)
        return Resident(task, config, source, mixup, read_all(config, source).to(device))
    rule = "0 with the stream loader (see data.loader, data.resident_mib)"
    check("data.shift", config.shift == 0, rule, config.shift)
    return Stream(task, config, source, mixup, train_transform(config), device)


def is_resident(config: DataConfig, num_images: int) -> bool:
    """Whether a data set of `num_images` is to be held on the device."""
    if config.loader == "auto":
        return num_images * config.in_chans * config.img_size**2 <= config.resident_mib * 2**20
    return config.loader == "resident"


@dataclass(frozen=True, eq=False)
class Resident(Dataset):
    """All images as one tensor on the device, which also augments them."""

    pixels: Tensor  # (n, C, H, W) uint8

    def train_batches(
        self, indices: Tensor, *, batch_size: int, seed: int, start: int = 0
    ) -> Iterator[Batch]:
        check_indices(indices, self.num_train)
        numbers, targets = self.examples("train")
        chunks = torch.split(indices.to(self.pixels.device), batch_size)
        for batch in range(start, len(indices) // batch_size):
            chosen = chunks[batch]
            pixels = self.pixels[numbers[chosen]]
            pixels = self.augment(pixels, derive_seed(seed, AUGMENTATION, batch))
            images = normalize(pixels, self.config)
            images, mixed = self.mix(images, targets[chosen], derive_seed(seed, MIXUP, batch))
            yield Batch((images,), mixed, chosen)

    def eval_batches(
        self, split: Split, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[Batch]:
        numbers, targets = self.examples(split)
        positions = torch.arange(len(numbers)) if order is None else order
        for chosen in torch.split(positions.to(numbers.device), batch_size):
            images = normalize(self.pixels[numbers[chosen]], self.config)
            yield Batch((images,), targets[chosen], chosen)

    def examples(self, split: Split) -> tuple[Tensor, Tensor]:
        """Numbers and targets of a split's images, on the device."""
        numbers = self.source.splits[split]
        device = self.pixels.device
        return numbers.to(device), self.source.targets[numbers].to(device)

    def augment(self, pixels: Tensor, seed: int) -> Tensor:
        generator = Generator(pixels.device).manual_seed(seed)
        if self.config.shift:
            pixels = translate(pixels, self.config.shift, generator)
        return flip(pixels, generator) if self.config.flip else pixels


@dataclass(frozen=True, eq=False)
class Stream(Dataset):
    """Images read and augmented one by one as they are needed, in `data.workers` processes."""

    transform: Transform  # of training
    device: torch.device

    def train_batches(
        self, indices: Tensor, *, batch_size: int, seed: int, start: int = 0
    ) -> Iterator[Batch]:
        check_indices(indices, self.num_train)
        indices = indices[: len(indices) // batch_size * batch_size]
        numbers = self.source.splits["train"][indices.cpu()]
        pairs = self.read(numbers, self.transform, batch_size, seed=seed, start=start)
        chunks = torch.split(indices.to(self.device), batch_size)
        for batch, pair in enumerate(pairs, start):
            images, mixed = self.mix(*pair, derive_seed(seed, MIXUP, batch))
            yield Batch((images,), mixed, chunks[batch])

    def eval_batches(
        self, split: Split, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[Batch]:
        numbers = self.source.splits[split]
        positions = torch.arange(len(numbers)) if order is None else order.cpu()
        pairs = self.read(numbers[positions], eval_transform(self.config), batch_size)
        chunks = torch.split(positions.to(self.device), batch_size)
        for chosen, (images, targets) in zip(chunks, pairs, strict=True):
            yield Batch((images,), targets, chosen)

    def read(
        self,
        numbers: Tensor,
        transform: Transform,
        batch_size: int,
        *,
        seed: int | None = None,
        start: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images and targets on the device."""
        reader = Reader(self.source, numbers, transform, seed)
        pin = self.device.type == "cuda"
        batches = read_batches(
            reader, batch_size, start=start, workers=self.config.workers, pin=pin
        )
        for pixels, targets in batches:
            images = normalize(pixels.to(self.device, non_blocking=True), self.config)
            yield images, targets.to(self.device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Reader(torch.utils.data.Dataset[tuple[Tensor, Tensor] | UnreadableImage]):
    """Reads and transforms the images of `numbers`, a range of places in it at a time.

    What a transform draws depends on the seed and the place alone; without a seed it must draw
    nothing.
    """

    source: Source
    numbers: Tensor
    transform: Transform
    seed: int | None = None

    def __getitem__(self, places: range) -> tuple[Tensor, Tensor] | UnreadableImage:
        """Pixels (B, C, H, W) uint8 and targets (B, ...)."""
        try:
            pixels = torch.stack([self.read(place) for place in places])
        except UnreadableImage as error:
            # Raised in a worker, it would come out as the text of a traceback, and late.
            return error
        return pixels, self.source.targets[self.numbers[places.start : places.stop]]

    def read(self, place: int) -> Tensor:
        number = int(self.numbers[place])
        if self.seed is None:
            return self.transform(self.source.read(number))
        with seeded(derive_seed(self.seed, EXAMPLES, place)):
            return self.transform(self.source.read(number))


def ignore_termination(worker: int) -> None:
    """Leaves SIGTERM, which torchrun sends to all, to the training, which ends its workers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def read_batches(
    reader: Reader, batch_size: int, *, start: int = 0, workers: int, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels (B, C, H, W) uint8 and targets (B, ...), from batch number `start` on."""
    stop = len(reader.numbers)
    firsts = range(start * batch_size, stop, batch_size)
    loader = DataLoader(
        reader,
        batch_size=None,  # the reader makes batches itself
        sampler=[range(first, min(first + batch_size, stop)) for first in firsts],
        num_workers=workers,
        pin_memory=pin,
        generator=Generator(),  # without one it draws from the global generator
        worker_init_fn=ignore_termination,
    )
    for result in loader:
        if isinstance(result, UnreadableImage):
            raise result
        pixels, targets = result
        yield pixels, targets


def read_all(config: DataConfig, source: Source, batch_size: int = 256) -> Tensor:
    """Every image, (n, C, H, W) uint8, read in `data.workers` processes."""
    num_images = len(source.targets)
    size = num_images, config.in_chans, config.img_size, config.img_size
    if source.pixels is not None and source.pixels.shape == size:
        return source.pixels.contiguous()
    pixels = torch.empty(size, dtype=torch.uint8)
    reader = Reader(source, torch.arange(num_images), eval_transform(config))
    batches = read_batches(reader, batch_size, workers=config.workers)
    for part, (images, _) in zip(torch.split(pixels, batch_size), batches, strict=True):
        part.copy_(images)
    return pixels


def check_indices(indices: Tensor, num_train: int) -> None:
    rule = f"an int64 vector of positions below {num_train}"
    check("indices", indices.dtype == torch.int64 and indices.ndim == 1, rule, indices)
    check("indices", bool(((indices >= 0) & (indices < num_train)).all()), rule, indices)
