"""The contract of a search space, which every space runs through, and what ViTs add to it.

What cells add to it is in test_cell.py.
"""

import json
from collections import Counter
from dataclasses import asdict
from itertools import product
from random import Random
from typing import Any

import pytest

from search_spaces.cell import CellArch, CellSpace
from search_spaces.space import Space
from search_spaces.vit import ViTArch, ViTSpace
from tests.helpers.spaces import make_space

TINY = ViTSpace(embed_dim=[8, 16], depth=[1, 2], num_heads=[1, 2], mlp_ratio=[2, 2.5], rank=[0, 3])
TINY_CELLS = CellSpace(operations=["none", "nor_conv_3x3"])
SPACES: dict[str, Space[Any]] = {
    "tiny": TINY,
    "odd": make_space(),
    "own": make_space("own"),
    "cells": CellSpace(),
    "tiny_cells": TINY_CELLS,
}


@pytest.fixture(params=SPACES, name="space")
def space_fixture(request: pytest.FixtureRequest) -> Space[Any]:
    return SPACES[request.param]


def test_encode_is_undone_by_decode(space: Space[Any]) -> None:
    generator = Random(1)
    for arch in [space.smallest(), space.largest(), *(space.sample(generator) for _ in range(50))]:
        assert space.decode(space.encode(arch)) == arch
        assert list(space.encode(arch)) == list(space.choices())


def test_a_json_record_describes_the_same_architecture(space: Space[Any]) -> None:
    arch = space.sample(Random(2))
    assert space.from_record(json.loads(json.dumps(asdict(arch)))) == arch


def test_same_seed_samples_the_same_architectures(space: Space[Any]) -> None:
    def draw() -> list[Any]:
        generator = Random(3)
        return [space.sample(generator) for _ in range(20)]

    assert draw() == draw()


def test_smallest_and_largest_bound_every_dimension(space: Space[Any]) -> None:
    options = space.choices()
    small, large = space.encode(space.smallest()), space.encode(space.largest())
    generator = Random(4)
    for _ in range(50):
        for name, value in space.encode(space.sample(generator)).items():
            first, place, last = (
                options[name].index(v[name]) for v in (small, {name: value}, large)
            )
            assert first <= place <= max(first, last)


@pytest.mark.parametrize("space", [TINY, TINY_CELLS], ids=["tiny", "tiny_cells"])
def test_num_archs_counts_what_all_assignments_decode_to(space: Space[Any]) -> None:
    choices = space.choices()
    archs = {
        space.decode(dict(zip(choices, values, strict=True)))
        for values in product(*choices.values())
    }
    assert space.num_archs() == len(archs)


def test_features_are_equally_many_fractions(space: Space[Any]) -> None:
    generator = Random(6)
    archs = [space.smallest(), space.largest(), *(space.sample(generator) for _ in range(50))]
    features = [space.features(arch) for arch in archs]
    assert len({len(row) for row in features}) == 1
    assert all(0 <= figure <= 1 for row in features for figure in row)
    assert features == [space.features(space.decode(space.encode(arch))) for arch in archs]


def test_each_feature_says_something(space: Space[Any]) -> None:
    generator = Random(7)
    rows = [space.features(space.sample(generator)) for _ in range(400)]
    rows += [space.features(arch) for arch in (space.smallest(), space.largest())]
    varied = [len(set(column)) > 1 for column in zip(*rows, strict=True)]
    # Some sizes have one option, and some operations are no options.
    assert sum(varied) >= len(space.choices()) / 2
    if space in (SPACES["odd"], SPACES["cells"]):
        assert sum(varied) > 0.9 * len(varied)


@pytest.mark.parametrize("space", [TINY, SPACES["odd"]], ids=["tiny", "odd"])
def test_features_tell_vision_transformers_apart(space: Space[Any]) -> None:
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


def test_each_choice_is_drawn_uniformly() -> None:
    generator = Random(5)
    drawn = Counter(TINY.sample(generator).embed_dim for _ in range(4000))
    # Five standard deviations of a fair coin's 4000 throws.
    assert abs(drawn[8] - 2000) < 5 * 0.5 * 4000**0.5


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
    record = json.loads(json.dumps(asdict(TINY.largest()))) | change
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
    ],
)
def test_a_bad_option_names_its_key(change: dict[str, object], message: str) -> None:
    options = {"embed_dim": [8], "depth": [1], "num_heads": [1], "mlp_ratio": [1.0]}
    with pytest.raises(ValueError, match=message):
        ViTSpace(**(options | change))  # type: ignore[arg-type]


def test_decode_refuses_missing_and_unknown_choices() -> None:
    values = TINY.encode(TINY.smallest())
    with pytest.raises(ValueError, match="colour"):
        TINY.decode(values | {"colour": 1})
    del values["depth"]
    with pytest.raises(ValueError, match="depth"):
        TINY.decode(values)
