"""What a search begins with, within the budgets that are counted."""

from random import Random
from typing import Any

import numpy as np
import pytest

from nas.budgets import Budgets
from nas.search.initial_design import initial_design, repaired
from search_spaces.cell import CellSpace
from search_spaces.space import Space
from tests.search.test_acquisition import CELLS, VITS, exact


@pytest.mark.parametrize(("space", "low", "high"), [(CELLS, 0.65, 0.7), (VITS, 0.2, 0.3)])
def test_the_start_meets_the_exact_bounds_where_random_draws_seldom_do(
    space: Space[Any], low: float, high: float
) -> None:
    budgets = Budgets.of({"params": high, "min_params": low})
    met = [budgets.total_excess(exact(space.sample(Random(seed)))) == 0 for seed in range(200)]
    assert np.mean(met) < 0.2
    start = initial_design(space, 20, Random(0), exact, budgets)
    assert len(set(start)) == len(start) == 20
    assert np.mean([budgets.total_excess(exact(arch)) == 0 for arch in start]) > 0.8


def test_the_start_ends_where_no_architecture_meets_the_bounds() -> None:
    start = initial_design(VITS, 5, Random(0), exact, Budgets.of({"params": 1e-9}))
    assert len(set(start)) == 5
    largest = VITS.largest()
    assert all(exact(arch)["params"] < exact(largest)["params"] / 2 for arch in start)


def test_a_start_draws_nothing_twice() -> None:
    space = CellSpace(operations=["nor_conv_3x3"])
    assert len(initial_design(space, 5, Random(0), exact, Budgets())) == 1
    assert initial_design(space, 5, Random(0), exact, Budgets(), tried=lambda _: True) == []


def test_a_repair_moves_both_ways() -> None:
    budgets = Budgets.of({"params": 0.5, "min_params": 0.4})
    for arch in (VITS.smallest(), VITS.largest()):
        assert budgets.total_excess(exact(repaired(VITS, arch, Random(0), exact, budgets))) == 0


def test_a_start_goes_on_drawing_where_all_draws_were_tried() -> None:
    """As where a search begins with the draws of an earlier one."""
    tried = initial_design(CELLS, 20, Random(0), exact, Budgets())
    (fresh,) = initial_design(CELLS, 1, Random(0), exact, Budgets(), tried=tried.__contains__)
    assert fresh not in tried
