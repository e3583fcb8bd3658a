"""NAS-Bench-201's cells: the benchmark's facts, and what a supernet of them computes."""

from collections import Counter
from itertools import product
from random import Random
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from search_spaces.cell import EDGES, OPERATIONS, CellArch, CellSpace, edge_name
from supernet.batch_norm import batch_norms, batch_statistics
from supernet.families.cell import KERNELS, NUM_STAGES, CellNetwork, CellSizes, CellSupernet
from supernet.image_tasks import Regression
from supernet.parameter_counts import count
from supernet.sources.source import SourceFactory
from tests.contracts.supernet import OwnWeightsContract
from tests.helpers.spaces import (
    CELL_SIZES,
    CELLS,
    OWN,
    make_cells,
    make_task,
    some_archs,
    some_images,
)

SPACE = CellSpace()
ALL = [CellArch(operations) for operations in product(OPERATIONS, repeat=len(EDGES))]
PUBLISHED = CellSizes(in_chans=3, num_classes=10, channels=16, num_cells=5)

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


class TestCells(OwnWeightsContract):
    space, family = CELLS, CellSupernet


class TestRegression(OwnWeightsContract):
    space, family = CELLS, CellSupernet
    task = Regression(1, 8, (0.0,), (1.0,), ("age",))


def test_sizes_come_from_the_space_and_the_task() -> None:
    assert CellSupernet.sizes(CELLS, make_task(img_size=8)) == CELL_SIZES


def test_images_must_be_halved_twice() -> None:
    message = r"^data\.img_size must be a multiple of 4 for cells, got 6$"
    with pytest.raises(ValueError, match=message):
        CellSupernet.sizes(CELLS, make_task(img_size=6))


def test_sources_are_refused() -> None:
    sources: dict[str, SourceFactory] = {"q": OWN}
    message = r"^source must be empty for CellSupernet \(source=none\), got \['q'\]$"
    with pytest.raises(ValueError, match=message):
        CellSupernet.check_sources(CELLS, sources)
    with pytest.raises(ValueError, match=message):
        CellSupernet(CELLS, CELL_SIZES, sources, generator=torch.Generator())


def test_the_largest_cell_has_the_benchmarks_parameters() -> None:
    """Which are 1.531546 million, with the affine maps of batch norms that are left out here."""
    supernet = CellSupernet(SPACE, PUBLISHED, {}, generator=torch.Generator())
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
            assert_close(plain(images), supernet(images, arch=arch), atol=1e-5, rtol=0)


def test_a_supernet_of_the_published_size_equals_its_plain_models() -> None:
    supernet = CellSupernet(SPACE, PUBLISHED, {}, generator=torch.Generator().manual_seed(0))
    images = some_images(2, size=16)
    for arch in (SPACE.largest(), SPACE.sample(Random(0))):
        plain = supernet.extract(arch)
        with batch_statistics(plain), torch.no_grad():
            assert_close(plain(images), supernet(images, arch=arch), atol=1e-5, rtol=0)


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
            before = supernet(images, arch=arch)
            perturb(supernet, edge, op)
            in_use = arch.live_edges().get(edge) == op
            assert torch.equal(supernet(images, arch=arch), before) is not in_use
            live += in_use
            dead += not in_use and arch.edges()[edge] == op
    assert live > 10
    assert dead > 0  # convolutions that no way from input to output passes


def test_gradients_reach_only_the_kernels_in_use() -> None:
    images = some_images(size=8)
    for arch in some_archs(CELLS):
        supernet = make_cells()
        supernet(images, arch=arch).square().sum().backward()
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
    supernet(some_images(size=8), arch=arch).square().sum().backward()
    found = supernet.choice_gradients(arch)
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


def test_a_factorised_file_without_a_weight_is_not_made_up_for() -> None:
    supernet, arch = make_cells(), CELLS.largest()
    tensors = supernet.factorise(arch)
    del tensors["head.bias"]
    plain = supernet.build(arch, device="meta")
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "head.bias"'):
        plain.load_state_dict(supernet.merge(tensors, arch), assign=True)


def test_edges_out_of_use_stay_as_they_are_where_a_cell_is_loaded() -> None:
    operations = ("nor_conv_3x3", "none", "none", "nor_conv_1x1", "none", "none")
    arch = CellArch(operations)  # the first edge leads nowhere
    supernet, before = make_cells(), make_cells()
    supernet.load_plain(make_cells(1).extract(arch).state_dict(), arch)
    for op, stage in product(KERNELS, range(NUM_STAGES)):
        changed = supernet.kernels[f"{op}_{stage}"] != before.kernels[f"{op}_{stage}"]
        used = [arch.live_edges().get(edge) == op for edge in EDGES] * CELLS.num_cells
        assert [bool(kernel.any()) for kernel in changed] == used
