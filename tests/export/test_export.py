import ast
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import nas.export.stage
from nas.__main__ import main
from nas.data.batches import load
from nas.exits import NotEqual
from nas.export.readme import model_card
from nas.export.stage import TOLERANCES, compare
from nas.files import write_atomic
from nas.records import from_json, to_json
from nas.results import ExportResult
from nas.train.weights import load_supernet
from search_spaces.space import Arch
from supernet.supernet import Supernet
from tests.helpers.exported import PROGRAMS
from tests.helpers.runs import TINY_CELLS, by_size, config_of, result_of, use_paper_device

# Its two layers share one atom, so that the factorised file is the smaller one.
ARCH = {
    "embed_dim": 32,
    "num_heads": [2, 3],
    "mlp_ratio": [2, 4],
    "rank": [4, 0],
    "num_atoms": 1,
}
UMASK = 0o027
PATH_OF_MODELS = ("arch.json", *TOLERANCES)


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose subnet/ is ARCH, held to a budget that it meets and one that it breaks."""
    run = Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("exported") / "run"))
    write_atomic(run / "wanted.json", json.dumps(ARCH))
    before = os.umask(UMASK)
    budgets = ["budget.params=30000", "budget.memory_mib=0.001"]
    try:
        assert main(["export", f"run={run}", f"arch={run / 'wanted.json'}", *budgets]) == 0
    finally:
        os.umask(before)
    return run


@pytest.fixture(scope="module")
def subnet(exported: Path) -> Path:
    return exported / "subnet"


@pytest.fixture(scope="module")
def supernet(exported: Path) -> Supernet[Arch]:
    return load_supernet(config_of(exported), exported, pytest.fail)[0]


@pytest.fixture(scope="module")
def arch(exported: Path) -> Arch:
    return config_of(exported).space.from_record(ARCH)


def result_in(run: Path) -> ExportResult[Arch]:
    record = json.loads((run / "subnet" / "card.json").read_text())
    return from_json(ExportResult, record, config_of(run).space, "card.json")


@pytest.fixture(scope="module")
def result(exported: Path) -> ExportResult[Arch]:
    return result_in(exported)


@pytest.fixture
def ready(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of `exported` where exporting ARCH again is quick: its files are copied."""
    run = Path(shutil.copytree(exported, tmp_path / "run"))

    def write_models(folder: Path, *_: object) -> None:
        for name in PATH_OF_MODELS:
            shutil.copy(exported / "subnet" / name, folder / name)

    monkeypatch.setattr(nas.export.stage, "write_models", write_models)
    use_paper_device(monkeypatch)
    yield run
    assert list(run.glob("subnet.*")) == []  # no temporary folder stays


def images(count: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("name", TOLERANCES)
def test_every_file_computes_what_the_supernet_computes_at_any_batch_size(
    subnet: Path, supernet: Supernet[Arch], arch: Arch, name: str
) -> None:
    assert json.loads((subnet / "arch.json").read_text()) == ARCH
    program = PROGRAMS[name](subnet / name, supernet, arch)
    for count in (1, 5):
        with torch.no_grad():
            torch.testing.assert_close(
                program(images(count)),
                supernet(images(count), arch=arch),
                atol=TOLERANCES[name] * supernet.tolerance(arch),
                rtol=0,
            )


def test_the_counts_are_the_elements_of_the_files(subnet: Path, result: ExportResult[Arch]) -> None:
    elements = {
        name: sum(tensor.numel() for tensor in load_file(subnet / f"{name}.safetensors").values())
        for name in ("model", "factorised")
    }
    counts = result.costs.counts
    assert counts.stored_merged == elements["model"]
    assert counts.stored_factorised == elements["factorised"]
    assert elements["factorised"] < elements["model"]
    assert counts.params == elements["factorised"]


def test_exported_files_follow_the_umask(subnet: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in subnet.iterdir()}
    assert set(modes) == {*PATH_OF_MODELS, "card.json", "README.md"}
    assert set(modes.values()) == {0o666 & ~UMASK}
    assert subnet.stat().st_mode & 0o777 == 0o777 & ~UMASK


def test_the_readme_says_what_the_card_holds(
    exported: Path, supernet: Supernet[Arch], result: ExportResult[Arch]
) -> None:
    text, config = (exported / "subnet" / "README.md").read_text(), config_of(exported)
    data = load(config.data, config.task, seed=config.seed, device=torch.device("cpu"))
    assert text == model_card(result, supernet, config.space, data.task)
    assert "`depth 2, embed_dim 32, heads 2 3, mlp_ratio 2 4, rank 4 0, atoms 1`" in text
    assert result.largest_test is not None
    for score in (result.test, result.largest_test):
        assert score.num_examples == 359
        assert score.complete
        assert (
            f"test top-1 {score.value:.2%}, 95 % interval [{score.low:.2%}, {score.high:.2%}], "
            "359 examples" in text
        )
    for counts in (result.costs.counts, result.largest_counts):
        for value in to_json(counts).values():
            assert f"| {value:,} |" in text
    for name in TOLERANCES:
        assert f"{name} {result.differences[name]:.1e}" in text


def run_snippets(subnet: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """What the blocks of code of the README bind: those with PyTorch alone, and the last."""
    monkeypatch.chdir(subnet)
    *alone, last = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    imports = [node for node in ast.walk(ast.parse("".join(alone))) if isinstance(node, ast.Import)]
    assert [alias.name for node in imports for alias in node.names] == ["torch"]
    one: dict[str, Any] = {}
    exec("".join(alone), one)
    two: dict[str, Any] = {}
    exec(last, two)
    return one, two


def test_the_snippets_of_the_readme_run(
    subnet: Path, supernet: Supernet[Arch], arch: Arch, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = run_snippets(subnet, monkeypatch)
    data = config_of(subnet.parent).data
    normal = (one["images"] - data.mean[0]) / data.std[0]
    with torch.no_grad():
        expected = supernet(normal, arch=arch)
        torch.testing.assert_close(one["outputs"], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(two["model"].eval()(normal), expected, atol=1e-5, rtol=0)


def test_a_family_with_batch_norms_is_exported_with_their_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    run, wanted = tmp_path / "cells", tmp_path / "wanted.json"
    operations = ["nor_conv_3x3", "none", "skip_connect", "nor_conv_1x1", "skip_connect", "none"]
    wanted.write_text(json.dumps({"operations": operations}))
    assert main(["train", f"run={run}", *TINY_CELLS]) == 0
    assert main(["export", f"run={run}", f"arch={wanted}"]) == 0
    one, two = run_snippets(run / "subnet", monkeypatch)
    normal = (one["images"] - one["mean"][:, None, None]) / one["std"][:, None, None]
    with torch.no_grad():
        found = two["model"].eval()(normal)
    torch.testing.assert_close(one["outputs"], found, atol=1e-5, rtol=0)
    assert result_in(run).model == {"in_chans": 1, "num_classes": 10, "channels": 4, "num_cells": 1}


def test_budgets_of_the_command_line_hold_an_architecture_from_a_file(
    subnet: Path, result: ExportResult[Arch]
) -> None:
    met = {verdict.key: (verdict.limit, verdict.met) for verdict in result.budgets}
    assert met == {"params": (30000, True), "memory_mib": (0.001, False)}
    text = (subnet / "README.md").read_text()
    params = result.costs.counts.params
    assert f"- params: {params:,} of at most 30,000 elements in the smaller" in text
    assert re.search(r"- memory_mib: \S+ of at most 0.001 MiB at the peak: BROKEN", text)
    assert result.study is None


def test_a_budget_that_the_new_measurement_breaks_is_said_to_be_broken(
    ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A search of one trial whose record is then said to have had another budget, and chosen ARCH.
    assert main(["search", f"run={ready}", "search.trials=1"]) == 0
    found = result_of(ready)
    assert found.chosen is not None
    chosen = replace(found.chosen, arch=config_of(ready).space.from_record(ARCH))
    budget = {"latency_of_largest": 0.01, "params": 1_000_000.0}
    record = to_json(replace(found, budget=budget, chosen=chosen))
    write_atomic(ready / "search.json", json.dumps(record))
    capsys.readouterr()
    assert main(["export", f"run={ready}", "pick=best"]) == 0
    out = capsys.readouterr().out
    result = result_in(ready)
    met = [(verdict.key, verdict.met) for verdict in result.budgets]
    assert met == [("latency_of_largest", False), ("params", True)]
    assert result.study == found.study
    assert result.command.endswith("pick=best")
    assert "budget.latency_of_largest: BROKEN" in out
    assert "budget.params: met" in out
    readme = (ready / "subnet" / "README.md").read_text()
    assert re.search(r"- latency_of_largest: \S+ of at most 0.01 .*: BROKEN", readme)
    assert re.search(r"- params: \S+ of at most 1,000,000 .*: met", readme)


def test_what_was_known_before_stands_beside_the_fresh_latency(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (ready / "latency.jsonl").unlink()
    export_again(ready)
    before = result_in(ready).costs.measurement.ratio
    use_paper_device(monkeypatch, lambda model, reference: 1.25 * by_size(model, reference))
    capsys.readouterr()
    assert export_again(ready) == 0
    result = result_in(ready)
    assert result.searched_ratio == pytest.approx(before)
    assert result.costs.measurement.ratio == pytest.approx(1.25 * before)
    assert "+25.0% from what was known before" in capsys.readouterr().out
    (eager,) = result.runtimes
    assert (eager.runtime, eager.unavailable) == ("eager", "")
    assert eager.ratio == pytest.approx(1.25 * before)


@pytest.mark.parametrize("name", [name for name in TOLERANCES if name.endswith("safetensors")])
def test_a_wrong_weight_is_found(
    subnet: Path, supernet: Supernet[Arch], arch: Arch, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(subnet, tmp_path / "subnet"))
    state = load_file(folder / name)
    state["head.bias"][3] += 1e-3
    save_file(state, folder / name)
    with pytest.raises(NotEqual, match=f"^{name} differs"):
        compare(folder, supernet, supernet.extract(arch), arch, (images(3),))


@pytest.mark.parametrize("program", ["torch.export.load", "onnx_program"])
def test_a_program_that_computes_something_else_is_found(
    subnet: Path,
    supernet: Supernet[Arch],
    arch: Arch,
    program: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrong:
        def module(self) -> "Wrong":
            return self

        def __call__(self, batch: Tensor) -> Tensor:
            wrong: Tensor = supernet(batch, arch=arch)
            return wrong.index_fill(0, torch.tensor([0]), float("nan"))

    monkeypatch.setattr(f"nas.export.stage.{program}", lambda path: Wrong())
    name = "model.onnx" if program == "onnx_program" else "model.pt2"
    with pytest.raises(NotEqual, match=f"^{name} differs"):
        compare(subnet, supernet, supernet.extract(arch), arch, (images(3),))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def export_again(run: Path) -> int:
    return main(["export", f"run={run}", f"arch={run / 'wanted.json'}"])


def test_a_file_that_fails_its_check_leaves_the_older_export(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, write = contents(ready / "subnet"), nas.export.stage.write_models

    def write_damaged(folder: Path, *arguments: Any) -> None:
        write(folder, *arguments)
        state = load_file(folder / "model.safetensors")
        state["fc_norm.weight"] *= 1.01
        save_file(state, folder / "model.safetensors")

    monkeypatch.setattr(nas.export.stage, "write_models", write_damaged)
    assert export_again(ready) == 1
    assert "model.safetensors differs from the supernet's outputs" in capsys.readouterr().err
    assert contents(ready / "subnet") == before


@pytest.mark.parametrize("function", ["write_models", "compare", "describe", "model_card", "sync"])
def test_an_interrupted_export_leaves_the_older_one(
    ready: Path, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(ready / "subnet")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nas.export.stage, function, interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_again(ready)
    assert contents(ready / "subnet") == before


def test_an_export_replaces_the_older_one_as_a_whole(ready: Path) -> None:
    (ready / "subnet" / "stale.txt").write_text("older")
    assert export_again(ready) == 0
    assert set(contents(ready / "subnet")) == {*PATH_OF_MODELS, "card.json", "README.md"}
