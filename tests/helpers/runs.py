"""A tiny run folder, and a device whose latency is known beforehand, for the tests."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas.config.config import Config
from nas.config.run_folder import open_run
from nas.files import read_records
from nas.hardware.runtimes import Inputs
from nas.hardware.timing import Effort, Latency
from nas.measure.bench import Session
from nas.records import Candidate, DeviceCard, Measurement, from_json
from nas.results import SearchResult

Record = dict[str, Any]

# About 2,600 architectures; atoms are fewer than layers, so that sharing saves parameters.
TINY = (
    "space.depth=[1,2]",
    "space.embed_dim=[16,32]",
    "space.num_atoms=[1,2]",
    "train.epochs=2",
    "train.warmup_epochs=1",
    "train.eval_every=1",
    "train.device=cpu",
    "train.threads=1",
    "data.batch_size=256",
    "target=cpu",
    "target.batch_size=4",
    "target.threads=1",
    "target.passes=6",
    "target.warmup=1",
    "target.precision=0.5",
    "target.compare=[eager]",
    "search.start=3",
)


# NAS-Bench-201's cells, as small as they can be; what is not named here is as in TINY.
SMALL_CELLS = (
    "space=nasbench201",
    "source=none",
    "paths=uniform",
    "distillation=none",
    "space.channels=4",
    "space.num_cells=1",
)
TINY_CELLS = (
    *SMALL_CELLS,
    "train.opt=momentum",
    "train.lr=0.05",
    *(option for option in TINY if not option.startswith("space.")),
)


def size_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def by_size(model: nn.Module, reference: nn.Module) -> float:
    return size_of(model) / size_of(reference)


class PaperBench:
    """Stands in for a Bench: the largest subnet takes 10 ms, others what `ratio_of` says of it.

    `low` and `high` are the ends of a session's interval, relative to the ratio.
    """

    ratio_of: Callable[[nn.Module, nn.Module], float]
    low: float
    high: float

    def __init__(
        self, reference: nn.Module, inputs: Inputs, card: DeviceCard, effort: Effort
    ) -> None:
        self.reference = reference
        self.passes_s = 0.0

    def close(self) -> None:
        pass

    def sessions(
        self,
        models: Sequence[nn.Module],
        *,
        known: Sequence[Measurement | None] = (),
        details: bool = False,
    ) -> list[Session]:
        return [self.session(type(self).ratio_of(model, self.reference), model) for model in models]

    def session(self, ratio: float, model: nn.Module) -> Session:
        # However many sessions are pooled, their interval is that of one.
        factors = (*(self.low,) * 3, 1.0, *(self.high,) * 3)
        return Session(
            model_ms=tuple(10 * ratio * factor for factor in factors),
            reference_ms=(10.0,) * len(factors),
            num_warmup=1,
            num_interrupted=0,
            num_throttled=0,
            memory_mib=size_of(model) / 2**18,
            resident_mib=None,
            energy_mj=None,
            flops=size_of(model),
        )

    def across_runtimes(
        self, model: nn.Module, runtimes: Sequence[str]
    ) -> dict[str, Latency | str]:
        latency = self.session(type(self).ratio_of(model, self.reference), model).latency()
        return {name: "not here" if name == "cuda_graph" else latency for name in runtimes}


def use_paper_device(
    patch: pytest.MonkeyPatch,
    ratio_of: Callable[[nn.Module, nn.Module], float] = by_size,
    *,
    low: float = 0.95,
    high: float = 1.05,
) -> None:
    """Makes `ratio_of` the latency relative to the largest subnet, which takes 10 ms."""
    values = {"ratio_of": staticmethod(ratio_of), "low": low, "high": high}
    patch.setattr("nas.measure.sessions.Bench", type("PaperBench", (PaperBench,), values))


def config_of(run: Path, *overrides: str) -> Config:
    return open_run([f"run={run}", *overrides], create=False)[0]


def candidates_of(run: Path) -> list[Record]:
    return read_records(run / "candidates.jsonl")


def search_of(run: Path) -> Record:
    found: Record = json.loads((run / "search.json").read_text())
    return found


def judged(run: Path) -> list[Candidate[Any]]:
    """The lines of candidates.jsonl as values."""
    space = config_of(run).space
    return [from_json(Candidate, record, space, "here") for record in candidates_of(run)]


def result_of(run: Path) -> SearchResult[Any]:
    """search.json as a value."""
    return from_json(SearchResult, search_of(run), config_of(run).space, "search.json")


def checkpoint(run: Path) -> dict[str, Any]:
    """All of the last checkpoint but the version of the code."""
    state: dict[str, Any] = torch.load(run / "checkpoint.pt", weights_only=True)
    return {name: value for name, value in state.items() if name != "commit"}


def metrics(run: Path) -> list[dict[str, Any]]:
    """All records without what the clock decides."""
    records = read_records(run / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k != "examples_per_s"} for record in records]
