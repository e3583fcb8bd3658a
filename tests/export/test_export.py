import ast
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import nas.export.stage
from nas.__main__ import main
from nas.evaluate import Accuracy
from nas.exits import NotEqual
from nas.export.readme import model_card
from nas.export.stage import SAME, TOLERANCES, compare, pick_arch
from nas.files import write_atomic
from nas.train.weights import load_supernet
from search_spaces.vit import ViTArch
from supernet.supernet import Supernet
from tests.helpers.runs import PROGRAMS, Record, config_of, search_of, use_paper_device

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
def supernet(exported: Path) -> Supernet:
    return load_supernet(config_of(exported), exported, pytest.fail)[0]


@pytest.fixture(scope="module")
def arch(exported: Path) -> ViTArch:
    found: ViTArch = config_of(exported).space.from_record(ARCH)
    return found


@pytest.fixture(scope="module")
def card(subnet: Path) -> Record:
    found: Record = json.loads((subnet / "card.json").read_text())
    return found


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
    subnet: Path, supernet: Supernet, arch: ViTArch, name: str
) -> None:
    assert json.loads((subnet / "arch.json").read_text()) == ARCH
    program = PROGRAMS[name](subnet / name, supernet, arch)
    for count in (1, 5):
        with torch.no_grad():
            torch.testing.assert_close(
                program(images(count)), supernet(images(count), arch), atol=TOLERANCES[name], rtol=0
            )


def test_the_counts_are_the_elements_of_the_files(subnet: Path, card: Record) -> None:
    elements = {
        name: sum(tensor.numel() for tensor in load_file(subnet / f"{name}.safetensors").values())
        for name in ("model", "factorised")
    }
    assert card["counts"]["stored_merged"] == elements["model"]
    assert card["counts"]["stored_factorised"] == elements["factorised"]
    assert elements["factorised"] < elements["model"]
    assert card["costs"]["params"] == elements["factorised"]


def test_exported_files_follow_the_umask(subnet: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in subnet.iterdir()}
    assert set(modes) == {*PATH_OF_MODELS, "card.json", "README.md"}
    assert set(modes.values()) == {0o666 & ~UMASK}
    assert subnet.stat().st_mode & 0o777 == 0o777 & ~UMASK


def test_the_readme_says_what_the_card_holds(subnet: Path, card: Record) -> None:
    text = (subnet / "README.md").read_text()
    assert text == model_card(card)
    for key in ("test", "largest_test"):
        found = Accuracy("test", card[key]["top1"], card[key]["loss"], card[key]["num_examples"])
        assert found.num_examples == 359
        assert (card[key]["low"], card[key]["high"]) == found.interval()
        assert (
            f"test top-1 {found.top1:.4f}, 95 % interval [{card[key]['low']:.4f}, "
            f"{card[key]['high']:.4f}], 359 images" in text
        )
    for counts in ("counts", "largest_counts"):
        for value in card[counts].values():
            assert f"| {value:,} |" in text
    for name in TOLERANCES:
        assert f"{name} {card['differences'][name]:.1e}" in text


def test_the_snippets_of_the_readme_run(
    subnet: Path, supernet: Supernet, arch: ViTArch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(subnet)
    first, second = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    imports = [node for node in ast.walk(ast.parse(first)) if isinstance(node, ast.Import)]
    assert [alias.name for node in imports for alias in node.names] == ["torch"]
    one: dict[str, Any] = {}
    exec(first, one)
    data = config_of(subnet.parent).data
    normal = (one["images"] - data.mean[0]) / data.std[0]
    two: dict[str, Any] = {}
    exec(second, two)
    with torch.no_grad():
        expected = supernet(normal, arch)
        torch.testing.assert_close(one["logits"], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(two["model"].eval()(normal), expected, atol=1e-5, rtol=0)


def test_budgets_of_the_command_line_hold_an_architecture_from_a_file(
    subnet: Path, card: Record
) -> None:
    met = {budget["name"]: (budget["limit"], budget["met"]) for budget in card["budgets"]}
    assert met == {"params": (30000, True), "memory_mib": (0.001, False)}
    text = (subnet / "README.md").read_text()
    params = card["costs"]["params"]
    assert f"- params: {params:,} of at most 30,000 elements in the smaller" in text
    assert re.search(r"- memory_mib: \S+ of at most 0.001 MiB at the peak: BROKEN", text)


def make_search(run: Path, budget: dict[str, float]) -> None:
    """A search of one trial whose record is then said to have had another budget."""
    assert main(["search", f"run={run}", "search.trials=1"]) == 0
    found = search_of(run)
    arch = {**found["chosen"], "arch": ARCH}
    write_atomic(run / "search.json", json.dumps({**found, "budget": budget, "chosen": arch}))


def test_a_budget_that_the_new_measurement_breaks_is_said_to_be_broken(
    ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_search(ready, {"latency_of_largest": 0.01, "params": 1_000_000})
    capsys.readouterr()
    assert main(["export", f"run={ready}", "pick=best"]) == 0
    out = capsys.readouterr().out
    card = json.loads((ready / "subnet" / "card.json").read_text())
    assert [(budget["name"], budget["met"]) for budget in card["budgets"]] == [
        ("latency_of_largest", False),
        ("params", True),
    ]
    assert card["command"].endswith("pick=best")
    assert "budget.latency_of_largest: BROKEN" in out
    assert "budget.params: met" in out
    readme = (ready / "subnet" / "README.md").read_text()
    assert re.search(r"- latency_of_largest: \S+ of at most 0.01 .*: BROKEN", readme)
    assert re.search(r"- params: \S+ of at most 1,000,000 .*: met", readme)


@pytest.mark.parametrize("name", [name for name in TOLERANCES if name.endswith("safetensors")])
def test_a_wrong_weight_is_found(
    subnet: Path, supernet: Supernet, arch: ViTArch, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(subnet, tmp_path / "subnet"))
    state = load_file(folder / name)
    state["head.bias"][3] += 1e-3
    save_file(state, folder / name)
    with pytest.raises(NotEqual, match=f"^{name} differs"):
        compare(folder, supernet, supernet.extract(arch), arch, images(3))


@pytest.mark.parametrize("program", ["torch.export.load", "onnx_program"])
def test_a_program_that_computes_something_else_is_found(
    subnet: Path,
    supernet: Supernet,
    arch: ViTArch,
    program: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrong:
        def module(self) -> "Wrong":
            return self

        def __call__(self, batch: Tensor) -> Tensor:
            wrong: Tensor = supernet(batch, arch)
            return wrong.index_fill(0, torch.tensor([0]), float("nan"))

    monkeypatch.setattr(f"nas.export.stage.{program}", lambda path: Wrong())
    name = "model.onnx" if program == "onnx_program" else "model.pt2"
    with pytest.raises(NotEqual, match=f"^{name} differs"):
        compare(subnet, supernet, supernet.extract(arch), arch, images(3))


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
    assert "model.safetensors differs from the supernet's logits" in capsys.readouterr().err
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**ARCH, "embed_dim": 24}, "embed_dim must be one of [16, 32], got 24"),
        ({**ARCH, "rank": [4, 3]}, "blocks.1.rank must be one of [0, 4, 8], got 3"),
        ({"embed_dim": 16}, "an architecture has the fields"),
        ([1, 2], "an architecture is a JSON object"),
        (b"\xff\x00 no text", "can't decode"),
        (b'{"embed_dim": 1', "Expecting"),
        (None, "No such file"),
    ],
)
def test_a_bad_architecture_file_is_bad_input(
    run: Path, content: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "bad.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(json.dumps(content))
    assert main(["export", f"run={run}", f"arch={path}"]) == 2
    complaint = capsys.readouterr().err
    assert "arch must be" in complaint
    assert str(path) in complaint
    assert message in complaint
    assert not (run / "subnet").exists()


def test_a_pick_needs_a_search_of_these_weights(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", f"run={run}"]) == 2
    assert "pick must follow a search" in capsys.readouterr().err
    write_atomic(run / "search.json", json.dumps({"step": 1}))
    assert main(["export", f"run={run}"]) == 2
    assert "search.json must be a search's record" in capsys.readouterr().err
    write_atomic(run / "search.json", "{")
    assert main(["export", f"run={run}"]) == 2
    assert "search.json must be JSON" in capsys.readouterr().err


@pytest.mark.parametrize("changed", SAME)
def test_a_pick_needs_a_search_of_the_same_weights_on_the_same_target(
    run: Path,
    changed: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_paper_device(monkeypatch)
    assert main(["search", f"run={run}", "search.trials=1"]) == 0
    write_atomic(run / "search.json", json.dumps({**search_of(run), changed: "another"}))
    assert main(["export", f"run={run}"]) == 2
    assert f"pick must follow a search {SAME[changed]}" in capsys.readouterr().err


def test_a_search_on_another_target_is_not_judged_on_this_one(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    assert main(["search", f"run={run}", "search.trials=1", "target.batch_size=3"]) == 0
    assert main(["export", f"run={run}"]) == 2
    assert "on this target" in capsys.readouterr().err


def test_best_of_an_infeasible_search_ends_as_the_search_did(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    assert main(["search", f"run={run}", "search.trials=1", "budget.params=10"]) == 3
    assert main(["export", f"run={run}"]) == 3


def test_a_pick_is_the_best_or_a_finished_trial_of_the_last_search(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    budget = {"params": 20_000}
    for options in (["search.trials=2"], ["search.trials=4", "budget.params=20000"]):
        assert main(["search", f"run={run}", *options]) == 0
    found, config = search_of(run), config_of(run)
    best = config.space.from_record(found["chosen"]["arch"])
    assert pick_arch(config, run, found) == (best, budget)
    for name in ("smallest", "largest"):
        config.pick = name
        extreme = getattr(config.space, name)()
        assert pick_arch(config, run, found) == (extreme, budget)
    picked = []
    for number in range(4):
        config.pick = str(number)
        picked.append(pick_arch(config, run, found))
    assert all(bounds == budget for _, bounds in picked)
    if found["chosen"]["trial"] is not None:
        assert picked[found["chosen"]["trial"]][0] == best
    assert len({arch for arch, _ in picked}) > 1
    config.pick = "4"
    with pytest.raises(ValueError, match=r"pick must be best or a finished trial .* got 4"):
        pick_arch(config, run, found)
