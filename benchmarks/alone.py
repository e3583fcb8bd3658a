"""Plain models trained alone by a run's recipe, scored and timed: supernets' rivals."""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from nas.config.config import Config
from nas.data.batches import Dataset, Split
from nas.evaluate import evaluate
from nas.hardware.timing import Effort, summarise, time_until_precise
from nas.train.training import Training
from nas.train.weights import new_supernet
from search_spaces.space import to_record
from supernet.losses import Labels
from supernet.sampling.paths import SinglePath

CPU = torch.device("cpu")
EFFORT = Effort(warmup=3, passes=30, precision=0.01, time_limit_s=5)


@dataclass(frozen=True)
class Bench:
    """What one seed's comparison needs."""

    config: Config
    data: Dataset
    work: Path
    batch: torch.Tensor

    def latency(self, model: nn.Module, largest: nn.Module) -> float:
        """Of a batch, over the largest's."""
        calls = [partial(one.eval(), self.batch) for one in (model, largest)]
        with torch.inference_mode():
            rounds = time_until_precise(calls, EFFORT, device=CPU)
        return summarise(rounds.of(0), rounds.of(1)).ratio

    def score(self, model: nn.Module, split: Split = "test") -> float:
        return evaluate(model.eval(), self.data, split).value


def train(bench: Bench, model: nn.Module, epochs: int, lr: float = 0.0) -> nn.Module:
    """The averaged weights of a plain model after the recipe of the supernet."""
    settings = bench.config.train
    warmup = settings.warmup_epochs * epochs // settings.epochs
    own = replace(settings, epochs=epochs, lr=lr or settings.lr, warmup_epochs=warmup)
    training = begin(bench, replace(bench.config, train=own), model)
    while training.step < training.num_steps:
        for batch in training.epoch_batches():
            training.train_step(batch)
    return training.ema.module


def begin(bench: Bench, config: Config, model: nn.Module) -> Training:
    """Of a plain model, from labels alone."""
    record = to_record(config.space.largest())  # of no effect: a plain model has one path
    config = replace(config, paths=partial(SinglePath, record), distillation=Labels())
    return Training(config, model, bench.data, CPU)


def seconds_a_step(bench: Bench, steps: int = 20) -> float:
    """Of training the largest alone."""
    model = new_supernet(bench.config).extract(bench.config.space.largest())
    training = begin(bench, bench.config, model)
    batches = training.epoch_batches()
    training.train_step(next(batches))
    started = time.process_time()
    for _ in range(steps):
        training.train_step(next(batches))
    return (time.process_time() - started) / steps
