"""A regression of small images learns, is scored by its error, and ranks."""

import csv
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from nas.__main__ import main
from nas.data.batches import load
from nas.evaluate import evaluate
from nas.records import from_json
from nas.results import RankResult
from nas.train.weights import load_supernet
from search_spaces.space import Arch
from tests.helpers.runs import config_of, metrics

CPU = torch.device("cpu")
OPTIONS = (
    "data=image_targets",
    "task=regression",
    "data.columns=[height,width]",
    "data.in_chans=1",
    "data.mean=[0.2]",
    "data.std=[0.4]",
    "data.img_size=8",
    "data.shift=0",
    "data.flip=false",
    "data.val_fraction=0.2",
    "data.batch_size=20",
    "space.depth=[1,2]",
    "space.embed_dim=[16,24]",
    "space.num_atoms=[1,2]",
    "train.epochs=12",
    "train.warmup_epochs=1",
    "train.lr=6e-3",
    "train.eval_every=4",
    "train.ema_decay=0.9",
    "train.device=cpu",
    "train.threads=1",
)


def write_rectangles(folder: Path, count: int = 320) -> None:
    """White rectangles on black in the upper left corner, with their sizes in millimetres."""
    generator = Random(0)
    folder.mkdir()
    with (folder / "targets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "height", "width"])
        for number in range(count):
            height, width = generator.randint(1, 8), generator.randint(1, 8)
            pixels = np.zeros((8, 8), dtype=np.uint8)
            pixels[:height, :width] = 255
            Image.fromarray(pixels).save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", 1000 + 10 * height, 10 * width])


@pytest.fixture(scope="module", name="learned")
def learned_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regression")
    write_rectangles(folder / "rectangles")
    run = folder / "run"
    assert main(["train", f"run={run}", f"data.root={folder / 'rectangles'}", *OPTIONS]) == 0
    return run


def test_a_regression_comes_closer_than_the_mean_of_the_targets(learned: Path) -> None:
    config = config_of(learned)
    data = load(config.data, config.task, seed=config.seed, device=CPU)
    targets = torch.cat([batch.targets for batch in data.eval_batches("val", 64)])
    by_the_mean = float((targets - targets.mean(0)).abs().mean())
    assert by_the_mean > 15  # of 10 to 80
    supernet, step = load_supernet(config, learned, print)
    for name, arch in (("smallest", config.space.smallest()), ("largest", config.space.largest())):
        score = evaluate(supernet.extract(arch), data, "val")
        assert score.value < 0.8 * by_the_mean
        (record,) = (r for r in metrics(learned) if r.get("probe") == name and r["step"] == step)
        logged = [record[key] for key in ("mae", "low", "high", "loss", "num_examples")]
        assert logged == [score.value, score.low, score.high, score.loss, len(targets)]


def test_subnets_trained_alone_rank_by_their_negated_errors(
    learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("rank.standalone=3", "rank.standalone_epochs=2", "rank.resamples=20")
    assert main(["rank", f"run={learned}", *options]) == 0
    config, path = config_of(learned), learned / "rank.json"
    found = from_json(RankResult[Arch], json.loads(path.read_text()), config.space, str(path))
    assert found.truth == "negated val mean absolute error of subnets trained alone for 2 epochs"
    assert found.predicted == "negated val mean absolute error"
    assert not found.truth_is_fraction
    data = load(config.data, config.task, seed=config.seed, device=CPU)
    supernet, _ = load_supernet(config, learned, print)
    for row in found.archs:
        assert row.true < 0
        score = evaluate(supernet.extract(row.arch), data, "val")
        assert list(row.predicted) == pytest.approx([-score.value], rel=1e-5)
    assert "tau-b with negated val mean absolute error" in capsys.readouterr().out
