"""Every space keeps the contract of spaces; then what vision transformers and cells add to it.

The benchmark's facts on cells are in tests/supernet/test_cell.py.
"""

import json
from random import Random

import pytest

from search_spaces.cell import CellArch, CellSpace
from search_spaces.space import to_record
from search_spaces.vit import ViTArch, ViTSpace
from tests.contracts.space import SpaceContract
from tests.helpers.spaces import make_space

TINY = ViTSpace(embed_dim=[8, 16], depth=[1, 2], num_heads=[1, 2], mlp_ratio=[2, 2.5], rank=[0, 3])


class TestTiny(SpaceContract):
    space = TINY


class TestOdd(SpaceContract):
    space = make_space()


class TestOwn(SpaceContract):
    space = make_space("own")


class TestCells(SpaceContract):
    space = CellSpace()

    def text(self, arch: CellArch) -> str:
        return str(arch)


class TestTinyCells(TestCells):
    space = CellSpace(operations=["none", "nor_conv_3x3"])


@pytest.mark.parametrize("space", [make_space(), CellSpace()], ids=["odd", "cells"])
def test_each_feature_says_something(space: ViTSpace | CellSpace) -> None:
    generator = Random(7)
    archs = [space.smallest(), space.largest(), *(space.sample(generator) for _ in range(400))]
    rows = [space.features(arch) for arch in archs]  # type: ignore[arg-type]
    varied = [len(set(column)) > 1 for column in zip(*rows, strict=True)]
    assert sum(varied) > 0.9 * len(varied)


@pytest.mark.parametrize("space", [TINY, make_space()], ids=["tiny", "odd"])
def test_features_tell_vision_transformers_apart(space: ViTSpace) -> None:
    generator = Random(8)
    archs = {space.sample(generator) for _ in range(300)}
    assert len({space.features(arch) for arch in archs}) == len(archs)


def test_a_vision_transformer_has_the_features_of_its_sizes() -> None:
    space = ViTSpace(embed_dim=[8, 16], depth=[1, 2], num_heads=[1, 4], mlp_ratio=[2, 4])
    arch = ViTArch(embed_dim=8, num_heads=(4,), mlp_ratio=(2.0,), rank=(0,), num_atoms=0)
    sizes = (8 / 16, 1 / 2, 0, 1, 0, 2 / 4, 0, 0, 0)  # width, depth, atoms; heads, MLP, rank
    sums = (4 / 8, 2 / 8, 0)
    terms = (8 / 32, 8 * 4 / (16 * 8), 8 * 16 / (16 * 128), 0, 0, 0)
    assert space.features(arch) == (*sizes, *sums, *terms)


def test_cells_that_compute_the_same_have_the_same_features() -> None:
    cell = CellArch.from_string("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    dead = CellArch(("none",) * 3 + ("skip_connect", "avg_pool_3x3", "none"))
    alive = CellArch(("skip_connect", "none", "none", "none", "nor_conv_3x3", "none"))
    direct = CellArch(("none", "none", "none", "nor_conv_3x3", "none", "none"))
    space = CellSpace()
    assert space.features(cell) == space.features(dead)
    assert alive.paths() == direct.paths() == {("nor_conv_3x3",): 1}
    assert space.features(alive) != space.features(direct)


def test_paths_are_those_from_the_input_to_the_output() -> None:
    c1, c3, skip, pool = "nor_conv_1x1", "nor_conv_3x3", "skip_connect", "avg_pool_3x3"
    cell = CellArch((c1, skip, pool, skip, c3, skip))
    assert cell.paths() == {(): 2, (c1, c3): 1, (c1, pool): 1}


def test_decode_drops_what_a_shallow_network_does_not_use() -> None:
    values = TINY.encode(TINY.smallest())
    assert TINY.decode(values | {"blocks.1.num_heads": 2}) == TINY.decode(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": 9}, "embed_dim must be one of"),
        ({"num_heads": [1, 7]}, r"blocks\.1\.num_heads must be one of"),
        ({"num_heads": [1]}, "one entry per block"),
        ({"num_heads": 1}, "num_heads must be a list"),
        ({"embed_dim": "8"}, "embed_dim must be an integer"),
        ({"num_atoms": True}, "num_atoms must be an integer"),
        ({"colour": 3}, "an architecture has the fields"),
    ],
)
def test_a_record_outside_the_space_names_the_choice(
    change: dict[str, object], message: str
) -> None:
    record = json.loads(json.dumps(to_record(TINY.largest()))) | change
    with pytest.raises(ValueError, match=message):
        TINY.from_record(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": []}, r"space\.embed_dim must be a list of at least one option"),
        ({"embed_dim": [16, 8]}, r"space\.embed_dim must be in ascending order"),
        ({"num_heads": [0, 1]}, r"space\.num_heads must be a positive integer"),
        ({"mlp_ratio": ["a"]}, r"space\.mlp_ratio must be a positive number"),
        ({"rank": [-1]}, r"space\.rank must be a positive integer"),
        ({"head_dim": 0}, r"space\.head_dim must be a positive integer"),
        ({"patch_size": 1.5}, r"space\.patch_size must be a positive integer, got 1\.5"),
    ],
)
def test_a_bad_option_names_its_key(change: dict[str, object], message: str) -> None:
    options = {"embed_dim": [8], "depth": [1], "num_heads": [1], "mlp_ratio": [1.0]}
    with pytest.raises(ValueError, match=message):
        ViTSpace(**(options | change))  # type: ignore[arg-type]


def test_a_vision_transformer_is_described_by_its_sizes() -> None:
    arch = ViTArch(embed_dim=8, num_heads=(1, 2), mlp_ratio=(2, 2.5), rank=(0, 3), num_atoms=0)
    assert TINY.describe(arch) == {
        "depth": "2",
        "embed_dim": "8",
        "heads": "1 2",
        "mlp_ratio": "2 2.5",
        "rank": "0 3",
        "atoms": "0",
    }


def test_a_cell_is_described_by_the_benchmarks_notation() -> None:
    arch = CellSpace().largest()
    assert CellSpace().describe(arch) == {"cell": str(arch)}


def test_a_text_may_describe_what_the_space_lacks() -> None:
    cell, few = CellSpace().largest(), CellSpace(operations=["none"])
    assert few.from_text(str(cell)) == cell
    with pytest.raises(ValueError, match=r"^edges\.1<-0 must be one of \['none'\]"):
        few.encode(cell)
    deep = make_space("own").largest()
    assert TINY.from_text(json.dumps(to_record(deep))) == deep
    with pytest.raises(ValueError, match=r"^depth must be one of \[1, 2\], got 4"):
        TINY.encode(deep)


def test_a_text_with_an_operation_that_cells_do_not_have_is_refused() -> None:
    text = str(CellSpace().largest()).replace("nor_conv_3x3~2", "conv_9x9~2")
    with pytest.raises(ValueError, match=r"operations of a cell must be some of .*conv_9x9"):
        CellSpace().from_text(text)
