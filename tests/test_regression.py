"""A second task through every stage: how bright an image is, from a csv of numbers."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from nas.__main__ import main
from tests.helpers.runs import TINY, result_of, use_paper_device

NUM_IMAGES = 80
OPTIONS = (
    *(option for option in TINY if not option.startswith(("data.", "train.epochs"))),
    "task=regression",
    "data=image_targets",
    "data.columns=[brightness]",
    "data.in_chans=1",
    "data.mean=[0.5]",
    "data.std=[0.25]",
    "data.img_size=8",
    "data.batch_size=16",
    "data.loader=resident",
    "data.val_fraction=0.3",
    "data.workers=0",
    "train.epochs=12",
    "train.eval_every=6",
    "train.precision=fp32",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy grey images whose target is a hundred times their mean, and 50 more."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    with (root / "targets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "brightness"])
        for number in range(NUM_IMAGES):
            level = float(torch.rand((), generator=generator))
            noise = 0.1 * torch.randn(8, 8, generator=generator)
            pixels = ((level + noise).clamp(0, 1) * 255).byte()
            Image.fromarray(pixels.numpy(), "L").save(root / f"{number}.png")
            writer.writerow([f"{number}.png", 100 * level + 50])
    return root


def test_a_regression_runs_through_every_stage(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    run = tmp_path / "run"
    assert main(["train", f"run={run}", f"data.root={images}", *OPTIONS]) == 0
    assert main(["measure", f"run={run}"]) == 0
    assert main(["search", f"run={run}", "search.trials=8", "budget.latency_of_largest=0.9"]) == 0
    assert main(["export", f"run={run}"]) == 0
    assert main(["rank", f"run={run}", "rank.standalone=2", "rank.resamples=10"]) == 0
    assert main(["report", f"run={run}"]) == 0

    found = result_of(run)
    scores = [one.score for one in found.candidates if one.score.complete]
    assert {score.metric.name for score in scores} == {"mae"}
    within = [one for one in found.candidates if found.budgets.admit(one.costs)]
    assert found.chosen is not None
    assert found.chosen.score.value == min(one.score.value for one in within if one.score.complete)
    # Guessing the mean of targets spread evenly over 100 is off by 25.
    card = json.loads((run / "subnet" / "card.json").read_text())
    assert card["test"]["value"] < 20
    assert card["task"]["columns"] == ["brightness"]
    assert "mean absolute error" in (run / "subnet" / "README.md").read_text()
    assert "mean absolute error" in (run / "report.html").read_text()
    ranked = json.loads((run / "rank.json").read_text())
    assert len(ranked["archs"]) == 2


def test_an_exported_regression_predicts_in_the_targets_own_units(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its README tells: the outputs times the standard deviation, plus the mean."""
    use_paper_device(monkeypatch)
    run = tmp_path / "run"
    assert main(["train", f"run={run}", f"data.root={images}", *OPTIONS]) == 0
    assert main(["search", f"run={run}", "search.trials=3"]) == 0
    assert main(["export", f"run={run}", "pick=largest"]) == 0
    facts = json.loads((run / "subnet" / "card.json").read_text())["task"]
    model = torch.export.load(run / "subnet" / "model.pt2").module()
    (std,), (mean,) = facts["target_std"], facts["target_mean"]
    dark, bright = (
        model(torch.full((1, 1, 8, 8), (level - 0.5) / 0.25)).item() * std + mean
        for level in (0.2, 0.8)
    )
    assert bright - dark > 20  # 60 apart in truth
    assert 50 < dark < bright < 150


def test_data_that_a_run_was_not_trained_on_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its outputs are in standard deviations of the targets that it has seen."""
    root, run = Path(shutil.copytree(images, tmp_path / "copy")), tmp_path / "run"
    options = ["train.epochs=2", "train.eval_every=2"]
    assert main(["train", f"run={run}", f"data.root={images}", *OPTIONS, *options]) == 0
    assert main(["train", f"run={run}", f"data.root={root}"]) == 0  # may move
    table = (root / "targets.csv").read_text().splitlines()
    halved = [f"{row.split(',')[0]},{float(row.split(',')[1]) / 2}" for row in table[1:]]
    (root / "targets.csv").write_text("\n".join([table[0], *halved]))
    for stage in (["train"], ["search"], ["rank", "rank.standalone=2"]):
        assert main([*stage, f"run={run}", f"data.root={root}"]) == 2
        assert "data.root must be the data that" in capsys.readouterr().err
