"""NAS-Bench-201's cells through every stage: batch norms without statistics of their own."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

import nas.export.stage
from nas.__main__ import main
from nas.data.batches import Dataset, load
from nas.evaluate import NUM_CALIBRATION, calibrated, evaluate
from nas.exits import NotEqual
from nas.export.stage import TOLERANCES, compare
from nas.files import read_records
from nas.train.weights import load_supernet
from search_spaces.cell import CellArch
from search_spaces.space import to_record
from supernet.batch_norm import calibrate
from supernet.families.cell import CellNetwork, CellSizes
from supernet.supernet import Supernet
from tests.helpers.exported import PROGRAMS
from tests.helpers.runs import TINY_CELLS, config_of, judged, result_of

CPU = torch.device("cpu")
TOLERANCE = 1e-5


@pytest.fixture(scope="module", name="run")
def run_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage, one after the other."""
    run = tmp_path_factory.mktemp("cells") / "run"
    assert main(["train", f"run={run}", *TINY_CELLS]) == 0
    assert main(["measure", f"run={run}", "budget.params_of_largest=0.7"]) == 0
    assert main(["search", f"run={run}", "budget.params_of_largest=0.7", "search.trials=4"]) == 0
    assert main(["export", f"run={run}"]) == 0
    assert main(["report", f"run={run}"]) == 0
    return run


@pytest.fixture(scope="module", name="supernet")
def supernet_fixture(run: Path) -> Supernet[Any]:
    return load_supernet(config_of(run), run, pytest.fail)[0]


@pytest.fixture(name="chosen")
def chosen_fixture(run: Path) -> CellArch:
    chosen = result_of(run).chosen
    assert chosen is not None
    assert isinstance(chosen.arch, CellArch)
    return chosen.arch


@pytest.fixture(name="data")
def data_fixture(run: Path) -> Dataset:
    config = config_of(run)
    return load(config.data, config.task, seed=config.seed, device=CPU)


def test_a_candidate_is_judged_with_the_statistics_of_training_images(
    run: Path, supernet: Supernet[Any], data: Dataset
) -> None:
    for candidate in judged(run)[:3]:
        plain = supernet.extract(candidate.arch)
        drawn = torch.randperm(data.num_train, generator=torch.Generator().manual_seed(0))
        batches = data.train_batches(drawn[:NUM_CALIBRATION], batch_size=256, seed=0)
        calibrate(plain, [batch.inputs for batch in batches])
        score = evaluate(plain, data, "val")
        assert candidate.score.value == score.value
        assert candidate.score.loss == pytest.approx(score.loss)


def test_the_last_probes_are_judged_as_the_search_judges(run: Path) -> None:
    records = [r for r in read_records(run / "metrics.jsonl") if r["kind"] == "eval"]
    last = {r["probe"]: r["loss"] for r in records[-2:]}
    found = result_of(run)
    assert last == {
        "smallest": pytest.approx(found.smallest.score.loss),
        "largest": pytest.approx(found.largest.score.loss),
    }


@pytest.mark.parametrize("name", TOLERANCES)
def test_every_file_computes_what_the_calibrated_model_computes(
    run: Path, supernet: Supernet[Any], data: Dataset, chosen: CellArch, name: str
) -> None:
    plain = calibrated(supernet.extract(chosen), data, 256)
    program = PROGRAMS[name](run / "subnet" / name, supernet, chosen)
    for number in (1, 5):
        images = torch.randn(number, 1, 8, 8, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            assert_close(program(images), plain(images), atol=TOLERANCES[name] * TOLERANCE, rtol=0)


def test_the_card_says_which_cell_it_is_and_what_the_exported_file_reaches(
    run: Path, data: Dataset, chosen: CellArch
) -> None:
    card = json.loads((run / "subnet" / "card.json").read_text())
    assert card["arch"] == json.loads(json.dumps(to_record(chosen)))
    assert card["model"] == {"in_chans": 1, "num_classes": 10, "channels": 4, "num_cells": 1}
    model = CellNetwork(chosen, CellSizes(**card["model"]))
    model.load_state_dict(load_file(run / "subnet" / "model.safetensors"))
    assert card["test"]["value"] == evaluate(model.eval(), data, "test").value
    assert f"`cell {chosen}`" in (run / "subnet" / "README.md").read_text()


def test_the_snippets_of_the_readme_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run / "subnet")
    *first, last = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    one: dict[str, Any] = {}
    exec("".join(first), one)
    two: dict[str, Any] = {}
    exec(last, two)
    normal = (one["images"] - one["mean"]) / one["std"]
    with torch.no_grad():
        assert_close(two["model"].eval()(normal), one["outputs"], atol=1e-5, rtol=0)


def test_the_report_names_the_cell(run: Path, chosen: CellArch) -> None:
    assert str(chosen) in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("model.safetensors", "head.bias"),
        ("model.safetensors", "last.0.running_mean"),
        ("factorised.safetensors", "stem.1.running_mean"),
    ],
)
def test_a_wrong_weight_or_statistic_is_found(
    run: Path,
    supernet: Supernet[Any],
    data: Dataset,
    chosen: CellArch,
    name: str,
    weight: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = calibrated(supernet.extract(chosen), data, 256)
    inputs = next(iter(data.eval_batches("val", 8))).inputs
    compare(run / "subnet", supernet, plain, chosen, inputs)

    def load_wrong(path: Path) -> dict[str, Tensor]:
        state = load_file(path)
        if path.name == name:
            state[weight] = state[weight] + 0.01
        return state

    monkeypatch.setattr(nas.export.stage, "load_file", load_wrong)
    with pytest.raises(NotEqual, match=f"^{name} differs from the calibrated plain model's"):
        compare(run / "subnet", supernet, plain, chosen, inputs)


def test_a_plain_model_that_is_not_the_supernets_is_found(
    run: Path, supernet: Supernet[Any], chosen: CellArch
) -> None:
    plain = supernet.extract(chosen)
    with torch.no_grad():
        plain.get_parameter("head.weight").add_(0.01)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NotEqual, match=r"^the plain model with the batch's statistics differs"):
        compare(run / "subnet", supernet, plain, chosen, (images,))
