"""One subnet further, or alone from scratch: what it begins with, learns from, and may not be."""

import copy
import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from torch.nn import functional as F
from torch.testing import assert_close

from nas.__main__ import main
from nas.config.config import Config
from nas.config.run_folder import MEMORY, SETTINGS, compose_config, load_mapping, open_run
from nas.data.batches import load
from nas.evaluate import calibrated, evaluate
from nas.files import write_atomic
from nas.finetune.stage import literal
from nas.train.checkpoint import save_checkpoint
from nas.train.training import Training
from nas.train.weights import initial_weights, load_supernet, new_supernet
from search_spaces.space import to_record
from supernet.losses import FrozenTeacher
from supernet.sampling.examples import UniformData
from supernet.sampling.paths import SinglePath
from supernet.task import Batch
from tests.config.test_old_names import OLD_RUN
from tests.helpers.runs import (
    TINY,
    TINY_CELLS,
    checkpoint,
    config_of,
    metrics,
    result_of,
    use_paper_device,
)

CPU = torch.device("cpu")
ARCH = {
    "embed_dim": 32,
    "num_heads": [2, 3],
    "mlp_ratio": [2, 4],
    "rank": [4, 0],
    "num_atoms": 1,
}
CELL = {"operations": ["nor_conv_1x1", "skip_connect"] * 3}
STEPS_PER_EPOCH = 3


def arch_file(folder: Path, record: object = ARCH, name: str = "wanted.json") -> str:
    (folder / name).write_text(json.dumps(record))
    return f"arch={literal(str(folder / name))}"


def finetune(run: Path, *overrides: str) -> int:
    return main(["finetune", f"run={literal(str(run))}", *overrides])


def begin(run: Path, patch: pytest.MonkeyPatch, *overrides: str) -> int:
    """Makes the subnet's run folder without any training."""
    with patch.context() as context:
        context.setattr("nas.finetune.stage.train", lambda *_: None)
        return finetune(run, *overrides)


@pytest.fixture
def wanted(run: Path) -> str:
    return arch_file(run)


def assert_refused(
    code: int, capsys: pytest.CaptureFixture[str], *messages: str, stage: str = "finetune"
) -> None:
    told = capsys.readouterr().err
    assert code == 2, told
    assert told.startswith(f"nas {stage}: ")
    for message in messages:
        assert message in told


@pytest.fixture(scope="module")
def searched_run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("searched") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        use_paper_device(patch)
        options = ["search.trials=3", "budget.params=22000"]
        assert main(["search", f"run={run}", *options]) == 0
    return run


@pytest.fixture
def searched(searched_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched_run, tmp_path / "searched"))


@pytest.fixture(scope="module")
def tuned_run(searched_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A searched run whose best subnet was trained further, and alone."""
    run = Path(shutil.copytree(searched_run, tmp_path_factory.mktemp("tuned") / "run"))
    assert finetune(run) == 0
    assert finetune(run, "from=scratch") == 0
    return run


@pytest.fixture
def tuned(tuned_run: Path, tmp_path: Path) -> Path:
    run = Path(shutil.copytree(tuned_run, tmp_path / "tuned"))
    for folder in (run / "finetuned", run / "scratch"):  # the copy's own supernet
        for path in (folder / MEMORY, folder / SETTINGS):
            path.write_text(path.read_text().replace(str(tuned_run.resolve()), str(run.resolve())))
    return run


def training_of(config: Config) -> Training:
    data = load(config.data, config.task, seed=config.seed, device=CPU)
    supernet, teacher = initial_weights(config, data, pytest.fail, is_new=True)
    return Training(config, supernet, data, CPU, teacher=teacher)


# What it begins with


def test_it_begins_with_the_inherited_weights(tuned_run: Path) -> None:
    chosen, config = result_of(tuned_run).chosen, config_of(tuned_run)
    assert chosen is not None
    data = load(config.data, config.task, seed=config.seed, device=CPU)
    supernet, _ = load_supernet(config, tuned_run, pytest.fail)
    plain = calibrated(supernet.extract(chosen.arch), data, config.data.batch_size)
    score = evaluate(plain, data, "val")
    first, *others = [r for r in metrics(tuned_run / "finetuned") if r["kind"] == "eval"]
    assert (first["step"], first["probe"], first["epoch"]) == (0, "subnet", 0)
    assert (first["top1"], first["low"], first["high"]) == (score.value, score.low, score.high)
    assert first["loss"] == score.loss
    assert first["top1"] == chosen.score.value
    assert [r["probe"] for r in others] == ["subnet"]
    weights = training_of(config_of(tuned_run / "finetuned")).network.state_dict()
    assert_close(weights, checkpoint(tuned_run)["ema"], rtol=0, atol=0)


def test_the_subnet_is_the_only_one_that_is_trained(tuned_run: Path) -> None:
    config = config_of(tuned_run / "finetuned")
    chosen = result_of(tuned_run).chosen
    assert chosen is not None
    assert config.paths(space=config.space).only == chosen.arch
    assert isinstance(config.examples(num_examples=2), UniformData)
    training = training_of(config)
    paths = [training.paths.draw(training.path_generator) for _ in range(5)]
    assert [[path.arch for path in drawn] for drawn in paths] == [[chosen.arch]] * 5


def test_from_scratch_it_begins_with_initial_weights_and_has_all_epochs(tuned_run: Path) -> None:
    config, whole = config_of(tuned_run / "scratch"), config_of(tuned_run)
    weights = training_of(config).network.state_dict()
    assert_close(weights, new_supernet(whole).state_dict(), rtol=0, atol=0)
    train = config.train
    assert train == replace(whole.train)
    assert train.epochs == 2
    evals = [r for r in metrics(tuned_run / "scratch") if r["kind"] == "eval"]
    assert [(r["epoch"], r["probe"]) for r in evals] == [(1, "subnet"), (2, "subnet")]


def test_it_may_begin_with_another_run_as_a_supernet_does_too(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert main(["train", f"run={other}", *TINY, f"train.init={run}", "train.epochs=2"]) == 0
    firsts = [r for r in metrics(other) if r["step"] == 0]
    lasts = [r for r in metrics(run) if r["kind"] == "eval"][-2:]
    assert [r["probe"] for r in firsts] == ["smallest", "largest"]
    assert [(r["probe"], r["top1"]) for r in firsts] == [(r["probe"], r["top1"]) for r in lasts]


def test_without_a_checkpoint_the_inherited_score_is_not_logged_twice(
    run: Path, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Training, batch: Batch) -> dict[str, float]:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", fail)
        assert finetune(run, wanted) == 1
    assert finetune(run, wanted) == 0
    assert [r["step"] for r in metrics(run / "finetuned_wanted")].count(0) == 1


# What it learns from


@pytest.fixture
def taught(run: Path, wanted: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    options = ("finetune.teacher=largest", "finetune.epochs=2")
    assert begin(run, monkeypatch, wanted, *options) == 0
    return run / "finetuned_wanted"


def test_the_loss_is_of_labels_and_of_the_supernets_largest_subnet(run: Path, taught: Path) -> None:
    config = config_of(taught)
    assert isinstance(config.distillation, FrozenTeacher)
    config = replace(config, train=replace(config.train, clip_grad=0.0))
    training = training_of(config)
    batch = next(training.epoch_batches())
    student = copy.deepcopy(training.network)
    supernet, _ = load_supernet(config_of(run), run, pytest.fail)
    with torch.no_grad():
        teacher = supernet(*batch.inputs, config.space.largest()).softmax(1)
    logits = student(*batch.inputs, config.space.from_record(ARCH))
    hard = F.cross_entropy(logits, batch.targets, label_smoothing=0.1)
    soft = (teacher * (teacher.log() - logits.log_softmax(1))).sum(1).mean()
    loss = 0.5 * hard + 0.5 * soft
    loss.backward()
    assert training.train_step(batch)["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in student.named_parameters():
        found = training.network.get_parameter(name).grad
        if parameter.grad is None:
            assert found is None or not found.any(), name
        else:
            assert_close(found, parameter.grad, atol=1e-6, rtol=1e-4)


def test_the_teacher_never_moves_and_is_the_supernets_after_a_resume_too(
    run: Path, taught: Path
) -> None:
    config, ema = config_of(taught), checkpoint(run)["ema"]
    training = training_of(config)
    for batch in training.epoch_batches():
        training.train_step(batch)
    assert training.teacher is not None
    assert_close(training.teacher.state_dict(), ema, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in training.teacher.parameters())
    resumed = training_of(config)
    resumed.load_state_dict(training.state_dict())
    assert resumed.teacher is not None
    assert_close(resumed.teacher.state_dict(), ema, rtol=0, atol=0)
    moved = resumed.network.state_dict()
    assert any(not torch.equal(moved[name], ema[name]) for name in ema)


def test_a_supernet_that_is_not_finished_teaches_nothing(
    run: Path, taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = checkpoint(run)
    save_checkpoint(run, {**state, "finished": False})
    message = "train.init must be a finished run, whose largest subnet teaches (distillation), got"
    assert_refused(main(["train", f"run={taught}"]), capsys, message, stage="train")


def test_a_run_that_has_moved_is_gone_on_with(
    run: Path, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = Training.train_step

    def stopped(self: Training, batch: Batch) -> dict[str, float]:
        figures = train_step(self, batch)
        signal.raise_signal(signal.SIGTERM)
        return figures

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", stopped)
        assert finetune(run, wanted) == 128 + signal.SIGTERM
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    run.rename(tmp_path / "moved")
    assert main(["train", f"run={tmp_path / 'moved' / 'finetuned_wanted'}"]) == 0
    assert finetune(whole, f"arch={whole / 'wanted.json'}") == 0
    ends = [checkpoint(tmp_path / name / "finetuned_wanted") for name in ("moved", "whole")]
    assert ends[0]["finished"]
    assert_close(ends[0]["ema"], ends[1]["ema"], rtol=0, atol=0)


def test_the_weight_of_labels_is_the_supernets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained_run: Path
) -> None:
    run = made_with(trained_run, tmp_path / "run", "distillation.hard_weight=0.25")
    wanted = arch_file(run)
    assert begin(run, monkeypatch, wanted, "finetune.teacher=largest") == 0
    distillation = config_of(run / "finetuned_wanted").distillation
    assert isinstance(distillation, FrozenTeacher)
    assert distillation.hard_weight == 0.25


# Stopping


@pytest.mark.parametrize("teacher", ["none", "largest"])
def test_stopped_and_resumed_it_equals_one_never_stopped(
    run: Path, wanted: str, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (wanted, f"finetune.teacher={teacher}", "finetune.epochs=2")
    assert finetune(run, *options) == 0
    folder = run / "finetuned_wanted"
    whole = folder.rename(tmp_path / "whole")
    steps = [r["step"] for r in metrics(whole) if r["kind"] == "eval"]
    train_step = Training.train_step

    def stopped(self: Training, batch: Batch) -> dict[str, float]:
        figures = train_step(self, batch)
        if self.step in (1, steps[1], steps[1] + 2):  # the first, the end of an epoch, and between
            signal.raise_signal(signal.SIGTERM)
        return figures

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", stopped)
        for _ in range(3):
            assert finetune(run, *options) == 128 + signal.SIGTERM
    # nas train goes on with it as well: it is a run as any.
    assert main(["train", f"run={folder}"]) == 0
    assert_close(checkpoint(folder), checkpoint(whole), rtol=0, atol=0)
    assert metrics(folder) == metrics(whole)


def test_a_finished_one_is_left_as_it_is(
    tuned: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def content() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (tuned / "finetuned").iterdir()}

    before = content()
    monkeypatch.chdir(tuned.parent)
    for spelling in (tuned, Path(tuned.name), tuned / ".." / tuned.name):
        assert finetune(spelling) == 0
        assert "training is finished" in capsys.readouterr().out
        assert content() == before


# Options of the supernet's run


def made_with(trained_run: Path, run: Path, *overrides: str, conf: Path | None = None) -> Path:
    """A run of other options, with the checkpoint of a run whose weights have the same shapes."""
    open_run([f"run={literal(str(run))}", *TINY, *overrides], conf, create=True)
    shutil.copy(trained_run / "checkpoint.pt", run)
    return run


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """An experiment that sets options of parts which a subnet alone does not have."""
    folder = tmp_path / "conf"
    (folder / "experiment").mkdir(parents=True)
    (folder / "paths").mkdir()
    (folder / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /paths: three\n"
        "paths: {num_random: 1}\n"
        "distillation: {hard_weight: 0.75}\n"
        "train: {probes: {small: {embed_dim: 16, num_heads: [2], mlp_ratio: [1], rank: [4], "
        "num_atoms: 1}}}\n"
        "budget: {latency_of_largest: 0.6}\n"
    )
    (folder / "paths" / "three.yaml").write_text(
        "_target_: supernet.sampling.paths.SandwichPaths\nnum_random: 3\n"
    )
    return folder


PROBE = "{embed_dim:16,num_heads:[2],mlp_ratio:[1],rank:[4],num_atoms:1}"
OTHERS = {
    "random": ("paths.num_random=1",),
    "sandwich_importance": ("paths=sandwich_importance", "paths.random.floor=0.2"),
    "examples": ("examples=importance", "examples.floor=0.3", "examples.weighted=false"),
    "probe": (f"+train.probes.tiny={PROBE}",),
    "importance": ("paths=importance", "distillation=none"),
    "temperature": ("distillation.temperature=2", "distillation.hard_weight=0.25"),
    "measured": ("train.snapshots=2", "train.variance_draws=2", "budget.params=100"),
    "added": ("++paths.num_random=4",),
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_options_of_other_samplers_and_losses_do_not_get_in_the_way(
    options: tuple[str, ...], trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_with(trained_run, tmp_path / "run", *options)
    for _ in range(2):  # the second finds a folder that remembers
        assert begin(run, monkeypatch, arch_file(run), "finetune.teacher=largest") == 0
    check_alone(config_of(run / "finetuned_wanted"), "largest")
    assert begin(run, monkeypatch, arch_file(run), "from=scratch") == 0
    check_alone(config_of(run / "scratch_wanted"))


def check_alone(config: Config, teacher: str = "none") -> None:
    paths = config.paths(space=config.space)
    assert type(paths) is SinglePath
    assert type(config.examples(num_examples=3)) is UniformData
    assert config.distillation.teacher == {"none": "none", "largest": "init"}[teacher]
    assert (config.train.snapshots, config.train.variance_draws) == (0, 0)


@pytest.mark.parametrize("teacher", ["none", "largest"])
def test_what_an_experiment_of_ones_own_sets_does_not_get_in_the_way(
    teacher: str, conf: Path, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_with(trained_run, tmp_path / "run", "experiment=mine", conf=conf)
    given = (arch_file(run), f"finetune.teacher={teacher}")
    for _ in range(2):
        assert begin(run, monkeypatch, *given) == 0
    config = config_of(run / "finetuned_wanted")
    check_alone(config, teacher)
    if isinstance(config.distillation, FrozenTeacher):
        assert config.distillation.hard_weight == 0.75
    assert finetune(run, *given) == 0


def test_layers_with_weights_of_their_own_are_trained_further(tmp_path: Path) -> None:
    run = tmp_path / "own"
    options = [option for option in TINY if not option.startswith("space.num_atoms")]
    assert main(["train", f"run={run}", *options, "source=own"]) == 0
    wanted = arch_file(run, {**ARCH, "rank": [0, 0], "num_atoms": 0})
    assert finetune(run, wanted, "finetune.teacher=largest") == 0
    first, last = (r for r in metrics(run / "finetuned_wanted") if r["kind"] == "eval")
    assert last["loss"] < first["loss"]


CELL_EXPERIMENT = (
    "experiment=nasbench201",
    "data=digits",
    "data.batch_size=256",
    *(o for o in TINY_CELLS if not o.startswith(("space=", "source=", "paths=", "distillation="))),
)


@pytest.mark.parametrize("teacher", ["none", "largest"])
def test_cells_of_an_experiment_with_importance_are_trained_further(
    teacher: str, tmp_path: Path
) -> None:
    run = tmp_path / "cells"
    assert main(["train", f"run={run}", *CELL_EXPERIMENT]) == 0
    arch = config_of(run).space.largest()
    wanted = arch_file(run, to_record(arch))
    assert finetune(run, wanted, f"finetune.teacher={teacher}") == 0
    child = run / "finetuned_wanted"
    check_alone(config_of(child), teacher)
    first = next(r for r in metrics(child) if r["kind"] == "eval")
    inherited = [r for r in metrics(run) if r["kind"] == "eval" and r["probe"] == "largest"][-1]
    assert (first["top1"], first["loss"]) == (inherited["top1"], inherited["loss"])


def test_an_old_run_is_trained_further(tmp_path: Path, trained_run: Path) -> None:
    run = Path(shutil.copytree(OLD_RUN, tmp_path / "old"))
    shutil.copy(trained_run / "checkpoint.pt", run)
    assert finetune(run, arch_file(run)) == 0
    assert config_of(run / "finetuned_wanted").train.epochs == 1


ODD = ["a b", "it's", 'say "so"', "a,b", "seed=1", "{a}", "[b]", "(c)", "back\\slash",
       "end\\", "back\\'quote", "#~%:@"]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_text_is_written_as_hydra_reads_it(name: str) -> None:
    value = OverridesParser.create().parse_override(f"run={literal(name)}").value()
    assert value == name
    assert compose_config([f"run={literal(name)}"]).run == name
    assert compose_config([f"+a={{b:[{literal(name)},1.5,null]}}"]).a.b == [name, 1.5, None]


@pytest.mark.parametrize("name", ["{a: 'b', \"c d\"}", "seed=1,it's [x]\\'", "end\\"])
def test_a_run_folder_may_have_any_name(
    name: str, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_with(trained_run, tmp_path / name)
    for start in ("supernet", "scratch"):
        assert begin(run, monkeypatch, arch_file(run, name=f"{name}.json"), f"from={start}") == 0
    config, folder = open_run([f"run={literal(str(run / f'finetuned_{name}'))}"], create=False)
    assert folder == run / f"finetuned_{name}"
    assert Path(config.train.init) == run.resolve()
    assert (run / f"scratch_{name}" / MEMORY).is_file()
    begun = training_of(config).network.state_dict()
    assert_close(begun, checkpoint(run)["ema"], rtol=0, atol=0)


def test_device_data_and_wandb_are_as_this_command_says(
    run: Path, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("train.device=auto", "train.threads=2", "wandb.mode=offline", "wandb.project=mine")
    assert begin(run, monkeypatch, wanted, *options) == 0
    config = config_of(run / "finetuned_wanted")
    assert (config.train.device, config.train.threads) == ("auto", 2)
    assert (config.wandb.mode, config.wandb.project) == ("offline", "mine")


# How long, and how fast


@pytest.mark.parametrize(
    ("made", "given", "expected"),  # epochs, lr, min_lr, warm-up
    [
        ((), (), (1, 1e-3, 1e-5, 0)),
        (("train.epochs=60", "train.warmup_epochs=10"), (), (6, 1e-3, 1e-5, 1)),
        (("train.epochs=61", "train.warmup_epochs=9"), (), (7, 1e-3, 1e-5, 1)),
        (("train.epochs=20",), ("finetune.epochs=20",), (20, 1e-3, 1e-5, 1)),
        ((), ("finetune.lr=0.01",), (1, 0.01, 1e-5, 0)),
        ((), ("finetune.lr=1e-6",), (1, 1e-6, 1e-6, 0)),
        (("train.min_lr=0.002",), (), (1, 1e-3, 1e-3, 0)),
        ((), ("from=scratch",), (2, 2e-3, 1e-5, 1)),
        ((), ("from=scratch", "finetune.epochs=4", "finetune.lr=0.5"), (4, 0.5, 1e-5, 2)),
    ],
)
def test_epochs_rate_and_warm_up_follow_the_supernets(
    made: tuple[str, ...],
    given: tuple[str, ...],
    expected: tuple[float, ...],
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = made_with(trained_run, tmp_path / "run", *made)
    assert begin(run, monkeypatch, arch_file(run), *given) == 0
    start = "scratch" if "from=scratch" in given else "finetuned"
    train = config_of(run / f"{start}_wanted").train
    assert (train.epochs, train.lr, train.min_lr, train.warmup_epochs) == expected


# Which subnet


def test_each_pick_has_a_folder_of_its_own(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picks = {"best": "", "smallest": "_smallest", "largest": "_largest", "1": "_1"}
    found = result_of(searched)
    for pick, ending in picks.items():
        assert begin(searched, monkeypatch, f"pick={pick}") == 0
        config = config_of(searched / f"finetuned{ending}")
        only = config.paths(space=config.space).only
        assert pick != "smallest" or only == found.smallest.arch
        assert pick != "largest" or only == found.largest.arch
        assert config.budget.record() == {"params": 22000}


def test_the_budgets_are_those_of_the_search_alone(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = load_mapping(searched / MEMORY)
    overrides = [*memory["overrides"], "budget.latency_ms=7"]
    OmegaConf.save({**memory, "overrides": overrides}, searched / MEMORY)
    assert begin(searched, monkeypatch) == 0
    assert config_of(searched / "finetuned").budget.record() == {"params": 22000}


def test_a_search_that_found_nothing_ends_as_it_did(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    assert main(["search", f"run={run}", "search.trials=1", "budget.params=10"]) == 3
    assert finetune(run) == 3
    assert not (run / "finetuned").exists()


# Export


@pytest.mark.parametrize("name", ["finetuned", "scratch"])
def test_it_is_exported_without_a_largest_and_held_to_the_searchs_budgets(
    name: str, tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_paper_device(monkeypatch)
    child, chosen = tuned / name, result_of(tuned).chosen
    assert chosen is not None
    assert main(["export", f"run={child}"]) == 0
    card = json.loads((child / "subnet" / "card.json").read_text())
    assert card["largest_test"] is None
    assert config_of(child).space.from_record(card["arch"]) == chosen.arch
    assert [(one["key"], one["met"]) for one in card["budgets"]] == [("params", True)]
    config = config_of(child)
    supernet, _ = load_supernet(config, child, pytest.fail)
    data = load(config.data, config.task, seed=config.seed, device=CPU)
    assert card["test"]["value"] == evaluate(supernet.extract(chosen.arch), data, "test").value
    assert "- the largest subnet:" not in (child / "subnet" / "README.md").read_text()
    assert "largest subnet" not in capsys.readouterr().out
    assert main(["report", f"run={child}"]) == 0
    assert main(["report", f"run={tuned}"]) == 0
    assert "What inherited weights are worth" in (tuned / "report.html").read_text()


# Bad input


@pytest.mark.parametrize(
    ("stage", "options", "messages"),
    [
        ("finetune", (), ("run must be of a supernet (nas train), got", "of one subnet alone")),
        ("search", (), ("run must be of a supernet (nas train), got", "of one subnet alone")),
        ("rank", ("rank.standalone=2",), ("run must be of a supernet (nas train), got",)),
        ("export", ("pick=3",), ("pick must be best: ", "has one subnet alone, got '3'")),
        ("export", ("pick=largest",), ("pick must be best: ", "got 'largest'")),
        ("export", ("arch=a.json",), ("arch must be empty: ", "got 'a.json'")),
    ],
)
def test_a_run_of_one_subnet_is_no_supernet(
    tuned_run: Path,
    stage: str,
    options: tuple[str, ...],
    messages: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main([stage, f"run={tuned_run / 'finetuned'}", *options])
    assert_refused(code, capsys, *messages, stage=stage)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("from=elsewhere", "from must be supernet or scratch, got 'elsewhere'"),
        ("from=[1]", "from must be of type str, got [1]"),
        ("from=null", "from must be of type str, got None"),
        ("finetune.teacher=x", "finetune.teacher must be one of ('largest', 'none'), got 'x'"),
        ("finetune.epochs=-1", "finetune.epochs must be zero or positive, got -1"),
        ("finetune.epochs=1.5", "finetune.epochs must be of type int, got 1.5"),
        ("finetune.lr=nan", "finetune.lr must be zero or positive, got nan"),
        ("finetune.epoch=1", "finetune.epoch must be an option of finetune (epochs), got"),
        ("train.epochs=3", "train.epochs: 2 there, 3 now"),
        ("pick=worst", "pick must be best, or smallest, largest or a trial number"),
        ("pick=best", "pick must follow a search"),
    ],
)
def test_bad_input_is_named(
    run: Path, option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(finetune(run, option), capsys, message)
    assert not list(run.glob("finetuned*"))


def test_a_teacher_of_a_run_from_scratch_is_refused(
    run: Path, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = finetune(run, wanted, "from=scratch", "finetune.teacher=largest")
    message = "finetune.teacher must be none with from=scratch, which has no supernet, got 'larg"
    assert_refused(code, capsys, message)


def test_an_architecture_of_another_space_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = finetune(run, arch_file(run, {**ARCH, "embed_dim": 24}))
    assert_refused(code, capsys, "arch must be an architecture of the space", "got 24")
    code = finetune(run, arch_file(run, CELL))
    assert_refused(code, capsys, "arch must be an architecture of the space")
    assert_refused(finetune(run, "arch=none.json"), capsys, "arch must be a readable file, got no")
    assert not list(run.glob("finetuned*"))


def test_a_folder_holds_one_subnet(
    run: Path, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(run, wanted) == 0
    capsys.readouterr()
    code = finetune(run, arch_file(run, {**ARCH, "embed_dim": 16}))
    assert_refused(code, capsys, "finetuned_wanted", "paths.arch.embed_dim: 32 there, 16 now")
    code = finetune(run, arch_file(run), "finetune.teacher=largest")
    assert_refused(code, capsys, "distillation._target_: ")


def test_a_run_that_was_not_trained_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_run([f"run={tmp_path}/new", *TINY], create=True)
    code = finetune(tmp_path / "new", arch_file(tmp_path))
    assert_refused(code, capsys, "run must hold a checkpoint; nas train run=")
    assert_refused(finetune(tmp_path / "none"), capsys, "run must be a folder that nas train")


def test_training_does_not_begin_with_what_is_no_such_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(name: str, *options: str, message: str) -> None:
        code = main(["train", f"run={tmp_path / name}", *TINY, *options])
        assert_refused(code, capsys, message, stage="train")
        assert not (tmp_path / name / "checkpoint.pt").exists()

    init, rule = f"train.init={run}", "train.init must be a run of the same space, source and sizes"
    refused("wide", init, "space.embed_dim=[16,48]", message=rule)
    refused("own", init, "source=own", "space.num_atoms=[0]", message=rule)
    refused("none", f"train.init={tmp_path / 'x'}", message="train.init must hold a checkpoint; ")
    message = "train.init must be the run whose largest subnet teaches (distillation), got 'none'"
    refused("taught", "distillation=frozen", message=message)
    refused("single", "paths=single", "distillation=none", message="paths.arch must be a mapping")
    write_atomic(run / "task.json", json.dumps({"classes": ["a", "b"]}))
    refused("data", init, message="data.root must be the data that")


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Nothing is written to where the command is given."""
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    yield
    assert not {p.name for p in set(tmp_path.iterdir()) - before} & {"finetuned", "runs"}
