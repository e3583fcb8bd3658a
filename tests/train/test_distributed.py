"""Training by two ranks on the CPU: what one rank computes, and stopping leaves no trace.

The tiny runs have epochs of 4 steps. Momentum in the place of AdamW, which would make steps of full
length of the rounding where a gradient is zero, as that of the keys' biases is. Run as a program,
this file is one rank of two.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.testing import assert_close

from nas.__main__ import main
from nas.config.config import parse
from nas.config.run_folder import compose_config, open_run
from nas.data.batches import load
from nas.train.distributed import ALONE, Ranks
from nas.train.training import Training
from nas.train.weights import new_supernet
from supernet.task import Batch
from tests.helpers.runs import checkpoint, metrics

ROOT = Path(__file__).parents[2]
TINY = (
    "data.test_fraction=0.8",  # leaves 179 images for train
    "data.val_fraction=0.5",
    "data.batch_size=40",
    "space.depth=[1,2]",
    "space.embed_dim=[16,24]",
    "space.num_heads=[1,2]",
    "space.mlp_ratio=[1,2]",
    "space.num_atoms=[2,3]",
    "train.epochs=3",
    "train.warmup_epochs=1",
    "train.eval_every=3",
    "train.log_every=1",
    "train.opt=momentum",
    "train.lr=0.05",
    "train.device=cpu",
    "train.precision=fp32",
    "train.threads=1",
)
UNIFORM = (*TINY, "paths=uniform", "distillation=none")
LEARNING = (
    *TINY,
    "paths=sandwich_importance",
    "paths.largest_first=0",
    "examples=importance",
    "train.epochs=5",
    "train.lr=0.05",
    "train.variance_draws=2",
)
DIVERGING = (*TINY, "train.warmup_epochs=0", "train.lr=1e30")
STOPPED_AT = 6  # in the middle of the second epoch


@dataclass(frozen=True)
class Ended:
    """How one rank's run ended."""

    code: int
    error: str


def be_a_rank() -> None:
    """Trains one run after the other, which costs less than processes; prints how each ended.

    The arguments are JSON: overrides, the step at which the second rank gets SIGTERM, and the
    port. The second rank leaves its last state beside the run folder.
    """
    for argument in sys.argv[1:]:
        overrides, stop, os.environ["MASTER_PORT"] = json.loads(argument)
        with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as error:
            observe_second_rank(patch, Path(overrides[0].partition("=")[2]), stop)
            with redirect_stdout(StringIO()):
                code = main(["train", *overrides])
        sys.stdout.write(json.dumps([code, error.getvalue()]) + "\n")


def observe_second_rank(patch: pytest.MonkeyPatch, run: Path, stop: int) -> None:
    train_step = Training.train_step

    def observed(self: Training, batch: Batch) -> dict[str, float]:
        figures = train_step(self, batch)
        if self.step == stop:
            signal.raise_signal(signal.SIGTERM)
        torch.save(self.state_dict(), run.with_suffix(".second"))
        return figures

    if os.environ["RANK"] == "1":
        patch.setattr(Training, "train_step", observed)


@pytest.fixture(scope="module", autouse=True)
def _gloo() -> None:
    try:
        store = distributed.HashStore()  # type: ignore[attr-defined]
        distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        distributed.destroy_process_group()
    except (AttributeError, RuntimeError, ValueError) as error:
        pytest.skip(f"gloo does not start here: {error}")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **more}


def run_ranks(commands: Sequence[tuple[list[str], int]]) -> list[list[Ended]]:
    """How each command, which is overrides and a step to stop at, ended on each of two ranks."""
    ports = [free_port() for _ in commands]
    arguments = [
        json.dumps([*command, port]) for command, port in zip(commands, ports, strict=True)
    ]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.test_distributed", *arguments],
            cwd=ROOT,
            env=environment(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="localhost"),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        lines = [rank.communicate(timeout=300)[0].splitlines() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    endings = zip(
        *([Ended(*json.loads(line)) for line in printed] for printed in lines), strict=True
    )
    return [list(pair) for pair in endings]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def run_alone(run: Path, *overrides: str) -> Path:
    assert main(["train", f"run={run}", *overrides]) == 0
    return run


def assert_about_the_same(run: Path, alone: Path) -> None:
    """The same draws, and the same weights and figures but for rounding."""
    found, expected = checkpoint(run), checkpoint(alone)
    for key in ("step", "path_generator", "data_generator", "indices"):
        assert_close(found[key], expected[key], rtol=0, atol=0)
    for key in ("supernet", "ema"):
        assert_close(found[key], expected[key], rtol=0, atol=1e-5)
    for mine, others in zip(metrics(run), metrics(alone), strict=True):
        assert mine == {
            name: pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            for name, value in others.items()
        }


def changed(alone: Path) -> float:
    """How far training moved the weights."""
    config, _ = open_run([f"run={alone}"], create=False)
    before = new_supernet(config).state_dict()
    after = checkpoint(alone)["supernet"]
    return max(float((after[name] - before[name]).abs().max()) for name in before)


@dataclass(frozen=True)
class Runs:
    """What two ranks trained: a run that learns what to draw, the same one stopped, and one more.

    The stopped one and its continuation ended in two ways.
    """

    learned: Path
    resumed: Path
    ended: dict[str, list[Ended]]


@pytest.fixture(scope="module", name="runs")
def runs_fixture(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("ranks")
    commands = {
        "learned": (folder / "learned", LEARNING, 0),
        "stopped": (folder / "resumed", LEARNING, STOPPED_AT),
        "resumed": (folder / "resumed", LEARNING, 0),
        "diverged": (folder / "diverged", DIVERGING, 0),
    }
    ended = run_ranks(
        [([f"run={run}", *options], stop) for run, options, stop in commands.values()]
    )
    found = dict(zip(commands, ended, strict=True))
    assert [one.code for one in found["learned"] + found["resumed"]] == [0] * 4, found
    return Runs(folder / "learned", folder / "resumed", found)


def test_torchrun_trains_the_weights_of_one_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, "-m", *torchrun, "-m", "nas", "train", f"run={run}", *UNIFORM]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training on cpu by 2 ranks") == 1  # the first rank alone speaks
    alone = run_alone(tmp_path / "alone", *UNIFORM)
    assert changed(alone) > 0.01
    assert_about_the_same(run, alone)


def test_two_ranks_learn_what_to_draw_as_one_does(runs: Runs, tmp_path: Path) -> None:
    alone = run_alone(tmp_path / "alone", *LEARNING)
    assert_about_the_same(runs.learned, alone)
    found, expected = checkpoint(runs.learned), checkpoint(alone)
    sampler = expected["data_sampler"]
    assert sampler["probabilities"].max() > 1.05 * sampler["probabilities"].min()
    assert sampler["seen"].sum() > 0
    assert_close(found["data_sampler"], sampler, rtol=1e-6, atol=1e-6)
    assert_close(found["weights"], expected["weights"], rtol=1e-5, atol=0)
    columns, *weighed = zip(*found["paths"]["draws"], strict=True)
    expected_columns, *expected_weighed = zip(*expected["paths"]["draws"], strict=True)
    assert columns == expected_columns
    for one, other in zip(weighed, expected_weighed, strict=True):
        assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-4, atol=0)


def test_both_ranks_hold_the_same_bits(runs: Runs) -> None:
    second = torch.load(runs.learned.with_suffix(".second"), weights_only=True)
    del second["commit"]
    assert_close(second, checkpoint(runs.learned), rtol=0, atol=0)


def test_a_signal_to_any_rank_stops_both_and_leaves_no_trace(runs: Runs) -> None:
    for stopped in runs.ended["stopped"]:
        assert stopped.code == 128 + signal.SIGTERM, stopped.error
        assert "stopped by SIGTERM" in stopped.error
    previous = torch.load(runs.resumed / "checkpoint.previous.pt", weights_only=True)
    assert previous["step"] == STOPPED_AT
    assert_close(checkpoint(runs.resumed), checkpoint(runs.learned), rtol=0, atol=0)
    assert metrics(runs.resumed) == metrics(runs.learned)


def test_a_loss_that_is_not_finite_ends_both_ranks(runs: Runs) -> None:
    for diverged in runs.ended["diverged"]:
        assert diverged.code == 1
        assert "nas train: loss is nan at step 0 for the random" in diverged.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("data.batch_size=41",), "data.batch_size must be a multiple of 2 for 2 ranks, got 41"),
        (
            ("data.batch_size=42", "data.mixup=0.8"),
            "data.batch_size must be a multiple of 4 for 2 ranks, .* even, got 42",
        ),
    ],
)
def test_a_batch_that_the_ranks_cannot_share_is_refused(
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", f"run={tmp_path / 'run'}", *TINY, *options]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = [Ranks(rank, 4, rank).device(torch.device("cuda", 0)) for rank in range(2)]
    assert found == [torch.device("cuda", 0), torch.device("cuda", 1)]
    with pytest.raises(ValueError, match=r"^train\.device must be .*, got 'cuda:0 for rank 2'$"):
        Ranks(2, 4, 2).device(torch.device("cuda", 0))
    assert Ranks(2, 4, 2).device(torch.device("cpu")) == torch.device("cpu")
    assert ALONE.device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def batches_of(ranks: Ranks, start: int) -> tuple[list[Batch], list[dict[str, Any]]]:
    """A rank's batches of the second epoch, and what it asked the data for."""
    # 35 images of 179 are left over, so that one rank would have another whole part.
    config = parse(compose_config([*UNIFORM, "data.batch_size=36"]))
    device, asked = torch.device("cpu"), list[dict[str, Any]]()
    data = load(config.data, config.task, seed=config.seed, device=device)

    class Observed:
        task, num_train = data.task, data.num_train

        def train_batches(self, indices: Tensor, **options: Any) -> Iterator[Batch]:
            asked.append(options)
            return data.train_batches(indices, **options)

    observed: Any = Observed()
    training = Training(config, new_supernet(config), observed, device, ranks)
    training.step = training.steps_per_epoch
    found = list(training.epoch_batches())
    training.step += start
    if start:
        found = list(training.epoch_batches())
    return found, asked


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("start", [0, 3])
def test_the_ranks_draw_disjoint_parts_of_the_same_batches(world: int, start: int) -> None:
    whole, (asked, *_) = batches_of(ALONE, start)
    parts = [batches_of(Ranks(rank, world, rank), start) for rank in range(world)]
    assert len(whole) == 4 - start
    for number, batch in enumerate(whole):
        indices = torch.stack([found[number].indices for found, _ in parts], dim=1)
        assert torch.equal(indices.flatten(), batch.indices)
        images = torch.stack([found[number].inputs[0] for found, _ in parts], dim=1)
        assert torch.equal(images.flatten(0, 1), batch.inputs[0])
    assert all(len(found) == len(whole) for found, _ in parts)
    seeds = [options["seed"] for _, (options, *_) in parts]  # of augmentation
    assert seeds[0] == asked["seed"]
    assert len(set(seeds)) == world


if __name__ == "__main__":
    be_a_rank()
