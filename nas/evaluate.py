"""Accuracy of one plain subnet on one split."""

from dataclasses import dataclass

import torch
from scipy.stats import binomtest
from torch import nn

from nas.data import ImageData, Split
from supernet.distillation import cross_entropy


@dataclass(frozen=True)
class Accuracy:
    """`top1` is the fraction of `num_examples` images of `split` whose class scores highest."""

    split: Split
    top1: float
    loss: float
    num_examples: int

    def interval(self) -> tuple[float, float]:
        """95 % binomial interval of top1 (Wilson, 1927)."""
        hits = round(self.top1 * self.num_examples)
        interval = binomtest(hits, self.num_examples).proportion_ci(method="wilson")
        return float(interval.low), float(interval.high)


@torch.inference_mode()
def evaluate(model: nn.Module, data: ImageData, split: Split, *, batch_size: int = 512) -> Accuracy:
    """Puts the model into eval mode; it must be in fp32 and on the data's device."""
    model.eval()
    hits, loss, seen = 0, 0.0, 0
    for batch in data.eval_batches(split, batch_size):
        logits = model(batch.images)
        hits += int((logits.argmax(1) == batch.targets).sum())
        loss += float(cross_entropy(logits, batch.targets).sum())
        seen += len(batch.targets)
    return Accuracy(split, hits / seen, loss / seen, seen)
