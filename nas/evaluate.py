"""Accuracy of one plain subnet on one split, and what it takes to have one."""

from dataclasses import dataclass

import torch
from scipy.stats import binomtest
from torch import nn

from nas.data.batches import ImageData, Split
from supernet.batch_norm import batch_norms, calibrate
from supernet.losses import cross_entropy

# Images that estimate the statistics of batch norms, the same few everywhere, and their seed. The
# mean of a channel is then known to about 2 % of its standard deviation, or better.
NUM_CALIBRATION, CALIBRATION_SEED = 2048, 0

ORDER_SEED = 0  # of the images, which lie by class in many data sets
# Of the interval that ends an evaluation early: there are many looks and many subnets.
STOP_CONFIDENCE = 0.999


@dataclass(frozen=True)
class Accuracy:
    """`top1` is the fraction of `num_examples` images of `split` whose class scores highest."""

    split: Split
    top1: float
    loss: float
    num_examples: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Binomial interval of top1 (Wilson, 1927)."""
        hits = round(self.top1 * self.num_examples)
        interval = binomtest(hits, self.num_examples).proportion_ci(confidence, method="wilson")
        return float(interval.low), float(interval.high)


def calibrated(
    model: nn.Module,
    data: ImageData,
    batch_size: int,
    *,
    num_images: int = NUM_CALIBRATION,
    seed: int = CALIBRATION_SEED,
) -> nn.Module:
    """The same model with the statistics of its batch norms estimated, where it has any.

    Batches are training images drawn at random once, augmented as in training but not mixed. The
    model must be on the data's device; it is changed in place and left in eval mode.
    """
    if batch_norms(model):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(data.num_train, generator=generator)
        drawn = drawn[: max(num_images, batch_size)]
        batches = data.unmixed().train_batches(drawn, batch_size=batch_size, seed=seed)
        calibrate(model, (batch.images for batch in batches))
    return model.eval()


@torch.inference_mode()
def evaluate(
    model: nn.Module, data: ImageData, split: Split, *, batch_size: int = 512, floor: float = 0.0
) -> Accuracy:
    """Puts the model into eval mode; it must be in fp32 and on the data's device.

    Ends with a batch after which the top-1 of the whole split lies below `floor` at 99.9 %; images
    come in random order, the same each time.
    """
    model.eval()
    order = torch.randperm(
        data.num_examples(split), generator=torch.Generator().manual_seed(ORDER_SEED)
    )
    hits, loss, seen = 0, 0.0, 0
    for batch in data.eval_batches(split, batch_size, order=order):
        logits = model(batch.images)
        hits += int((logits.argmax(1) == batch.targets).sum())
        loss += float(cross_entropy(logits, batch.targets).sum())
        seen += len(batch.targets)
        accuracy = Accuracy(split, hits / seen, loss / seen, seen)
        if floor > 0 and accuracy.interval(STOP_CONFIDENCE)[1] < floor:
            break
    return accuracy
