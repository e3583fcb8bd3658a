"""Ground truth, scores and the stage that compares them, on tiny runs."""

import copy
import csv
import json
import math
import signal
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import nas.rank.stage
import nas.rank.standalone
from nas.__main__ import main
from nas.config.config import Config
from nas.config.run_folder import open_run
from nas.data.batches import Dataset, Split, load
from nas.evaluate import ORDER_SEED, calibrated, evaluate
from nas.files import locked, read_records
from nas.rank.correlations import estimate
from nas.rank.stage import score_arch
from nas.rank.standalone import draw_archs
from nas.records import Score, from_json
from nas.results import RankResult
from nas.train.checkpoint import load_checkpoint, save_checkpoint, save_snapshot
from nas.train.training import Training
from nas.train.weights import load_supernet, new_supernet
from search_spaces.cell import CellSpace
from search_spaces.space import to_record
from supernet.batch_norm import batch_statistics
from supernet.parameter_counts import count
from supernet.task import Batch, Metric, Task
from tests.helpers.runs import SMALL_CELLS, config_of

CPU = torch.device("cpu")
CELLS = (*SMALL_CELLS, "train.device=cpu", "train.threads=1", "train.precision=fp32")
SCORE = Score(Metric("top1", "top-1", True, True), 0.5, 0.4, 0.6, 0.7, 1.0, "val", 25, True)
ALONE = ("rank.standalone=3", "rank.standalone_epochs=2", "rank.resamples=20")


def rank(run: Path, *options: str) -> int:
    return main(["rank", f"run={run}", *options])


def found_in(run: Path) -> RankResult[Any]:
    path = run / "rank.json"
    return from_json(RankResult[Any], json.loads(path.read_text()), config_of(run).space, str(path))


def data_of(config: Config) -> Dataset:
    return load(config.data, config.task, seed=config.seed, device=CPU)


def complaint(capsys: pytest.CaptureFixture[str], run: Path, *options: str) -> str:
    assert rank(run, *options) == 2
    return capsys.readouterr().err


def weights(config: Config, seed: int) -> dict[str, Tensor]:
    """Weights near the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = new_supernet(config).state_dict()
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in state.items()
    }


def snapshot(config: Config, run: Path, step: int) -> None:
    state = {"step": step, "ema": weights(config, step), "supernet": weights(config, step + 1)}
    save_snapshot(run, state)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """A run of a tiny supernet of cells whose weights are random."""
    config, run = open_run([f"run={tmp_path / 'cells'}", *CELLS], create=True)
    state = {"step": 7, "finished": True, "ema": weights(config, 0), "supernet": weights(config, 1)}
    save_checkpoint(run, state)
    return run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Ten cells with made-up accuracies."""
    path, generator = tmp_path / "table.csv", Random(0)
    archs = {CellSpace().sample(generator): None for _ in range(10)}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch", "params_million", "percent"])
        for place, arch in enumerate(archs):
            writer.writerow([str(arch), f"{1 + place / 7:.4f}", f"{90 + place % 4:.2f}"])
    return path


# The stage


def test_subnets_trained_alone_are_compared_with_the_scores_of_the_supernet(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(run, *ALONE) == 0
    found, config = found_in(run), config_of(run, *ALONE)
    supernet, step = load_supernet(config, run, print)
    data = data_of(config)
    alone = {
        config.space.from_record(record["arch"]): record["found"]["value"]
        for record in read_records(run / "standalone.jsonl")
    }
    assert len(found.archs) == len(alone) == 3
    for row in found.archs:
        assert row.true == alone[row.arch]
        assert row.predicted == (evaluate(supernet.extract(row.arch), data, "val").value,)
        assert row.params == count(supernet, row.arch).params
    assert found.steps == (step,)
    assert found.num_examples == data.num_examples("val")
    assert (found.truth_is_fraction, found.predicted_is_fraction) == (True, True)
    for figures, predicted in (
        (found.supernet, [row.predicted[0] for row in found.archs]),
        (found.baselines["params"], [row.params for row in found.archs]),
        (found.baselines["flops"], [row.flops for row in found.archs]),
    ):
        truth = [row.true for row in found.archs]
        assert figures == estimate(truth, [predicted], resamples=20, seed=0)[1]
    out = capsys.readouterr().out
    assert "best true rank" in out
    assert out.splitlines()[-1].startswith("tau-b with val top-1 of subnets trained alone")


def test_every_snapshot_is_scored_in_the_order_of_steps(run: Path) -> None:
    config = config_of(run)
    for step in (12, 4, 100):
        snapshot(config, run, step)
    assert rank(run, *ALONE) == 0
    found = found_in(run)
    assert found.steps == (4, 12, 100)
    truth = [row.true for row in found.archs]
    predictions = [[row.predicted[place] for row in found.archs] for place in range(3)]
    each, mean = estimate(truth, predictions, resamples=20, seed=0)
    assert (list(found.checkpoints), found.supernet) == (each, mean)


def test_raw_weights_and_the_loss_rank_when_they_are_asked_for(run: Path) -> None:
    options = (*ALONE, "rank.weights=raw", "rank.score=loss")
    assert rank(run, *options) == 0
    config = config_of(run, *options)
    state = load_checkpoint(run, CPU, print)
    assert state is not None
    supernet = new_supernet(config)
    supernet.load_state_dict(state["supernet"])
    data, found = data_of(config), found_in(run)
    assert (found.predicted, found.predicted_is_fraction) == ("negated val loss", False)
    for row in found.archs:
        expected = -evaluate(supernet.extract(row.arch), data, "val").loss
        assert list(row.predicted) == pytest.approx([expected], rel=1e-5)


def test_a_ranking_that_is_done_is_not_done_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rank(run, *ALONE) == 0
    before = found_in(run)

    def refuse(*_: object) -> Any:
        raise AssertionError("must be known")

    for name in ("standalone.begin_alone", "stage.score_arch", "stage.count_flops"):
        monkeypatch.setattr(f"nas.rank.{name}", refuse)
    assert rank(run, *ALONE) == 0
    assert replace(before, seconds=0) == replace(found_in(run), seconds=0)


def test_new_weights_and_other_settings_are_scored_anew(run: Path) -> None:
    config = config_of(run)
    snapshot(config, run, 4)
    assert rank(run, *ALONE) == 0
    (run / "snapshots/step_4.pt").unlink()
    state = {"step": 4, "ema": weights(config, 9), "supernet": {}}
    save_snapshot(run, state)
    assert rank(run, *ALONE) == 0
    first, second = read_records(run / "rank_scores.jsonl")[::3]
    assert first["conditions"]["step"] == second["conditions"]["step"]
    assert first["found"]["loss"] != second["found"]["loss"]
    assert rank(run, *ALONE, "rank.batch_size=100") == 0
    assert len(read_records(run / "rank_scores.jsonl")) == 9
    found = found_in(run)
    assert (found.num_examples, found.batch_size) == (285, 95)  # of 287, in 3 equal batches


def test_what_an_older_version_found_is_found_again(run: Path) -> None:
    old = '{"step": 4, "weights": "ema", "arch": {}, "split": "val", "top1": 0.5, "loss": 1.0}\n'
    for name in ("rank_scores.jsonl", "standalone.jsonl", "rank_costs.jsonl"):
        (run / name).write_text(old)
    assert rank(run, *ALONE) == 0
    assert len(read_records(run / "rank_scores.jsonl")) == 4


def test_a_line_that_is_no_score_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rank(run, *ALONE) == 0
    path = run / "rank_scores.jsonl"
    path.write_text(path.read_text().replace('"loss"', '"lost"', 1))
    assert f"{path} line 1: loss: Field required" in complaint(capsys, run, *ALONE)


def test_two_rankings_of_a_run_do_not_mix(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(run / "rank.lock", blocking=False):
        message = complaint(capsys, run, *ALONE)
    assert f"run must not be in ranking already, got {run}" in message


# Subnets trained alone


def test_what_was_killed_goes_on_with_the_next_architecture(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rank(run, *ALONE) == 0
    path = run / "standalone.jsonl"
    whole = read_records(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:40])  # killed while it wrote the second one
    places = []
    begin = nas.rank.standalone.begin_alone

    def noted(config: Config, arch: Any, place: int, *data: Any) -> Training:
        places.append(place)
        return begin(config, arch, place, *data)

    monkeypatch.setattr("nas.rank.standalone.begin_alone", noted)
    assert rank(run, *ALONE) == 0
    assert places == [1, 2]
    assert read_records(path) == whole


def test_more_architectures_begin_with_those_of_fewer(run: Path) -> None:
    few, more = (draw_archs(config_of(run, f"rank.standalone={n}")) for n in (5, 40))
    assert more[:5] == few
    assert len(set(more)) == 40


def test_other_settings_train_the_architectures_again(run: Path) -> None:
    assert rank(run, *ALONE) == 0
    assert rank(run, "rank.standalone=3", "rank.standalone_epochs=3", "rank.resamples=20") == 0
    records = read_records(run / "standalone.jsonl")
    assert [record["conditions"]["epochs"] for record in records] == [2] * 3 + [3] * 3
    assert rank(run, *ALONE, "rank.score=loss", "rank.batch_size=64", "train.log_every=7") == 0
    assert len(read_records(run / "standalone.jsonl")) == 6


def test_a_subnet_trained_alone_begins_with_weights_of_its_own_and_learns(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Tensor]] = []
    finish = nas.rank.standalone.finish

    def noted(training: Training, *arguments: Any) -> None:
        state = training.network.state_dict()
        begun.append({name: tensor.clone() for name, tensor in state.items()})
        finish(training, *arguments)

    monkeypatch.setattr("nas.rank.standalone.finish", noted)
    options = ("rank.standalone=2", "rank.standalone_epochs=15", "rank.resamples=20")
    assert rank(run, *options) == 0
    patches = [state["patch_embed.proj.weight"][:16] for state in begun]
    initial = new_supernet(config_of(run)).state_dict()
    assert not torch.equal(*patches)
    assert not any(torch.equal(patch, patches[0]) for patch in initial.values())
    for record in read_records(run / "standalone.jsonl"):
        assert record["found"]["value"] > 0.4  # of 10 classes
        assert record["found"]["split"] == "val"


def test_a_subnet_trained_alone_takes_the_steps_of_a_plain_model(run: Path) -> None:
    config = nas.rank.standalone.standalone_config(config_of(run, *ALONE))
    config = replace(config, train=replace(config.train, precision="fp32"))
    arch = config.space.smallest()
    training = nas.rank.standalone.begin_alone(config, arch, 0, data_of(config), CPU)
    model = copy.deepcopy(training.network)
    batch = next(training.epoch_batches())
    loss = torch.nn.functional.cross_entropy(
        model(*batch.inputs), batch.targets, label_smoothing=0.1
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_grad)
    figures = training.train_step(batch)
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for mine, expected in zip(training.network.parameters(), model.parameters(), strict=True):
        assert mine.grad is not None
        assert_close(mine.grad, expected.grad)


@pytest.mark.parametrize(
    ("owner", "name", "number"), [(Training, "train_step", 5), (nas.rank.stage, "score_arch", 2)]
)
def test_a_signal_stops_the_work_and_the_same_command_finishes_it(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    number: int,
) -> None:
    work: Callable[..., Any] = getattr(owner, name)
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == number:
            signal.raise_signal(signal.SIGTERM)
        return work(*arguments)

    monkeypatch.setattr(owner, name, interrupted)
    assert rank(run, *ALONE) == 128 + signal.SIGTERM
    assert len(calls) == number
    assert not (run / "rank.json").exists()
    assert "stopped by SIGTERM; the same command goes on from here" in capsys.readouterr().err
    assert rank(run, *ALONE) == 0
    assert len(read_records(run / "rank_scores.jsonl")) == 3


def test_a_loss_that_is_not_finite_ends_the_training_alone(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object, outputs: Tensor, __: Tensor) -> Tensor:
        return outputs.sum(1) * math.nan

    monkeypatch.setattr("supernet.image_tasks.Classification.training_loss", broken)
    assert rank(run, *ALONE) == 1
    assert "loss is nan at step 0 for the single ViTArch" in capsys.readouterr().err


# Tables of benchmarks


def test_a_table_gives_the_truth_and_its_parameters(cells: Path, table: Path) -> None:
    options = (f"rank.table={table}", "rank.column=percent", "rank.resamples=20")
    assert rank(cells, *options) == 0
    found = found_in(cells)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert (found.truth, found.truth_is_fraction) == ("percent of table.csv", True)
    for row, expected in zip(found.archs, rows, strict=True):
        assert str(row.arch) == expected["arch"]
        assert row.true == float(expected["percent"]) / 100
        assert row.params == float(expected["params_million"]) * 1e6


def test_as_many_architectures_as_asked_for_are_drawn_from_a_table(
    cells: Path, table: Path
) -> None:
    drawn = []
    for seed in (0, 0, 1):
        options = (f"rank.table={table}", "rank.column=percent", "rank.resamples=20")
        assert rank(cells, *options, "rank.num_archs=4", f"rank.seed={seed}") == 0
        drawn.append([row.arch for row in found_in(cells).archs])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 4


def test_architectures_that_the_space_lacks_are_left_out(tmp_path: Path, table: Path) -> None:
    operations = "[none,skip_connect,avg_pool_3x3,nor_conv_3x3]"
    options = [f"run={tmp_path / 'run'}", *CELLS, f"space.operations={operations}"]
    config, run = open_run(options, create=True)
    save_checkpoint(run, {"step": 1, "finished": True, "ema": weights(config, 0), "supernet": {}})
    cell = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"
    with table.open("a") as file:
        file.writelines(f"{cell.replace('none', op)},1,50\n" for op in ("none", "skip_connect"))
    chosen = [f"rank.table={table}", "rank.column=percent", "rank.resamples=20"]
    assert rank(run, *chosen) == 0
    archs = [str(row.arch) for row in found_in(run).archs]
    expected = [row["arch"] for row in csv.DictReader(table.read_text().splitlines())]
    expected = [text for text in expected if "nor_conv_1x1" not in text]
    assert archs == expected


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, [], "rank.table must be a readable csv file"),
        ("cell,percent\n", [], "rank.table must be a csv with a column arch, got ['cell', "),
        ("arch,top1\n", [], "rank.column must be a column of"),
        ("arch,percent\nx,50\n", [], "line 2: a cell is written |op~0|+|op~0|op~1|+..., got 'x'"),
        ("arch,percent\nx,best\n", [], "line 2: percent must be a number, got 'best'"),
        ("arch,percent,params_million\nx,50,nan\n", [], "line 2: params_million must be a number"),
        ("arch,percent\nx\n", [], "line 2: percent must be a number, got None"),
        ("arch,percent\nx,950\n", [], "line 2: percent must be percent, in 0..100, got 950.0"),
        ("arch,percent\nx,nan\n", [], "line 2: percent must be a number, got 'nan'"),
        ("arch,percent\n{},5\n{},6\n", [], "a table without repeated architectures, got 1"),
        ("arch,percent\n{},5\n", [], "a table of two of the space's architectures, got 1"),
        ("arch,percent\n{},5\n", ["rank.num_archs=2"], "rank.num_archs must be at most the 1 arch"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    cells: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    options: list[str],
    message: str,
) -> None:
    path = tmp_path / "bad.csv"
    if text is not None:
        path.write_text(text.replace("{}", str(CellSpace().largest())))
    given = (f"rank.table={path}", "rank.column=percent", *options)
    assert message in complaint(capsys, cells, *given)


def test_a_table_may_hold_transformers_as_json(run: Path, tmp_path: Path) -> None:
    space, path = config_of(run).space, tmp_path / "table.csv"
    archs = [space.smallest(), space.largest()]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch", "percent"])
        writer.writerows(
            [json.dumps(to_record(arch)), 50 + place] for place, arch in enumerate(archs)
        )
    assert rank(run, f"rank.table={path}", "rank.column=percent", "rank.resamples=20") == 0
    assert [(row.arch, row.true) for row in found_in(run).archs] == [
        *zip(archs, (0.5, 0.51), strict=True)
    ]


# Scores


def score_of(run: Path, arch: Hashable, *options: str) -> Score:
    config = config_of(run, *options)
    supernet, _ = load_supernet(config, run, print)
    return score_arch(config.rank, supernet, data_of(config), arch)


def test_the_supernet_scores_with_the_statistics_of_equal_batches(cells: Path) -> None:
    config = config_of(cells)
    supernet, _ = load_supernet(config, cells, print)
    arch = config.space.largest()
    model = supernet.extract(arch)
    data, hits = data_of(config), 0
    order = torch.randperm(287, generator=torch.Generator().manual_seed(ORDER_SEED))
    with batch_statistics(model), torch.inference_mode():
        for batch in list(data.eval_batches("val", 71, order=order))[:4]:
            hits += int((model(*batch.inputs).argmax(1) == batch.targets).sum())
    found = score_of(cells, arch, "rank.batch_size=72")
    assert (found.num_examples, found.value) == (284, hits / 284)


def test_no_batch_of_a_score_is_of_few_classes_where_images_are_sorted_by_class(
    monkeypatch: pytest.MonkeyPatch, cells: Path
) -> None:
    """As folders of images are; batch statistics of one class fit nothing that was trained."""
    config = config_of(cells)
    data = data_of(config)
    numbers = data.source.splits["val"]
    by_class = numbers[data.source.targets[numbers].argsort()]
    monkeypatch.setitem(data.source.splits, "val", by_class)
    assert len(next(iter(data.eval_batches("val", 41))).targets.unique()) < 4
    seen: list[int] = []

    def note(images: Tensor, arch: object) -> Tensor:
        seen.append(len({float(image.sum()) for image in images}))
        classes.append(len(next(targets).unique()))
        return torch.zeros(len(images), 10)

    classes: list[int] = []
    order = torch.randperm(287, generator=torch.Generator().manual_seed(ORDER_SEED))
    targets = iter([batch.targets for batch in data.eval_batches("val", 41, order=order)])
    supernet, _ = load_supernet(config, cells, print)
    monkeypatch.setattr(supernet, "forward", note)
    score_arch(config_of(cells, "rank.batch_size=41").rank, supernet, data, None)
    assert len(seen) == 7
    assert min(classes) >= 8


def test_calibrated_scores_are_those_of_the_extracted_model_with_statistics(cells: Path) -> None:
    arch = config_of(cells).space.largest()
    options = ("rank.batch_norm=calibrated", "rank.calibration=3", "rank.batch_size=100")
    found = score_of(cells, arch, *options)
    assert found.num_examples == 287
    assert found == score_of(cells, arch, *options)
    assert found.loss != score_of(cells, arch, "rank.batch_size=100").loss
    assert found.loss != score_of(cells, arch, *options, "rank.calibration=1").loss
    assert found.loss != score_of(cells, arch, *options, "rank.seed=1").loss


@dataclass
class TrainOnly:
    """A data set of 25 training images, each of whose pixels are its position."""

    task: Task
    num_train: int = 25

    def num_examples(self, split: Split) -> int:
        raise AssertionError("calibration must see train images alone")

    def eval_batches(
        self, split: Split, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[Batch]:
        raise AssertionError("calibration must see train images alone")

    def unmixed(self) -> "TrainOnly":
        return self

    def train_batches(
        self, indices: Tensor, *, batch_size: int, seed: int, start: int = 0
    ) -> Iterator[Batch]:
        for chosen in torch.split(indices, batch_size):
            images = chosen[:, None, None, None].expand(-1, 1, 8, 8).float()
            yield Batch((images,), chosen, chosen)


@pytest.mark.parametrize(("size", "num_batches", "seen"), [(4, 3, 12), (4, 6, 24), (100, 3, 25)])
def test_calibration_sees_distinct_train_images_in_an_order_of_the_seed(
    cells: Path, monkeypatch: pytest.MonkeyPatch, size: int, num_batches: int, seen: int
) -> None:
    config = config_of(
        cells,
        "rank.batch_norm=calibrated",
        f"rank.batch_size={size}",
        f"rank.calibration={num_batches}",
    )
    supernet = new_supernet(config)

    def images(seed: int) -> list[float]:
        found: list[float] = []

        def noted(_model: torch.nn.Module, batches: Iterator[tuple[Tensor, ...]]) -> None:
            found.extend(float(image.mean()) for (images,) in batches for image in images)

        monkeypatch.setattr("nas.evaluate.calibrate", noted)
        monkeypatch.setattr("nas.rank.stage.evaluate", lambda *_, **__: SCORE)
        settings = replace(config.rank, seed=seed)
        score_arch(settings, supernet, cast(Any, TrainOnly(config.task)), CellSpace().largest())
        return found

    assert len(images(0)) == len(set(images(0))) == seen
    assert images(0) == images(0) != images(1)


def test_transformers_score_alike_with_and_without_calibration(run: Path) -> None:
    arch = config_of(run).space.smallest()
    within, extracted = (
        score_of(run, arch, f"rank.batch_norm={kind}") for kind in ("batch", "calibrated")
    )
    assert within.value == extracted.value
    assert_close(within.loss, extracted.loss)


def test_cells_trained_alone_are_scored_with_statistics_of_their_averaged_weights(
    cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = []

    def noted(model: torch.nn.Module, *arguments: Any) -> Score:
        models.append(model)
        return evaluate(model, *arguments)

    monkeypatch.setattr("nas.rank.standalone.evaluate", noted)
    options = ("rank.standalone=2", "rank.standalone_epochs=6", "rank.resamples=20")
    assert rank(cells, *options) == 0
    config = config_of(cells)
    data, size = data_of(config), config.data.batch_size
    for model, record in zip(models, read_records(cells / "standalone.jsonl"), strict=True):
        again = evaluate(calibrated(model, data, size), data, "val")
        assert record["found"]["loss"] == pytest.approx(again.loss)
    assert max(row.true for row in found_in(cells).archs) > 0.2  # of 10 classes


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "rank.table or rank.standalone must be given, got neither"),
        (
            ["rank.table=x.csv", "rank.standalone=3"],
            "rank.standalone must be 0 where rank.table is",
        ),
        (["rank.standalone=1"], "rank.standalone must be 0 or at least 2, got 1"),
        (["rank.standalone=-2"], "rank.standalone must be 0 or at least 2, got -2"),
        (["rank.standalone=999999999"], "rank.standalone must be at most the "),
        (["rank.num_archs=5"], "rank.num_archs must be 0 without rank.table, got 5"),
        (["rank.table=x.csv", "rank.num_archs=1"], "rank.num_archs must be 0 or at least 2, got 1"),
        (["rank.standalone_epochs=5"], "rank.standalone_epochs must be 0 without rank.standalone"),
        (
            ["rank.standalone=3", "rank.standalone_epochs=1"],
            "rank.standalone_epochs must be more than train.warmup_epochs (1), got 1",
        ),
        (["rank.weights=last"], "rank.weights must be one of ('ema', 'raw'), got 'last'"),
        (["rank.score=top5"], "rank.score must be one of ('metric', 'loss'), got 'top5'"),
        (["rank.batch_norm=no"], "rank.batch_norm must be one of ('batch', 'calibrated')"),
        (["rank.batch_size=1"], "rank.batch_size must be at least 2, got 1"),
        (["rank.calibration=0"], "rank.calibration must be positive, got 0"),
        (["rank.resamples=-1"], "rank.resamples must be positive, got -1"),
        (["rank.seed=-1"], "rank.seed must be in [0, 2**32), got -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in complaint(capsys, run, *options)
    assert not (run / "rank.json").exists()


def test_nothing_is_trained_alone_where_there_is_no_supernet_to_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = open_run([f"run={tmp_path / 'run'}"], create=True)
    message = complaint(capsys, run, "rank.standalone=2")
    assert f"run must hold a checkpoint; nas train run={run} makes one, got none" in message
    assert not (run / "standalone.jsonl").exists()


def test_a_damaged_snapshot_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot(config_of(run), run, 4)
    path = run / "snapshots/step_4.pt"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path} must be a whole snapshot, got a damaged one" in complaint(capsys, run, *ALONE)
