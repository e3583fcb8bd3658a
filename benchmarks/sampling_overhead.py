"""What drawing paths and examples by importance adds to the time of training.

Two trainings take turns in one process, an epoch each: one with uniform draws, one with both
samplings. Both train the same subnets on as many examples, so that the difference is the cost of
drawing and of learning from gradients, not of other subnets; an epoch includes what is drawn and
fitted at its beginning.
Command: python benchmarks/sampling_overhead.py. Last line: JSON, the median of the pairs' ratios.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from random import Random

import torch

from benchmarks.alternating import time_alternating
from nas.config.config import parse
from nas.config.run_folder import compose_config
from nas.data.batches import load
from nas.train.training import Training
from nas.train.weights import new_supernet
from search_spaces.space import Arch
from supernet.sampling.paths import Path, PathGradient, PathSampler

COMMON = ("distillation=none", "train.precision=fp32")
IMPORTANCE = ("paths=importance", "examples=importance")
UNIFORM = ("paths=uniform", "examples=uniform")


class GivenPaths(PathSampler[Arch]):
    """Trains given subnets whatever a sampler draws, which has the work of drawing and learning."""

    def __init__(self, sampler: PathSampler[Arch], archs: Sequence[Arch]) -> None:
        self.sampler = sampler
        self.norms = sampler.norms
        self.archs = cycle(archs)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.sampler.begin_epoch(epoch, epochs)

    def draw(self, generator: Random) -> list[Path[Arch]]:
        return [replace(path, arch=next(self.archs)) for path in self.sampler.draw(generator)]

    def observe(self, path: Path[Arch], gradient: PathGradient) -> None:
        self.sampler.observe(path, gradient)


def main() -> None:
    options = parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    ours, uniform = (make_epochs(options, draws) for draws in (IMPORTANCE, UNIFORM))
    ours_ms, uniform_ms = time_alternating(
        ours,
        uniform,
        device=torch.device(options.device),
        warmup=options.warmup,
        passes=options.passes,
    )
    pairs = [one / other for one, other in zip(ours_ms, uniform_ms, strict=True)]
    print(
        f"{options.passes} pairs of epochs: by importance {statistics.median(ours_ms):.0f} ms, "
        f"uniform {statistics.median(uniform_ms):.0f} ms, ratios {min(pairs):.3f} to "
        f"{max(pairs):.3f}"
    )
    print(json.dumps({"ratio": round(statistics.median(pairs), 4)}))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--space", default="digits", help="a preset of vision transformers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for the default")
    parser.add_argument("--warmup", type=int, default=3, help="untimed epochs of each")
    parser.add_argument("--passes", type=int, default=31, help="timed pairs of epochs")
    return parser.parse_args()


def make_epochs(options: argparse.Namespace, draws: Sequence[str]) -> Callable[[], None]:
    """What runs the next epoch of a training of its own."""
    overrides = (
        f"space={options.space}",
        f"train.device={options.device}",
        f"data.batch_size={options.batch_size}",
    )
    config = parse(compose_config([*COMMON, *overrides, *draws]))
    device, generator = torch.device(options.device), Random(0)
    data = load(config.data, config.task, seed=config.seed, device=device)
    archs = [config.space.sample(generator) for _ in range(data.num_train // options.batch_size)]
    training = Training(config, new_supernet(config), data, device)
    training.paths = GivenPaths(training.paths, archs)

    def run_epoch() -> None:
        for batch in training.epoch_batches():
            training.train_step(batch)

    return run_epoch


if __name__ == "__main__":
    main()
