"""The variance of the gradient's estimate, against its definition, and as a logged figure."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch

from nas.__main__ import main
from nas.config.config import parse
from nas.config.run_folder import compose_config
from nas.data.batches import load
from nas.files import read_records
from nas.train.checkpoint import load_checkpoint
from nas.train.gradient_variance import Draws, gradient_variances
from nas.train.training import Training
from nas.train.weights import new_supernet
from supernet.sampling.examples import UniformData
from supernet.sampling.paths import UniformPaths
from tests.helpers.runs import TINY

CPU = torch.device("cpu")
SINGLE = ("distillation=none", "examples=importance", "train.precision=fp32")


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(run, CPU, print)
    assert state is not None
    weights: dict[str, torch.Tensor] = state["supernet"]
    return weights


def test_the_variance_over_draws_approaches_that_over_all_paths_and_batches() -> None:
    """Batches of all but one example: as many of them as examples, each as likely."""
    options = (
        "data.test_fraction=0.9",
        "data.val_fraction=0.8",
        "source=own",
        "space.depth=[1]",
        "space.embed_dim=[16]",
        "space.num_heads=[1,2]",
        "space.mlp_ratio=[1]",
        "space.num_atoms=[0]",
    )
    config = parse(compose_config([*TINY, *SINGLE, "paths=uniform", *options]))
    data = load(config.data, config.task, seed=0, device=CPU)
    count = data.num_train
    config.data.batch_size = count - 1
    training = Training(config, new_supernet(config), data, CPU)
    uniform = Draws.seeded(
        UniformPaths(space=config.space), UniformData(num_examples=count), seed=0
    )
    found = gradient_variances(training, {"uniform": uniform}, num_draws=600)["uniform"]

    gradients = []
    archs = [config.space.smallest(), config.space.largest()]
    for arch, left_out in product(archs, range(count)):
        indices = torch.tensor([place for place in range(count) if place != left_out])
        batch = next(data.train_batches(indices, batch_size=count - 1, seed=0))
        training.network.zero_grad()
        logits = training.network(*batch.inputs, arch)
        torch.nn.functional.cross_entropy(logits, batch.targets, label_smoothing=0.1).backward()
        parts = [p.grad.flatten() for p in training.parameters if p.grad is not None]
        gradients.append(torch.cat(parts).double())
    every = torch.stack(gradients)
    expected = float(every.var(0, correction=0).sum())
    assert found.variance == pytest.approx(expected, rel=0.1)
    assert float((found.mean - every.mean(0)).square().sum()) < 0.02 * expected


def test_measuring_the_variance_changes_nothing_else(tmp_path: Path) -> None:
    common = [*TINY, *SINGLE, "paths=importance"]
    assert main(["train", f"run={tmp_path / 'plain'}", *common]) == 0
    assert main(["train", f"run={tmp_path / 'measured'}", *common, "train.variance_draws=4"]) == 0
    plain, measured = weights_of(tmp_path / "plain"), weights_of(tmp_path / "measured")
    assert all(torch.equal(plain[name], measured[name]) for name in plain)
    kinds = [record["kind"] for record in read_records(tmp_path / "measured" / "metrics.jsonl")]
    assert kinds.count("variance") == 2  # one an epoch
    for record in read_records(tmp_path / "measured" / "metrics.jsonl"):
        if record["kind"] == "variance":
            ratio = record["variance"] / record["uniform_variance"]
            assert record["variance_ratio"] == pytest.approx(ratio)


def test_the_probabilities_of_options_are_written_at_each_evaluation(tmp_path: Path) -> None:
    assert main(["train", f"run={tmp_path}", *TINY, *SINGLE, "paths=importance"]) == 0
    record = json.loads((tmp_path / "paths.json").read_text())
    assert record["epoch"] == 2
    space = parse(compose_config([*TINY])).space
    assert record["probabilities"].keys() == space.choices().keys()
    for name, options in space.choices().items():
        assert list(record["probabilities"][name]) == [str(option) for option in options]
        assert sum(record["probabilities"][name].values()) == pytest.approx(1)
