"""NAS-Bench-201's cells: the benchmark's facts, what a supernet of them computes, the pipeline."""

import copy
import json
import re
from collections import Counter
from dataclasses import asdict
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

import nas.export.stage
from nas.__main__ import main
from nas.data.batches import load
from nas.evaluate import NUM_CALIBRATION, calibrated, evaluate
from nas.exits import NotEqual
from nas.export.stage import TOLERANCES, compare, load_plain
from nas.files import read_records
from nas.train.weights import load_supernet
from search_spaces.cell import EDGES, OPERATIONS, CellArch, CellSpace, edge_name
from supernet.batch_norm import batch_norms, batch_statistics, calibrate
from supernet.families.cell import KERNELS, NUM_STAGES, CellNetwork, CellSizes, CellSupernet
from supernet.parameter_counts import count
from tests.helpers.runs import PROGRAMS, TINY_CELLS, candidates_of, config_of, search_of
from tests.helpers.spaces import CELL_SIZES, CELLS, make_cells, some_archs, some_images

SPACE = CellSpace()
ALL = [CellArch(operations) for operations in product(OPERATIONS, repeat=len(EDGES))]
PUBLISHED = CellSizes(in_chans=3, num_classes=10, channels=16, num_cells=5)
CPU = torch.device("cpu")

# The four ways from a cell's input to its output, as (target, source).
WAYS = (
    {(3, 0)},
    {(1, 0), (3, 1)},
    {(2, 0), (3, 2)},
    {(1, 0), (2, 1), (3, 2)},
)


# The space


def test_the_space_has_the_benchmarks_cells() -> None:
    assert SPACE.num_archs() == len(set(ALL)) == 15_625


def test_the_notation_is_undone_by_reading_it() -> None:
    assert all(CellArch.from_string(str(arch)) == arch for arch in ALL)
    assert len({str(arch) for arch in ALL}) == len(ALL)


def test_the_notation_is_the_benchmarks() -> None:
    text = "|none~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
    arch = CellArch.from_string(text)
    assert arch.edges() == {
        (1, 0): "none",
        (2, 0): "nor_conv_1x1",
        (2, 1): "skip_connect",
        (3, 0): "avg_pool_3x3",
        (3, 1): "none",
        (3, 2): "nor_conv_3x3",
    }
    assert str(arch) == text


@pytest.mark.parametrize(
    "text", ["", "|none~0|", str(ALL[0])[:-1], str(ALL[0]).replace("~2", "~1")]
)
def test_another_text_is_no_cell(text: str) -> None:
    with pytest.raises(ValueError, match=r"a cell is written \|op~0\|"):
        CellArch.from_string(text)


def test_live_edges_are_those_on_a_way_from_input_to_output() -> None:
    for arch in ALL:
        carried = {edge for edge, op in arch.edges().items() if op != "none"}
        ways = [way for way in WAYS if way <= carried]
        assert arch.live_edges().keys() == set().union(*ways)


def test_each_operation_is_drawn_uniformly() -> None:
    generator = Random(5)
    drawn = Counter(SPACE.sample(generator).operations[3] for _ in range(5000))
    assert drawn.keys() == set(OPERATIONS)
    # Five standard deviations of a binomial count.
    assert all(abs(number - 1000) < 5 * (5000 * 0.2 * 0.8) ** 0.5 for number in drawn.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operations": []}, r"space\.operations must be a list of some of"),
        ({"operations": "none"}, r"space\.operations must be a list of some of"),
        ({"operations": ["conv"]}, r"space\.operations must be a list of some of"),
        ({"operations": ["skip_connect", "none"]}, r"space\.operations must be in the order of"),
        ({"operations": ["none", "none"]}, r"space\.operations must be in the order of"),
        ({"channels": 0}, r"space\.channels must be a positive integer, got 0"),
        ({"num_cells": True}, r"space\.num_cells must be a positive integer, got True"),
    ],
)
def test_a_bad_option_names_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CellSpace(**change)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "an architecture has the field operations"),
        ({"operations": ["none"] * 6, "x": 1}, "an architecture has the field operations"),
        ({"operations": "none"}, "operations must be a list of names"),
        ({"operations": [0] * 6}, "operations must be a list of names"),
        ({"operations": ["none"] * 5}, "operations needs one entry per edge"),
        ({"operations": ["none"] * 5 + ["conv"]}, r"edges\.3<-2 must be one of"),
    ],
)
def test_a_record_outside_the_space_is_refused(record: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPACE.from_record(record)


# The supernet


def test_the_largest_cell_has_the_benchmarks_parameters() -> None:
    """Which are 1.531546 million, with the affine maps of batch norms that are left out here."""
    supernet = CellSupernet(SPACE, PUBLISHED, generator=torch.Generator())
    plain = supernet.build(SPACE.largest(), device="meta")
    affine = sum(2 * norm.num_features for norm in batch_norms(plain))
    assert count(supernet, SPACE.largest()).params == 1_524_282
    assert affine == 7_264
    assert 1_524_282 + affine == 1_531_546


def test_many_subnets_equal_their_plain_models() -> None:
    supernet, images = make_cells(), some_images(size=8)
    for arch in some_archs(CELLS, count=60):
        plain = supernet.extract(arch)
        with batch_statistics(plain), torch.no_grad():
            assert_close(plain(images), supernet(images, arch), atol=1e-5, rtol=0)


def test_a_supernet_of_the_published_size_equals_its_plain_models() -> None:
    supernet = CellSupernet(SPACE, PUBLISHED, generator=torch.Generator().manual_seed(0))
    images = some_images(2, size=16)
    for arch in (SPACE.largest(), SPACE.sample(Random(0))):
        plain = supernet.extract(arch)
        with batch_statistics(plain), torch.no_grad():
            assert_close(plain(images), supernet(images, arch), atol=1e-5, rtol=0)


def perturb(supernet: CellSupernet, edge: tuple[int, int], op: str) -> None:
    """New weights of one operation on one edge, in every cell of every stage."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for stage in range(NUM_STAGES):
            rows = supernet.kernels[f"{op}_{stage}"][EDGES.index(edge) :: len(EDGES)]
            rows.copy_(torch.randn(rows.shape, generator=generator))


def test_edges_without_effect_have_none_and_the_others_have_one() -> None:
    images, dead, live = some_images(size=8), 0, 0
    for arch in some_archs(CELLS, count=12):
        for edge, op in product(EDGES, KERNELS):
            supernet = make_cells()
            before = supernet(images, arch)
            perturb(supernet, edge, op)
            in_use = arch.live_edges().get(edge) == op
            assert torch.equal(supernet(images, arch), before) is not in_use
            live += in_use
            dead += not in_use and arch.edges()[edge] == op
    assert live > 10
    assert dead > 0  # convolutions that no way from input to output passes


def test_gradients_reach_only_the_kernels_in_use() -> None:
    images = some_images(size=8)
    for arch in some_archs(CELLS):
        supernet = make_cells()
        supernet(images, arch).square().sum().backward()
        for op, stage in product(KERNELS, range(NUM_STAGES)):
            grad = supernet.kernels[f"{op}_{stage}"].grad
            used = [arch.live_edges().get(edge) == op for edge in EDGES] * CELLS.num_cells
            if grad is None:
                assert not any(used)
            else:
                assert [bool(kernel.any()) for kernel in grad] == used


def test_an_edge_owns_the_kernels_of_its_operation_in_every_cell() -> None:
    operations = ("nor_conv_3x3", "skip_connect", "nor_conv_1x1", "none", "nor_conv_3x3")
    arch = CellArch((*operations, "avg_pool_3x3"))
    supernet = make_cells()
    supernet(some_images(size=8), arch).square().sum().backward()
    found = supernet.own_gradients(arch)
    for index, (edge, op) in enumerate(arch.edges().items()):
        expected = []
        for stage, cell in product(range(NUM_STAGES), (0, 1)) if op in KERNELS else ():
            grad = supernet.kernels[f"{op}_{stage}"].grad
            assert grad is not None
            expected.append(grad[6 * cell + index])
        own = found[edge_name(edge)]
        assert [g.data_ptr() for g in own] == [g.data_ptr() for g in expected]
        assert [g.shape for g in own] == [g.shape for g in expected]
    assert len(found["edges.1<-0"]) == 6
    assert found["edges.2<-0"] == found["edges.3<-0"] == found["edges.3<-2"] == []


def test_the_plain_model_is_of_pytorchs_modules_and_holds_no_dead_edge() -> None:
    arch = CellArch(("nor_conv_3x3", "none", "none", "skip_connect", "none", "nor_conv_1x1"))
    cell = CellNetwork(arch, CELL_SIZES).cells[0]
    assert [name for name, _ in cell.get_submodule("operations").named_children()] == ["3_0"]
    modules = {type(module).__module__.split(".")[0] for module in supernet_modules(arch)}
    assert modules == {"torch", "supernet"}


def supernet_modules(arch: CellArch) -> list[nn.Module]:
    return list(make_cells().extract(arch).modules())


def test_extraction_draws_nothing_and_makes_up_no_weight() -> None:
    supernet, arch = make_cells(), CELLS.largest()
    before = torch.get_rng_state()
    supernet.extract(arch)
    assert torch.equal(torch.get_rng_state(), before)
    tensors = supernet.factorise(arch)
    del tensors["head.bias"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "head.bias"'):
        load_plain(supernet.merge(tensors, arch), supernet, arch)


# Batch norms


def some_batches() -> list[Tensor]:
    return [some_images(4, seed, size=8) for seed in (1, 2, 3)]


def inputs_of(norm: nn.Module, model: nn.Module) -> list[Tensor]:
    """What a norm sees of each batch while all norms use the batch's statistics."""
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with batch_statistics(model), torch.no_grad():
        for images in some_batches():
            model(images)
    hook.remove()
    return seen


def test_calibration_averages_each_norms_batch_means_and_unbiased_variances() -> None:
    plain = make_cells().extract(CELLS.largest())
    expected = {name: inputs_of(plain.get_submodule(name), plain) for name in ("stem.1", "last.0")}
    calibrate(plain, some_batches())
    for name, seen in expected.items():
        means = torch.stack([x.mean((0, 2, 3)) for x in seen])
        variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in seen])
        assert_close(plain.get_buffer(f"{name}.running_mean"), means.mean(0))
        assert_close(plain.get_buffer(f"{name}.running_var"), variances.mean(0))


def test_calibration_leaves_nothing_else_behind() -> None:
    plain = make_cells().extract(CELLS.largest())
    before = copy.deepcopy(plain)
    calibrate(plain, some_batches())
    assert not any(module.training for module in plain.modules())
    for norm, old in zip(batch_norms(plain), batch_norms(before), strict=True):
        assert (norm.momentum, norm.track_running_stats) == (old.momentum, True)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name))
    once = plain.state_dict()
    calibrate(plain, some_batches())
    assert all(torch.equal(once[name], value) for name, value in plain.state_dict().items())


def test_batch_statistics_are_lent_for_a_while() -> None:
    plain, images = make_cells().extract(CELLS.largest()), some_images(size=8)
    calibrate(plain, some_batches())
    before, state = plain(images), copy.deepcopy(plain.state_dict())
    with batch_statistics(plain):
        assert not torch.allclose(plain(images), before)
    assert torch.equal(plain(images), before)
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())


# The pipeline


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
def supernet_fixture(run: Path) -> CellSupernet:
    supernet, _ = load_supernet(config_of(run), run, pytest.fail)
    assert isinstance(supernet, CellSupernet)
    return supernet


@pytest.fixture(name="chosen")
def chosen_fixture(run: Path) -> CellArch:
    return CellArch(tuple(search_of(run)["chosen"]["arch"]["operations"]))


def test_a_candidate_is_judged_with_the_statistics_of_training_images(
    run: Path, supernet: CellSupernet
) -> None:
    config = config_of(run)
    data = load(config.data, seed=config.seed, device=CPU)
    for candidate in candidates_of(run)[:3]:
        arch = config.space.from_record(candidate["arch"])
        plain = supernet.extract(arch)
        drawn = torch.randperm(data.num_train, generator=torch.Generator().manual_seed(0))
        batches = data.train_batches(drawn[:NUM_CALIBRATION], batch_size=256, seed=0)
        calibrate(plain, [batch.images for batch in batches])
        accuracy = evaluate(plain, data, "val")
        assert candidate["top1"] == accuracy.top1
        assert candidate["loss"] == pytest.approx(accuracy.loss)


def test_the_last_probes_are_judged_as_the_search_judges(run: Path) -> None:
    records = [r for r in read_records(run / "metrics.jsonl") if r["kind"] == "eval"]
    last = {r["probe"]: r["loss"] for r in records[-2:]}
    found = search_of(run)
    assert last == {name: pytest.approx(found[name]["loss"]) for name in ("smallest", "largest")}


@pytest.mark.parametrize("name", TOLERANCES)
def test_every_file_computes_what_the_calibrated_model_computes(
    run: Path, supernet: CellSupernet, chosen: CellArch, name: str
) -> None:
    config = config_of(run)
    data = load(config.data, seed=config.seed, device=CPU)
    plain = calibrated(supernet.extract(chosen), data, 256)
    program = PROGRAMS[name](run / "subnet" / name, supernet, chosen)
    for number in (1, 5):
        images = torch.randn(number, 1, 8, 8, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            assert_close(program(images), plain(images), atol=TOLERANCES[name], rtol=0)


def test_the_card_says_which_cell_it_is_and_what_the_exported_file_reaches(
    run: Path, chosen: CellArch
) -> None:
    card = json.loads((run / "subnet" / "card.json").read_text())
    assert card["arch"] == json.loads(json.dumps(asdict(chosen)))
    assert card["model"] == {"in_chans": 1, "num_classes": 10, "channels": 4, "num_cells": 1}
    config = config_of(run)
    data = load(config.data, seed=config.seed, device=CPU)
    model = CellNetwork(chosen, CellSizes(**card["model"]))
    model.load_state_dict(load_file(run / "subnet" / "model.safetensors"))
    assert card["test"]["top1"] == evaluate(model, data, "test").top1
    text = (run / "subnet" / "README.md").read_text()
    assert f"NAS-Bench-201 cell: `{chosen}`" in text
    assert "timm" not in text


def test_the_snippets_of_the_readme_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run / "subnet")
    first, second = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    one: dict[str, Any] = {}
    exec(first, one)
    two: dict[str, Any] = {}
    exec(second, two)
    data = config_of(run).data
    normal = (one["images"] - data.mean[0]) / data.std[0]
    with torch.no_grad():
        assert_close(two["model"].eval()(normal), one["logits"], atol=1e-5, rtol=0)


def test_the_report_shows_the_cell_an_edge_a_row(run: Path, chosen: CellArch) -> None:
    page = (run / "report.html").read_text()
    assert f"<code>{chosen}</code>" in page
    assert f"cell {chosen}" in page
    rows = re.findall(r"<td class=words>(\d) → (\d)</td><td class=words>(\w+)</td>", page)
    expected = [(str(i), str(j), op) for (j, i), op in chosen.edges().items()]
    assert rows == expected


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("model.safetensors", "head.bias"),
        ("model.safetensors", "last.0.running_mean"),
        ("factorised.safetensors", "stem.1.running_mean"),
    ],
)
def test_a_wrong_weight_or_statistic_is_found(
    run: Path, supernet: CellSupernet, name: str, weight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(run)
    data = load(config.data, seed=config.seed, device=CPU)
    arch = config.space.from_record(search_of(run)["chosen"]["arch"])
    plain = calibrated(supernet.extract(arch), data, 256)
    images = next(iter(data.eval_batches("val", 8))).images
    compare(run / "subnet", supernet, plain, arch, images)

    def load_wrong(path: Path) -> dict[str, Tensor]:
        state = load_file(path)
        if path.name == name:
            state[weight] = state[weight] + 0.01
        return state

    monkeypatch.setattr(nas.export.stage, "load_file", load_wrong)
    with pytest.raises(NotEqual, match=f"^{name} differs from the calibrated plain model's logits"):
        compare(run / "subnet", supernet, plain, arch, images)


def test_a_plain_model_that_is_not_the_supernets_is_found(
    run: Path, supernet: CellSupernet, chosen: CellArch
) -> None:
    plain = supernet.extract(chosen)
    with torch.no_grad():
        plain.get_parameter("head.weight").add_(0.01)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NotEqual, match=r"^the plain model with the batch's statistics differs"):
        compare(run / "subnet", supernet, plain, chosen, images)
