"""What a supernet says of an architecture: its accuracy on val with the shared weights."""

import torch
from torch import Generator, nn

from nas.config.config import Config
from nas.config.sections import RankConfig
from nas.data.batches import ImageData, load
from nas.evaluate import Accuracy, calibrated, evaluate
from supernet.losses import cross_entropy
from supernet.supernet import Supernet

ORDER_SEED = 0  # of the val images in batches whose statistics are used


def load_unmixed(config: Config, device: torch.device) -> ImageData:
    """The run's data without mixup and cutmix, whose images would shift the statistics of norms."""
    return load(config.data, seed=config.seed, device=device).unmixed()


def score(settings: RankConfig, supernet: Supernet, arch: object, data: ImageData) -> Accuracy:
    """Accuracy on val, with the statistics of batch norms that `rank.batch_norm` asks for.

    The supernet must be on the data's device; it is put into eval mode.
    """
    if settings.batch_norm == "batch":
        return evaluate_within(supernet, arch, data, batch_size=settings.batch_size)
    device = next(supernet.parameters()).device
    model = supernet.extract(arch).to(device)
    calibrate_norms(
        model,
        data,
        batch_size=settings.batch_size,
        num_batches=settings.calibration,
        seed=settings.seed,
    )
    return evaluate(model, data, "val", batch_size=settings.batch_size)


@torch.inference_mode()
def evaluate_within(
    supernet: Supernet, arch: object, data: ImageData, *, batch_size: int
) -> Accuracy:
    """Accuracy on val of a subnet that is not extracted, whose batch norms thus use each batch.

    Batches are equal, of at most `batch_size` images, since statistics depend on their size; the
    few images at the end that fill none are left out. They are in a random order, the same for
    every subnet: folders of images are sorted by class, and statistics of few classes fit no batch
    of training.
    """
    supernet.eval()
    count = data.num_examples("val")
    size = equal_size(count, batch_size)
    order = torch.randperm(count, generator=Generator().manual_seed(ORDER_SEED))
    hits, loss, seen = 0, 0.0, 0
    for batch in data.eval_batches("val", size, order=order):
        if len(batch.targets) == size:
            logits = supernet(batch.images, arch)
            hits += int((logits.argmax(1) == batch.targets).sum())
            loss += float(cross_entropy(logits, batch.targets).sum())
            seen += size
    return Accuracy("val", hits / seen, loss / seen, seen)


def scoring_batch_size(settings: RankConfig, data: ImageData) -> int:
    """The images of a val batch, by which batch statistics, where they are used, are taken."""
    if settings.batch_norm == "batch":
        return equal_size(data.num_examples("val"), settings.batch_size)
    return settings.batch_size


def equal_size(count: int, largest: int) -> int:
    """The size of as few equal batches as hold `count` images, but for fewer than one a batch."""
    return count // -(-count // largest)


def calibrate_norms(
    model: nn.Module, data: ImageData, *, batch_size: int, num_batches: int, seed: int
) -> None:
    """Estimates batch norms' statistics on augmented training images, the same for every model."""
    size = min(batch_size, data.num_train)
    calibrated(model, data, size, num_images=num_batches * size, seed=seed)
