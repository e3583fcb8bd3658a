"""What every path sampler must do, on a space whose choices are not always in use and on cells.

Yours is held to it by

    class TestMine(PathContract):
        def make(self, space: Space[Any]) -> MyPaths:
            return MyPaths(space=space)

Each test runs twice: as the sampler was made, and after it has learned from made-up gradients.
"""

import copy
import io
import math
import random
from random import Random
from typing import Any

import pytest
import torch

from search_spaces.cell import CellSpace
from search_spaces.space import Space
from supernet.sampling.paths import Path, PathSampler, State
from tests.helpers.samplers import EPOCHS, learn_paths, made_up
from tests.helpers.spaces import make_space

SPACES: dict[str, Space[Any]] = {"vit": make_space(), "cell": CellSpace(channels=3, num_cells=1)}


class PathContract:
    has_figures = True  # something to log
    weighs = True  # once it has learned, paths have different weights
    is_random = True  # not the same path at every step

    def make(self, space: Space[Any]) -> PathSampler[Any]:
        raise NotImplementedError

    @pytest.fixture(params=SPACES)
    def space(self, request: pytest.FixtureRequest) -> Space[Any]:
        return SPACES[request.param]

    @pytest.fixture(params=[False, True], ids=["fresh", "learned"])
    def learned(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    @pytest.fixture
    def paths(self, space: Space[Any], learned: bool) -> PathSampler[Any]:
        """The same sampler every time."""
        paths = self.make(space)
        if learned:
            learn_paths(paths, space)
        return paths

    def test_paths_lie_in_the_space(self, paths: PathSampler[Any], space: Space[Any]) -> None:
        for path in draw_many(paths, Random(0), 30):
            assert space.decode(space.encode(path.arch)) == path.arch

    def test_paths_are_a_function_of_the_generator(self, paths: PathSampler[Any]) -> None:
        first, second, other = (draw_many(copy.deepcopy(paths), Random(seed)) for seed in (3, 3, 4))
        assert first == second
        assert (first != other) is self.is_random

    def test_drawing_leaves_the_global_generators_alone(
        self, paths: PathSampler[Any], space: Space[Any]
    ) -> None:
        before = random.getstate(), torch.get_rng_state()
        for path in draw_many(paths, Random(0)):
            observe(paths, space, path)
        paths.begin_epoch(EPOCHS - 1, EPOCHS)
        assert random.getstate() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])

    def test_a_restored_sampler_goes_on_alike(
        self, paths: PathSampler[Any], space: Space[Any]
    ) -> None:
        generator = Random(0)
        for path in draw_many(paths, generator, 5):  # the epoch has begun
            observe(paths, space, path)
        restored, same = self.make(space), Random(99)
        restored.load_state_dict(through_a_file(paths.state_dict()))
        same.setstate(generator.getstate())
        for epoch in (EPOCHS - 1, EPOCHS):
            for _ in range(40):
                drawn = paths.draw(generator)
                assert restored.draw(same) == drawn
                for path in drawn:
                    observe(paths, space, path)
                    observe(restored, space, path)
            paths.begin_epoch(epoch, EPOCHS + 1)
            restored.begin_epoch(epoch, EPOCHS + 1)
            assert restored.figures() == paths.figures()
            assert restored.option_probabilities() == paths.option_probabilities()
            assert_same(restored.state_dict(), paths.state_dict())

    def test_a_restored_sampler_does_not_share_what_it_learns(
        self, paths: PathSampler[Any], space: Space[Any]
    ) -> None:
        restored = self.make(space)
        restored.load_state_dict(paths.state_dict())
        before = copy.deepcopy(paths.state_dict())
        learn_paths(restored, space, steps=5)
        assert_same(paths.state_dict(), before)

    def test_the_step_begins_with_the_largest_where_the_sampler_says_so(
        self, paths: PathSampler[Any]
    ) -> None:
        generator = Random(0)
        firsts = {paths.draw(generator)[0].role for _ in range(20)}
        assert (firsts == {"largest"}) is paths.begins_with_largest

    def test_a_step_has_as_many_paths_as_the_sampler_says(self, paths: PathSampler[Any]) -> None:
        generator = Random(0)
        for epoch in range(EPOCHS):
            paths.begin_epoch(epoch, EPOCHS)
            assert {len(paths.draw(generator)) for _ in range(5)} == {paths.num_paths}

    def test_largest_and_smallest_weigh_one_and_the_others_a_positive_number(
        self, paths: PathSampler[Any], space: Space[Any]
    ) -> None:
        ends = {"largest": space.largest(), "smallest": space.smallest()}
        for path in draw_many(paths, Random(0), 50):
            assert path.role in ("largest", "random", "smallest", "single")
            assert path.arch == ends.get(path.role, path.arch)
            assert path.weight > 0
            assert math.isfinite(path.weight)
            assert path.weight == 1.0 or path.role == "random"

    def test_paths_weigh_one_unless_importance_was_learned(
        self, paths: PathSampler[Any], learned: bool
    ) -> None:
        weights = {path.weight for path in draw_many(paths, Random(0), 50)}
        assert (weights != {1.0}) is (learned and self.weighs)

    def test_figures_are_numbers(self, paths: PathSampler[Any]) -> None:
        figures = paths.figures()
        assert all(math.isfinite(value) and value >= 0 for value in figures.values())
        assert bool(figures) is self.has_figures

    def test_option_probabilities_are_of_every_option_of_every_choice_or_none(
        self, paths: PathSampler[Any], space: Space[Any]
    ) -> None:
        found = paths.option_probabilities()
        if found:
            assert list(found) == list(space.choices())
        for name, chances in found.items():
            assert list(chances) == [str(option) for option in space.choices()[name]]
            assert all(chance > 0 for chance in chances.values())
            assert sum(chances.values()) == pytest.approx(1, rel=1e-9)

    def test_the_state_of_another_sampler_is_refused(self, space: Space[Any]) -> None:
        with pytest.raises(ValueError, match=r"state.*, got \['mean'\]"):
            self.make(space).load_state_dict({"mean": 1.0})


def draw_many(paths: PathSampler[Any], generator: Random, count: int = 10) -> list[Path[Any]]:
    return [path for _ in range(count) for path in paths.draw(generator)]


def observe(paths: PathSampler[Any], space: Space[Any], path: Path[Any]) -> None:
    if path.role == "random":
        paths.observe(path, made_up(space, path.arch))


def through_a_file(state: State) -> State:
    """As a checkpoint keeps it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: State = torch.load(file, weights_only=True)
    return loaded


def assert_same(found: State, expected: State) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
