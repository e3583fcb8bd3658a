"""What every test shares: one thread, because the machine has two cores and others use them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nas.__main__ import main
from nas.hardware import timing
from tests.helpers.clocks import Clock
from tests.helpers.runs import TINY

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Whatever a test sets the number of threads to, the next one begins with one."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained run; `run` is a copy of it that a test may change."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", f"run={run}", *TINY]) == 0
    return run


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What timed passes take for the time: only what is slept on it goes by."""
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter_ns", clock)
    return clock
