"""The score of one subnet on one split, and what a plain one needs to have one."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from nas.data.batches import Dataset, Split
from nas.records import Score
from supernet.batch_norm import batch_norms, calibrate

# Examples that estimate the statistics of batch norms, the same few everywhere, and their seed. The
# mean of a channel is then known to about 2 % of its standard deviation, or better.
NUM_CALIBRATION, CALIBRATION_SEED = 2048, 0

ORDER_SEED = 0  # of the examples, which lie by class in many data sets
# Of the interval that ends an evaluation early: there are many looks and many subnets. Examples
# fewer than these do not tell how much they vary.
STOP_CONFIDENCE, FEWEST = 0.999, 30


@torch.inference_mode()
def evaluate(
    forward: Callable[..., Tensor],
    data: Dataset,
    split: Split,
    *,
    batch_size: int = 512,
    whole_batches: bool = False,
    floor: float | None = None,
) -> Score:
    """How good a network, in eval mode and fp32 on the data's device, is on a split.

    `forward` is called with the inputs of a batch: a plain model, or a subnet within its supernet,
    whose batch norms then use the statistics of the batch. For the latter there are `whole_batches`
    of one size, without the few examples that fill none. Ends with a batch after which the whole
    split's score is worth less than `floor` at 99.9 %; examples come in random order, the same each
    time.
    """
    count = data.num_examples(split)
    size = equal_size(count, batch_size) if whole_batches else batch_size
    order = torch.randperm(count, generator=Generator().manual_seed(ORDER_SEED))
    metric, sums, seen = data.task.metric, torch.zeros(3, dtype=torch.float64), 0
    for batch in data.eval_batches(split, size, order=order):
        if whole_batches and len(batch.targets) < size:
            break
        outputs = forward(*batch.inputs)
        values = data.task.values(outputs, batch.targets).double()
        losses = data.task.loss(outputs, batch.targets).double()
        sums += torch.stack([values.sum(), values.square().sum(), losses.sum()]).cpu()
        seen += len(batch.targets)
        mean, mean_square, loss = (sums / seen).tolist()
        variance = max(0.0, mean_square - mean**2)
        hopes = data.task.interval(mean, variance, seen, STOP_CONFIDENCE)
        hope = max(hopes, key=metric.worth)
        if floor is not None and seen >= FEWEST and metric.worth(hope) < floor:
            break
    low, high = data.task.interval(mean, variance, seen, 0.95)
    return Score(
        metric=metric,
        value=mean,
        low=low,
        high=high,
        hope=hope,
        loss=loss,
        split=split,
        num_examples=seen,
        complete=seen == count,
    )


def equal_size(count: int, largest: int) -> int:
    """The size of as few equal batches as hold `count` examples, but for fewer than one a batch."""
    return count // -(-count // largest)


def calibrated(
    model: nn.Module,
    data: Dataset,
    batch_size: int,
    *,
    num_examples: int = NUM_CALIBRATION,
    seed: int = CALIBRATION_SEED,
) -> nn.Module:
    """The same model with the statistics of its batch norms estimated, where it has any.

    Batches are training examples drawn at random once, augmented as in training but not mixed. The
    model must be on the data's device; it is changed in place and left in eval mode.
    """
    if batch_norms(model):
        generator = Generator().manual_seed(seed)
        drawn = torch.randperm(data.num_train, generator=generator)
        drawn = drawn[: max(num_examples, batch_size)]
        batches = data.unmixed().train_batches(drawn, batch_size=batch_size, seed=seed)
        calibrate(model, (batch.inputs for batch in batches))
    return model.eval()
