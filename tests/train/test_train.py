"""Training: what a step computes, that stopping leaves no trace, and how a run may end.

The tiny run has 3 epochs of 4 steps; steps are counted from 1, as in metrics.jsonl.
"""

import copy
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from itertools import count
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from nas.__main__ import main
from nas.config.config import Config, parse
from nas.config.run_folder import compose_config, open_run
from nas.data.batches import load
from nas.evaluate import evaluate
from nas.exits import Diverged, Stopped, stop_signals
from nas.files import locked, read_records
from nas.train import stage as train
from nas.train.checkpoint import load_checkpoint, save_checkpoint
from nas.train.optimization import make_optimizer, uses_bf16
from nas.train.training import Training
from nas.train.weights import load_supernet, new_supernet
from search_spaces.space import Arch
from search_spaces.vit import ViTArch
from supernet.families.vit import ViTSupernet
from supernet.losses import kl_divergence
from supernet.sampling.paths import Path as SampledPath
from supernet.sampling.paths import UniformPaths
from supernet.supernet import Supernet
from supernet.task import Batch
from tests.helpers.runs import checkpoint, metrics

CPU = torch.device("cpu")
NARROW = ViTArch(embed_dim=16, num_heads=(2,), mlp_ratio=(1,), rank=(4,), num_atoms=3)
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
    "train.eval_every=2",
    "train.log_every=1",
    "train.checkpoint_every=100",
    "+train.probes={narrow:{embed_dim:16,num_heads:[2],mlp_ratio:[1],rank:[4],num_atoms:3}}",
    "train.device=cpu",
    "train.precision=fp32",
    "train.threads=1",
)
STEPS_PER_EPOCH, NUM_STEPS, BATCH_SIZE = 4, 12, 40
UNIFORM = ("paths=uniform", "distillation=none")
LEARNING = ("paths=importance", "examples=importance", "distillation=none")
PUBLISHED = ("paths=published", "examples=published", "distillation=none")
AUGMENTED = ("data.mixup=0.8", "data.cutmix=1.0", "data.shift=1", "train.precision=bf16")


class Killed(BaseException):
    """Ends a run as SIGKILL would: nothing catches it."""


def die(*_: object) -> None:
    raise Killed


def run_train(run: Path, *overrides: str) -> int:
    return main(["train", f"run={run}", *TINY, *overrides])


def configure(run: Path, *overrides: str) -> Config:
    """Makes the run folder. `go_on` then trains without composing the configuration again."""
    return open_run([f"run={run}", *TINY, *overrides], create=True)[0]


def test_a_run_is_trained_by_one_process_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(tmp_path / "run")
    with locked(tmp_path / "run" / "train.lock", blocking=False):
        assert run_train(tmp_path / "run") == 2
    assert "must not be in training already" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def go_on(config: Config, run: Path) -> None:
    train.train(config, run, Console(quiet=True))


SANDWICH = "paths.largest_first=0"  # from the first step on
TOGETHER = "train.update=step"  # the weights move once, by the mean gradient of the paths
BATCHES = "own", "shared"


def make_training(*overrides: str) -> Training:
    config = parse(compose_config([*TINY, *overrides]))
    data = load(config.data, config.task, seed=config.seed, device=CPU)
    return Training(config, new_supernet(config), data, CPU)


def assert_same_run(first: Path, second: Path) -> None:
    assert_close(checkpoint(first), checkpoint(second), rtol=0, atol=0)
    assert metrics(first) == metrics(second)


def interrupt(
    patch: pytest.MonkeyPatch,
    act: Callable[[Training], None],
    *,
    before: Collection[int] = (),
    after: Collection[int] = (),
) -> None:
    """Calls `act` before and after the steps of these numbers."""
    train_step = Training.train_step

    def interrupted(self: Training, batch: Batch) -> dict[str, float]:
        if self.step + 1 in before:
            act(self)
        figures = train_step(self, batch)
        if self.step in after:
            act(self)
        return figures

    patch.setattr(Training, "train_step", interrupted)


@pytest.fixture(scope="module", name="whole")
def whole_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert run_train(run) == 0
    return run


# Determinism


def test_the_same_seed_gives_the_same_bits_whatever_the_global_generators(
    whole: Path, tmp_path: Path
) -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    assert run_train(tmp_path / "run") == 0
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    assert_close(after, before, rtol=0, atol=0)
    assert_same_run(tmp_path / "run", whole)


def test_another_seed_gives_other_weights_examples_and_paths() -> None:
    one, other = (make_training(f"seed={seed}") for seed in (0, 1))
    batch, other_batch = next(one.epoch_batches()), next(other.epoch_batches())
    weights = [t.network.get_parameter("head.weight") for t in (one, other)]
    assert not torch.equal(*weights)
    assert not torch.equal(batch.indices, other_batch.indices)
    assert one.path_generator.random() != other.path_generator.random()


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ((), range(1, NUM_STEPS)),
        (AUGMENTED, (1, 4, 6, 11)),
        (LEARNING, (2, 4, 7, 10)),
        (PUBLISHED, (2, 4, 7, 10)),
        (("paths=sandwich_importance", "examples=importance"), (3, 8)),
    ],
    ids=["plain", "augmented_bf16", "importance", "published", "sandwich"],
)
def test_a_run_stopped_at_any_step_equals_one_never_stopped(
    overrides: tuple[str, ...],
    steps: Collection[int],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, other = tmp_path / "stopped", whole
    config = configure(run, *overrides)
    if overrides:
        other = tmp_path / "whole"
        go_on(configure(other, *overrides), other)
    signums = [signal.SIGTERM, signal.SIGINT] * (NUM_STEPS // 2)
    interrupt(
        monkeypatch, lambda training: signal.raise_signal(signums[training.step]), after=steps
    )
    for step in steps:
        with pytest.raises(Stopped) as stopped:
            go_on(config, run)
        assert stopped.value.exit_code == 128 + signums[step]
        assert checkpoint(run)["step"] == step
    go_on(config, run)
    assert_same_run(run, other)


@pytest.mark.parametrize("options", [LEARNING, PUBLISHED], ids=["importance", "published"])
def test_what_is_drawn_depends_on_what_was_measured(options: tuple[str, ...]) -> None:
    training = make_training(*options, "train.epochs=4")
    while training.step < training.num_steps:
        for batch in training.epoch_batches():
            figures = training.train_step(batch) | training.figures()
    assert {"data_ess", "loss", "grad_norm", "lr"} < figures.keys()
    probabilities = training.data_sampler.state_dict()["probabilities"]
    assert probabilities.max() > probabilities.min()
    found = training.paths.state_dict()
    estimates = found["mean_squares" if options is LEARNING else "norm_means"]
    values = estimates if options is LEARNING else [v for kind in estimates.values() for v in kind]
    assert len({value for value in values if value > 0}) > 5


@pytest.mark.parametrize("num_snapshots", [0, 2, 3])
def test_the_weights_at_the_end_of_the_last_epochs_are_kept(
    num_snapshots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, weights = tmp_path / "run", {}
    config = configure(run, f"train.snapshots={num_snapshots}")

    def remember(training: Training) -> None:
        weights[training.step] = copy.deepcopy(
            {"ema": training.ema.module.state_dict(), "supernet": training.network.state_dict()}
        )

    interrupt(monkeypatch, remember, after=[4, 8, 12])
    go_on(config, run)
    steps = [4, 8, 12][3 - num_snapshots :]
    paths = sorted((run / "snapshots").glob("*"))
    assert [path.name for path in paths] == sorted(f"step_{step}.pt" for step in steps)
    for path in paths:
        kept = torch.load(path, weights_only=True)
        assert_close(kept, {"step": kept["step"]} | weights[kept["step"]], rtol=0, atol=0)
        assert path.stem == f"step_{kept['step']}"


def test_a_run_that_dies_between_checkpoints_equals_one_never_stopped(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, every = tmp_path / "run", 3  # does not divide the epoch
    config = configure(run, f"train.checkpoint_every={every}")
    # Before any checkpoint, right before one, at the ends of epochs, and twice at the same step.
    for step in (1, 3, 5, 5, 8, 9, 12):
        with monkeypatch.context() as patch:
            interrupt(patch, die, after=[step])
            with pytest.raises(Killed):
                go_on(config, run)
        if step > every:
            assert checkpoint(run)["step"] == (step - 1) // every * every
    go_on(config, run)
    assert_same_run(run, whole)


def test_a_run_that_dies_after_evaluation_does_not_log_it_twice(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = configure(run)
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_checkpoint", die)
        with pytest.raises(Killed):
            go_on(config, run)
    assert metrics(run) == metrics(whole)
    go_on(config, run)
    assert_same_run(run, whole)


def test_a_killed_process_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    run, other = tmp_path / "killed", tmp_path / "whole"
    longer = ("train.epochs=10", "train.checkpoint_every=2")
    command = [sys.executable, "-m", "nas", "train", f"run={run}", *TINY, *longer]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not (run / "checkpoint.previous.pt").exists():
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    state = load_checkpoint(run, CPU, lambda _: None)  # it may have died between two renames
    assert state is not None
    assert 2 <= state["step"] < 10 * STEPS_PER_EPOCH
    for folder in (run, other):
        assert run_train(folder, *longer) == 0
    assert_same_run(run, other)


# How a run ends


def test_a_finished_run_is_left_as_it_is(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert main(["train", f"run={whole}"]) == 0
    assert "training is finished: all 12 steps were done before" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("train.lr=1e30", "train.warmup_epochs=0", "train.checkpoint_every=1", TOGETHER)
    for _ in range(2):  # and again, from the checkpoint
        assert run_train(tmp_path / "run", *options) == 1
        message = capsys.readouterr().err
        assert "loss is nan at step 1 for the largest ViTArch(embed_dim=24" in message
        assert checkpoint(tmp_path / "run")["step"] == 1


def test_divergence_leaves_the_last_good_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(training: Training) -> None:
        training.network.get_parameter("head.bias").data[0] = math.nan

    run = tmp_path / "run"
    config = configure(run, "train.checkpoint_every=1")
    with monkeypatch.context() as patch:
        interrupt(patch, poison, before=[6])
        with pytest.raises(Diverged, match=r"loss is nan at step 5 for the largest ViTArch"):
            go_on(config, run)
    assert checkpoint(run)["step"] == 5
    go_on(config, run)
    assert_same_run(run, whole)


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights() -> None:
    training = make_training()
    before = copy.deepcopy(training.network.state_dict())
    bias = training.network.get_parameter("head.bias")
    bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(Diverged, match=r"gradient norm is (nan|inf) at step 0 for largest ViTArch"):
        training.train_step(next(training.epoch_batches()))
    assert_close(training.network.state_dict(), before, rtol=0, atol=0)


def test_weights_that_fail_evaluation_are_not_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_step = ("data.batch_size=150", "train.eval_every=1", "train.warmup_epochs=0")
    assert run_train(tmp_path / "run", *one_step, TOGETHER, "train.lr=1e30") == 1
    assert "val loss is nan at step 1 for the smallest ViTArch" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.device=cuda", "train.device must be a CUDA device of this machine, which has 0"),
        (
            "data.batch_size=180",
            "data.batch_size must be at most the 179 training examples, got 180",
        ),
    ],
)
def test_bad_input_is_named(
    override: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_train(tmp_path / "run", override) == 2
    assert message in capsys.readouterr().err


def test_a_run_does_not_go_on_with_another_number_of_examples(whole: Path) -> None:
    training = make_training("data.val_fraction=0.6")
    with pytest.raises(ValueError, match=r"data must be the 179 training examples .*, got 14\d"):
        training.load_state_dict(checkpoint(whole))
    assert training.step == 0


def test_a_checkpoint_with_states_of_older_versions_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = configure(run)
    interrupt(monkeypatch, lambda _: signal.raise_signal(signal.SIGTERM), after=[7])
    with pytest.raises(Stopped):
        go_on(config, run)
    save_checkpoint(run, checkpoint(run) | {"momenta": {}})
    go_on(config, run)
    assert_same_run(run, whole)


@pytest.mark.parametrize(
    "paths",
    [
        ("paths=published",),
        ("paths=importance", "paths.attribution=choice"),
        ("paths=sandwich_importance", "paths.random.attribution=choice"),
    ],
)
def test_paths_that_need_what_a_family_does_not_tell_are_refused(
    paths: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ViTSupernet, "choice_gradients", Supernet.choice_gradients)
    assert run_train(tmp_path / "run", *paths, "distillation=none") == 2
    assert "paths must not need gradients of choices, which ViTSupernet" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.fixture
def python_handler() -> Iterator[None]:
    """Python's own handler of SIGINT, which the background job of a shell begins without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handler")
def test_a_second_signal_acts_as_it_does_by_default() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_signals() as received:
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# What is logged


def test_every_step_and_every_probe_is_logged_once_and_in_order(whole: Path) -> None:
    probes = ("smallest", "largest", "narrow")
    expected: list[tuple[str, int, str | None]] = []
    for step in range(1, NUM_STEPS + 1):
        expected.append(("train", step, None))
        if step in (8, 12):  # every second epoch, and the last
            expected += [("eval", step, probe) for probe in probes]
    records = metrics(whole)
    assert [(r["kind"], r["step"], r.get("probe")) for r in records] == expected
    assert all(r["epoch"] == r["step"] / STEPS_PER_EPOCH for r in records)


def test_the_averaged_weights_of_each_probe_are_what_is_evaluated(whole: Path) -> None:
    config, _ = open_run([f"run={whole}"], create=False)
    data = load(config.data, config.task, seed=config.seed, device=CPU)
    supernet, step = load_supernet(config, whole, pytest.fail)
    assert step == NUM_STEPS
    archs = {"smallest": config.space.smallest(), "largest": config.space.largest()}
    logged = {r["probe"]: r for r in metrics(whole) if r["kind"] == "eval" and r["step"] == step}
    for probe, arch in (archs | {"narrow": NARROW}).items():
        score = evaluate(supernet.extract(arch), data, "val")
        record = logged[probe]
        assert (record["split"], record["num_examples"]) == ("val", data.num_examples("val"))
        assert (record["top1"], record["loss"]) == (score.value, score.loss)
        assert (record["low"], record["high"]) == (score.low, score.high)
        supernet_now = copy.deepcopy(supernet)
        supernet_now.load_state_dict(checkpoint(whole)["supernet"])
        assert evaluate(supernet_now.extract(arch), data, "val").loss != record["loss"]


def test_the_learning_rate_warms_up_and_follows_a_cosine(whole: Path) -> None:
    config, _ = open_run([f"run={whole}"], create=False)
    peak, low = config.train.lr, config.train.min_lr
    for record in metrics(whole):
        if record["kind"] == "train":
            done = record["step"] - 1
            expected = low + (peak - low) * (
                done / STEPS_PER_EPOCH
                if done < STEPS_PER_EPOCH
                else (1 + math.cos(math.pi * done / NUM_STEPS)) / 2
            )
            assert record["lr"] == pytest.approx(expected, rel=1e-6)


def test_examples_are_counted_once_and_since_the_last_line_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()
    monkeypatch.setattr(train, "perf_counter", lambda: 2.0 * next(ticks))  # 2 s between readings
    with monkeypatch.context() as patch:
        interrupt(patch, lambda _: signal.raise_signal(signal.SIGTERM), after=[5])
        assert run_train(tmp_path / "run", "train.log_every=3") == 128 + signal.SIGTERM
    assert run_train(tmp_path / "run", "train.log_every=3") == 0
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    rates = {r["step"]: r["examples_per_s"] for r in records if r["kind"] == "train"}
    every = 3 * BATCH_SIZE / 2.0
    assert rates == {3: every, 6: 1 * BATCH_SIZE / 2.0, 9: every, 12: every}


# What a step computes


def hand_made_gradients(supernet: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*supernet.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def assert_gradients(supernet: nn.Module, expected: dict[str, Tensor]) -> None:
    found = {name: parameter.grad for name, parameter in supernet.named_parameters()}
    assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-2


def same_generator(generator: Random) -> Random:
    other = Random()
    other.setstate(generator.getstate())
    return other


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_a_uniform_step_has_the_gradient_of_one_subnet_on_labels(mixup: float) -> None:
    training = make_training(*UNIFORM, f"data.mixup={mixup}", "train.clip_grad=0")
    batch = next(training.epoch_batches())
    supernet = copy.deepcopy(training.network)
    arch = training.config.space.sample(same_generator(training.path_generator))
    # Mixup's targets are smoothed already.
    loss = F.cross_entropy(
        supernet(*batch.inputs, arch), batch.targets, label_smoothing=0.0 if mixup else 0.1
    )
    figures = training.train_step(batch)
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert_gradients(training.network, hand_made_gradients(supernet, loss))


def sandwich_of(training: Training) -> list[Arch]:
    """The subnets of its next step."""
    generator, space = same_generator(training.path_generator), training.config.space
    return [space.largest(), space.sample(generator), space.sample(generator), space.smallest()]


def examples_of(batch: Batch, batches: str) -> list[tuple[Tensor, Tensor]]:
    """Images and targets of each of four paths."""
    if batches == "shared":
        assert len(batch.targets) == BATCH_SIZE
        return [(batch.inputs[0], batch.targets)] * 4
    assert len(batch.targets) == 4 * BATCH_SIZE
    places = [slice(k * BATCH_SIZE, (k + 1) * BATCH_SIZE) for k in range(4)]
    return [(batch.inputs[0][place], batch.targets[place]) for place in places]


@pytest.mark.parametrize("hard_weight", [0.0, 0.25])
@pytest.mark.parametrize("batches", BATCHES)
def test_a_sandwich_step_has_the_mean_gradient_and_none_through_the_teacher(
    hard_weight: float, batches: str
) -> None:
    options = (f"distillation.hard_weight={hard_weight}", "train.clip_grad=0", TOGETHER)
    training = make_training(*options, SANDWICH, f"train.batches={batches}")
    batch = next(training.epoch_batches())
    supernet = copy.deepcopy(training.network)
    archs, losses = sandwich_of(training), []
    for arch, (images, targets) in zip(archs, examples_of(batch, batches), strict=True):
        answer = supernet(images, arch)
        loss = F.cross_entropy(answer, targets, label_smoothing=0.1)
        if arch != archs[0]:
            soft = kl_divergence(answer, supernet(images, archs[0]).detach()).mean()
            loss = hard_weight * loss + (1 - hard_weight) * soft
        losses.append(loss)
    training.train_step(batch)
    assert_gradients(training.network, hand_made_gradients(supernet, torch.stack(losses).mean()))


@pytest.mark.parametrize("hard_weight", [0.0, 0.25])
@pytest.mark.parametrize("batches", BATCHES)
def test_weights_move_after_each_path_by_its_own_gradient(hard_weight: float, batches: str) -> None:
    options = f"distillation.hard_weight={hard_weight}", "train.clip_grad=0.5", "train.update=path"
    training = make_training(*options, SANDWICH, f"train.batches={batches}")
    batch = next(training.epoch_batches())
    supernet = copy.deepcopy(training.network)
    archs, examples = sandwich_of(training), examples_of(batch, batches)
    # By the weights before they move.
    teachers = [supernet(images, archs[0]).detach() for images, _ in examples]
    training.scheduler.step_update(0)
    optimizer = make_optimizer(training.config.train, supernet)
    for own, theirs in zip(optimizer.param_groups, training.optimizer.param_groups, strict=True):
        own["lr"] = theirs["lr"]
    losses, norms = [], []
    for place, (arch, (images, targets)) in enumerate(zip(archs, examples, strict=True)):
        outputs = supernet(images, arch)
        loss = F.cross_entropy(outputs, targets, label_smoothing=0.1)
        if place > 0:
            soft = kl_divergence(outputs, teachers[place]).mean()
            loss = hard_weight * loss + (1 - hard_weight) * soft
        supernet.zero_grad()
        loss.backward()
        for parameter in supernet.parameters():
            parameter.grad = (
                torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            )
        norms.append(float(nn.utils.clip_grad_norm_(supernet.parameters(), 0.5)))
        optimizer.step()
        losses.append(loss.item())
    figures = training.train_step(batch)
    assert figures["loss"] == pytest.approx(sum(losses) / 4, rel=1e-5)
    assert figures["grad_norm"] == pytest.approx(max(norms), rel=1e-4)
    assert_close(training.network.state_dict(), supernet.state_dict(), rtol=1e-4, atol=1e-6)
    assert training.step == 1


def test_the_largest_learns_alone_for_its_share_of_the_epochs() -> None:
    training = make_training("paths.largest_first=0.5", "train.epochs=4")
    roles = []
    for _ in range(4):
        for _ in training.epoch_batches():
            roles.append([path.role for path in training.paths.draw(Random(0))])
            training.step += 1
    sandwich = ["largest", "random", "random", "smallest"]
    half = len(roles) // 2
    assert roles == [["largest"]] * half + [sandwich] * half


def test_each_path_goes_through_the_whole_draw_once_an_epoch_and_never_beside_another() -> None:
    training = make_training(SANDWICH, "examples=importance", "train.batches=own")
    steps = [batch.indices.chunk(4) for batch in training.epoch_batches()]
    assert len(steps) == training.steps_per_epoch
    drawn = training.indices[: training.steps_per_epoch * BATCH_SIZE].tolist()
    for path in range(4):
        seen = [batches[path].tolist() for batches in steps]
        begin = path * len(steps) // 4
        shifted = seen[-begin:] + seen[:-begin] if begin else seen
        assert [index for batch in shifted for index in batch] == drawn
    for batches in steps:
        assert len({tuple(one.tolist()) for one in batches}) == 4


def test_weights_of_examples_go_with_them_to_the_paths() -> None:
    training = make_training(SANDWICH, TOGETHER, "distillation=none", "train.clip_grad=0")
    batches = training.epoch_batches()
    next(batches)
    training.step, batch = 1, next(batches)
    place = {index: place for place, index in enumerate(training.indices.tolist())}
    training.weights = torch.linspace(0, 2, len(training.weights))
    supernet = copy.deepcopy(training.network)
    losses = []
    parts = zip(sandwich_of(training), examples_of(batch, "own"), strict=True)
    for part, (arch, (images, targets)) in zip(batch.indices.chunk(4), parts, strict=True):
        own = torch.stack([training.weights[place[index]] for index in part.tolist()])
        answer = supernet(images, arch)
        each = F.cross_entropy(answer, targets, label_smoothing=0.1, reduction="none")
        losses.append((own * each).mean())
    training.train_step(batch)
    assert_gradients(training.network, hand_made_gradients(supernet, torch.stack(losses).mean()))


def test_weights_of_path_and_examples_scale_the_gradient() -> None:
    class HeavyPaths(UniformPaths[Arch]):
        def draw(self, generator: Random) -> list[SampledPath[Arch]]:
            return [SampledPath(NARROW, "random", weight=3.0)]

    training = make_training(*UNIFORM, "train.clip_grad=0")
    training.paths = HeavyPaths(space=training.config.space)
    batches = training.epoch_batches()
    next(batches)
    training.step, batch = 1, next(batches)  # the second, so that weights must be found by place
    training.weights = torch.linspace(0, 2, len(training.weights))
    supernet = copy.deepcopy(training.network)
    losses = F.cross_entropy(
        supernet(*batch.inputs, NARROW), batch.targets, label_smoothing=0.1, reduction="none"
    )
    loss = 3.0 * (training.weights[BATCH_SIZE : 2 * BATCH_SIZE] * losses).mean()
    training.train_step(batch)
    assert_gradients(training.network, hand_made_gradients(supernet, loss))


def test_gradients_are_clipped_and_logged_unclipped() -> None:
    training = make_training("train.clip_grad=0.01")
    figures = training.train_step(next(training.epoch_batches()))
    gradients = [p.grad for p in training.network.parameters() if p.grad is not None]
    assert float(nn.utils.get_total_norm(gradients)) == pytest.approx(0.01, rel=1e-3)
    assert figures["grad_norm"] > 0.1


def test_weight_decay_is_applied_to_matrices_and_spares_what_the_supernet_lists() -> None:
    training = make_training("train.weight_decay=0.07")
    spared = new_supernet(training.config).no_weight_decay()
    decay = {p: g["weight_decay"] for g in training.optimizer.param_groups for p in g["params"]}
    for name, parameter in training.network.named_parameters():
        assert decay.pop(parameter) == (0.0 if name in spared or parameter.ndim == 1 else 0.07), (
            name
        )
    assert not decay


def test_autocast_computes_in_bf16_and_keeps_everything_in_fp32() -> None:
    training = make_training("train.precision=bf16")
    exact = make_training("train.precision=fp32")
    dtypes = []
    training.network.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    steps = (one.train_step(next(one.epoch_batches())) for one in (training, exact))
    loss, expected = (figures["loss"] for figures in steps)
    assert set(dtypes) == {torch.bfloat16}
    assert loss != expected
    assert loss == pytest.approx(expected, rel=2e-2)
    states = training.network.state_dict(), training.ema.module.state_dict()
    moments = [v for s in training.optimizer.state.values() for v in s.values() if v.ndim]
    kept = [tensor for state in states for tensor in state.values()] + moments
    assert {tensor.dtype for tensor in kept} == {torch.float32}


@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_precision_is_as_asked_and_auto_is_what_the_hardware_has(
    device: str, supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": supported})
    assert uses_bf16("bf16", torch.device(device))
    assert not uses_bf16("fp32", torch.device(device))
    assert uses_bf16("auto", torch.device(device)) is supported
