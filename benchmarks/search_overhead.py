"""Does a trial of a search cost the same with 2,000 known architectures as with 20?

The pipeline's own search, on a journal in a temporary folder, with subnets, a bench and a score
that are made up and there at once: what is timed is all but models, their passes and fits of
predictors. One study with 2,000 trials and, in turns with it, a new one with 20 are given a few
trials more; the seconds are those of a trial, median over the turns.
Command: python benchmarks/search_overhead.py, or with --search guided, whose proposals are random
draws here. Last line: JSON.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from unittest.mock import patch

# Before torch is imported: one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from torch import nn

from nas.config.run_folder import open_run
from nas.data.batches import load
from nas.hardware.device import training_device
from nas.hardware.runtimes import Inputs
from nas.hardware.timing import Effort
from nas.measure.bench import Session
from nas.records import DeviceCard, Measurement, Score
from nas.search.evaluator import Evaluator
from nas.search.history import History
from nas.search.proposals import Proposals
from nas.search.storage import open_storage
from nas.search.study import open_study
from nas.search.trials import Trials
from nas.train.weights import new_supernet
from search_spaces.space import Arch
from search_spaces.vit import ViTArch
from supernet.families.vit import ViTSupernet
from supernet.parameter_counts import Counts
from supernet.task import Metric

METRIC = Metric("top1", "top-1", higher_is_better=True, is_fraction=True)
FEW, MANY = 20, 2000  # known architectures
QUIET = Console(quiet=True)


class InstantBench:
    """Stands in for a Bench: latencies by size, with some noise."""

    passes_s = 0.0

    def __init__(
        self, reference: nn.Module, inputs: Inputs, card: DeviceCard, effort: Effort
    ) -> None:
        self.largest, self.generator = size_of(reference), Random(0)

    def sessions(
        self, models: Sequence[nn.Module], *, known: Sequence[Measurement | None] = ()
    ) -> list[Session]:
        return [self.session(size_of(model) / self.largest) for model in models]

    def session(self, ratio: float) -> Session:
        times = [10 * ratio * self.generator.uniform(0.95, 1.05) for _ in range(30)]
        return Session(
            model_ms=tuple(times),
            reference_ms=(10.0,) * len(times),
            num_warmup=1,
            num_interrupted=0,
            num_throttled=0,
            memory_mib=ratio,
            resident_mib=None,
            energy_mj=None,
            flops=1,
        )

    def close(self) -> None:
        pass


def instant_model(supernet: ViTSupernet, arch: ViTArch) -> nn.Module:
    """As large as a subnet is, about, in units of a row of a head."""
    return nn.Linear(round(arch.embed_dim * (sum(arch.num_heads) + sum(arch.mlp_ratio))), 1)


def instant_counts(supernet: ViTSupernet, arch: ViTArch) -> Counts:
    size = size_of(instant_model(supernet, arch))
    return Counts(stored_factorised=size, stored_merged=size, resident=size)


def size_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def instant_score(model: nn.Module, data: object, split: str, *, floor: float | None) -> Score:
    """The larger the better, with luck; ended early as a real one, to be like it."""
    size = size_of(model)
    value = size / (size + 1000) + Random(size).gauss(0, 0.05)
    hope, complete = value + 0.1, floor is None or value + 0.1 >= floor
    return Score(METRIC, value, value - 0.05, value + 0.05, hope, 1.0, split, 287, complete)


class InstantProposals(Proposals):
    """A guided search without predictors."""

    def guided(self) -> list[Arch]:
        return [self.space.sample(self.generator)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--search", choices=("random", "guided"), default="random")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--trials", type=int, default=10, help="of each study in a turn")
    options = parser.parse_args()
    few, many = [], []
    with tempfile.TemporaryDirectory() as folder, instant():
        long = open_search(Path(folder, "long"), options.search)
        advance(long, MANY)
        for turn in range(options.turns):
            short = open_search(Path(folder, f"short{turn}"), options.search)
            advance(short, FEW)
            few.append(advance(short, options.trials))
            many.append(advance(long, options.trials))
    figures = {"seconds_20": statistics.median(few), "seconds_2000": statistics.median(many)}
    print(f"{len(long.evaluator.known)} known in the end, {len(long.evaluator.front.points)} best")
    print(json.dumps({key: round(seconds, 5) for key, seconds in figures.items()}))


@contextmanager
def instant() -> Iterator[None]:
    with (
        patch.object(ViTSupernet, "extract", instant_model),
        patch("nas.measure.meter.count", instant_counts),
        patch("nas.measure.sessions.Bench", InstantBench),
        patch("nas.search.evaluator.evaluate", instant_score),
    ):
        yield


def open_search(folder: Path, search: str) -> Trials:
    """As `nas search` begins one, on weights that nobody trained."""
    settings = [f"run={folder}", f"search={search}", "search.start=10", "target=cpu"]
    settings += ["train.device=cpu", "budget.latency_of_largest=0.6"]
    config, run = open_run(settings, create=True)
    device = training_device(config.train)
    data = load(config.data, config.task, seed=config.seed, device=device)
    evaluator = Evaluator(config, run, new_supernet(config).eval(), data, device, step=0)
    storage = open_storage(config, run)
    study = open_study(config, storage, "study", slot=0)
    history = History(study, storage, config.space)
    proposals = InstantProposals(config, history, evaluator, seed=0)
    return Trials(config, history, evaluator, proposals, "worker", time.monotonic(), ())


def advance(search: Trials, num_trials: int) -> float:
    """So many trials more; the seconds of one."""
    search.config.search.trials = search.history.num_counted + num_trials
    begin = time.perf_counter()
    search.run(QUIET)
    return (time.perf_counter() - begin) / num_trials


if __name__ == "__main__":
    main()
