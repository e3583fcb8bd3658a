"""Every path sampler and every data sampler keeps one contract; then what each promises itself.

Each runs through the contract as it was made and after it has learned from made-up gradients.
"""

import copy
import io
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from scipy.stats import chisquare
from torch import Generator, Tensor

from nas.config.run_folder import conf_dir
from search_spaces.space import Space
from supernet.sampling.annealing import weakest
from supernet.sampling.candidate_paths import CandidatePaths
from supernet.sampling.examples import DataSampler, UniformData
from supernet.sampling.path_importance import FactorisedPaths
from supernet.sampling.paths import Path, PathSampler, SandwichPaths, UniformPaths
from supernet.sampling.published import PublishedPaths
from tests.helpers.samplers import (
    DATA,
    EPOCHS,
    PATHS,
    SPACES,
    learn_data,
    learn_paths,
    made_up,
    some_scores,
)
from tests.helpers.spaces import make_space

SPACE = make_space()
NUM_EXAMPLES = 50
WEIGHTED_PATHS = ("sandwich_importance", "factorised", "factorised_choice", "candidates")
WEIGHTED_DATA = ("systematic", "independent")


@dataclass(frozen=True)
class PathCase:
    name: str
    space_name: str
    learned: bool

    @property
    def space(self) -> Space[Any]:
        return SPACES[self.space_name]

    def fresh(self) -> PathSampler:
        return PATHS[self.name](space=self.space)

    def make(self) -> PathSampler:
        """The same sampler every time."""
        if self.learned:
            return copy.deepcopy(learned_paths(self.name, self.space_name))
        return self.fresh()


@cache
def learned_paths(name: str, space_name: str) -> PathSampler:
    paths = PATHS[name](space=SPACES[space_name])
    learn_paths(paths, SPACES[space_name])
    return paths


@dataclass(frozen=True)
class DataCase:
    name: str
    learned: bool

    def fresh(self) -> DataSampler:
        return DATA[self.name](num_examples=NUM_EXAMPLES)

    def make(self) -> DataSampler:
        """The same sampler every time."""
        data = self.fresh()
        if self.learned:
            learn_data(data, some_scores(NUM_EXAMPLES))
        return data


PATH_CASES = [
    PathCase(name, space_name, learned)
    for name in PATHS
    for space_name in SPACES
    for learned in (False, True)
]
DATA_CASES = [DataCase(name, learned) for name in DATA for learned in (False, True)]


def case_id(case: PathCase | DataCase) -> str:
    space = [case.space_name] if isinstance(case, PathCase) else []
    return "-".join([case.name, *space, "learned" if case.learned else "fresh"])


@pytest.fixture(params=PATH_CASES, ids=case_id, name="paths_case")
def paths_case_fixture(request: pytest.FixtureRequest) -> PathCase:
    case: PathCase = request.param
    return case


@pytest.fixture(params=DATA_CASES, ids=case_id, name="data_case")
def data_case_fixture(request: pytest.FixtureRequest) -> DataCase:
    case: DataCase = request.param
    return case


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint keeps it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def targets_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"].rpartition(".")[2]
        for value in node.values():
            yield from targets_in(value)


def configured(group: str) -> set[str]:
    files = (conf_dir() / group).glob("*.yaml")
    return {
        name for file in files for name in targets_in(OmegaConf.to_object(OmegaConf.load(file)))
    }


def test_every_sampler_that_can_be_configured_runs_through_the_contract() -> None:
    paths = {type(case.fresh()).__name__ for case in PATH_CASES}
    data = {type(case.fresh()).__name__ for case in DATA_CASES}
    assert configured("paths") == paths
    assert configured("examples") == data


# Paths


def draw_many(paths: PathSampler, generator: Random, count: int = 10) -> list[Path]:
    return [path for _ in range(count) for path in paths.draw(generator)]


def test_paths_lie_in_the_space(paths_case: PathCase) -> None:
    paths, space = paths_case.make(), paths_case.space
    for path in draw_many(paths, Random(0), 30):
        assert space.decode(space.encode(path.arch)) == path.arch


def test_paths_are_a_function_of_the_generator(paths_case: PathCase) -> None:
    first, second, other = (
        draw_many(paths_case.make(), generator) for generator in (Random(3), Random(3), Random(4))
    )
    assert first == second
    assert first != other


def test_drawing_paths_leaves_the_global_generators_alone(paths_case: PathCase) -> None:
    paths = paths_case.make()
    before = random.getstate(), torch.get_rng_state()
    for path in draw_many(paths, Random(0)):
        if path.role == "random":
            paths.observe(path, made_up(paths_case.space, path.arch))
    paths.begin_epoch(EPOCHS - 1, EPOCHS)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_restored_paths_go_on_alike(paths_case: PathCase) -> None:
    paths, space, generator = paths_case.make(), paths_case.space, Random(0)
    for path in draw_many(paths, generator, 5):  # the epoch has begun
        if path.role == "random":
            paths.observe(path, made_up(space, path.arch))
    restored, same = paths_case.fresh(), Random(99)
    restored.load_state_dict(through_a_file(paths.state_dict()))
    same.setstate(generator.getstate())
    for epoch in (EPOCHS - 1, EPOCHS):
        for _ in range(40):
            drawn = paths.draw(generator)
            assert restored.draw(same) == drawn
            for path in drawn:
                if path.role == "random":
                    paths.observe(path, made_up(space, path.arch))
                    restored.observe(path, made_up(space, path.arch))
        paths.begin_epoch(epoch, EPOCHS + 1)
        restored.begin_epoch(epoch, EPOCHS + 1)
        assert restored.figures() == paths.figures()
        assert restored.state_dict() == paths.state_dict()


def test_restored_paths_do_not_share_what_they_learn(paths_case: PathCase) -> None:
    paths, space = paths_case.make(), paths_case.space
    restored = paths_case.fresh()
    restored.load_state_dict(paths.state_dict())
    before = copy.deepcopy(paths.state_dict())
    learn_paths(restored, space, steps=5)
    assert paths.state_dict() == before


def test_the_step_begins_with_the_largest_where_a_sampler_says_so(paths_case: PathCase) -> None:
    paths, generator = paths_case.make(), Random(0)
    firsts = {paths.draw(generator)[0].role for _ in range(20)}
    assert (firsts == {"largest"}) is paths.begins_with_largest


def test_largest_and_smallest_weigh_one_and_the_others_a_positive_number(
    paths_case: PathCase,
) -> None:
    for path in draw_many(paths_case.make(), Random(0), 50):
        assert path.role in ("largest", "random", "smallest")
        assert path.weight > 0
        assert math.isfinite(path.weight)
        assert path.weight == 1.0 or path.role == "random"


def test_paths_weigh_one_unless_importance_was_learned(paths_case: PathCase) -> None:
    weights = {path.weight for path in draw_many(paths_case.make(), Random(0), 50)}
    weighted = paths_case.learned and paths_case.name.startswith(WEIGHTED_PATHS)
    assert (weights != {1.0}) is weighted


def test_path_figures_are_numbers(paths_case: PathCase) -> None:
    figures = paths_case.make().figures()
    assert all(math.isfinite(value) and value >= 0 for value in figures.values())
    assert bool(figures) is (paths_case.name not in ("uniform", "sandwich"))


def test_path_samplers_refuse_the_state_of_another(paths_case: PathCase) -> None:
    with pytest.raises(ValueError, match=r"state.*, got \['mean'\]"):
        paths_case.fresh().load_state_dict({"mean": 1.0})


@pytest.mark.parametrize("num_random", [0, 1, 3])
def test_a_sandwich_is_the_largest_then_random_ones_then_the_smallest(num_random: int) -> None:
    drawn = SandwichPaths(num_random, space=SPACE).draw(Random(0))
    assert [path.role for path in drawn] == ["largest", *["random"] * num_random, "smallest"]
    assert (drawn[0].arch, drawn[-1].arch) == (SPACE.largest(), SPACE.smallest())


@pytest.mark.parametrize("name", ["uniform", "factorised", "factorised_choice", "candidates"])
def test_a_sandwich_is_filled_with_what_another_sampler_draws_and_teaches_it(name: str) -> None:
    sandwich = SandwichPaths(4, PATHS[name], space=SPACE)
    learn_paths(sandwich, SPACE, steps=20)
    single = PATHS[name](space=SPACE)
    learn_paths(single, SPACE, steps=80)
    assert sandwich.norms == single.norms
    assert sandwich.state_dict() == single.state_dict()
    assert sandwich.figures() == single.figures()
    assert sandwich.draw(Random(5))[1:-1] == draw_many(single, Random(5), 4)


@pytest.mark.parametrize("num_random", [-1, 1.5, True, "2", None])
def test_a_number_of_random_paths_that_cannot_be_drawn_is_refused(num_random: object) -> None:
    with pytest.raises(ValueError, match=r"num_random must be .*got"):
        SandwichPaths(num_random, space=SPACE)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["sandwich", "published"])
def test_a_sandwich_is_not_filled_with_sandwiches_or_clipped_norms(name: str) -> None:
    with pytest.raises(ValueError, match=r"^random must draw single paths .*got (San|Pub)"):
        SandwichPaths(2, PATHS[name], space=SPACE)


@pytest.mark.parametrize(
    ("make", "key", "value"),
    [
        (FactorisedPaths, "floor", 0.0),
        (FactorisedPaths, "annealing", 1.5),
        (FactorisedPaths, "decay", 1.0),
        (FactorisedPaths, "attribution", "edge"),
        (CandidatePaths, "floor", -0.1),
        (CandidatePaths, "annealing", 0),
        (CandidatePaths, "num_candidates", 1),
        (CandidatePaths, "num_candidates", 2.5),
    ],
)
def test_settings_of_path_importance_are_checked(
    make: Callable[..., PathSampler], key: str, value: object
) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be .*, got '?{value}'?$"):
        make(**{key: value}, space=SPACE)


def test_uniform_paths_draw_each_option_of_each_choice_alike_often() -> None:
    paths, generator, num_draws = UniformPaths(space=SPACE), Random(0), 3000
    archs = [paths.draw(generator)[0].arch for _ in range(num_draws)]
    deepest = [SPACE.encode(arch) for arch in archs if arch.depth == max(SPACE.depth)]
    for name, options in SPACE.choices().items():
        drawn = (
            [arch.depth for arch in archs]
            if name == "depth"
            else [values[name] for values in deepest]  # shallow ones do not use every choice
        )
        counts = Counter(drawn)
        # 15 choices are tested with this one seed; 1e-3 each leaves a false alarm 1.5 %.
        assert chisquare([counts[option] for option in options]).pvalue > 1e-3, (name, counts)


def test_uniform_paths_draw_choices_independently() -> None:
    paths, generator = UniformPaths(space=SPACE), Random(1)
    archs = [paths.draw(generator)[0].arch for _ in range(3600)]
    pairs = Counter((arch.embed_dim, arch.depth) for arch in archs)
    cells = [pairs[width, depth] for width in SPACE.embed_dim for depth in SPACE.depth]
    assert chisquare(cells).pvalue > 1e-3, pairs


def test_the_weakest_strength_is_preferred_among_those_that_differ_by_rounding() -> None:
    assert weakest({0.0: 1.0, 0.5: 1.0 - 1e-15, 1.0: 1.0}) == 0.0
    assert weakest({0.0: 1.0, 0.5: 0.9, 1.0: 0.9}) == 0.5
    assert weakest({0.0: 1.0, 0.5: 0.9, 1.0: 0.8}) == 1.0
    assert weakest({0.5: 0.0, 0.0: 0.0}) == 0.0


def test_published_paths_read_clipped_norms_and_the_others_do_not() -> None:
    norms = {name: make(space=SPACE).norms for name, make in PATHS.items()}
    assert norms == {
        "uniform": "none",
        "sandwich": "none",
        "sandwich_importance": "path",
        "factorised": "path",
        "factorised_choice": "choice",
        "candidates": "path",
        "candidates_interactions": "path",
        "published": "clipped_choice",
    }
    assert PublishedPaths.norms == "clipped_choice"


# Examples


def draw_next(data: DataSampler, generator: Generator) -> tuple[Tensor, Tensor]:
    return data.draw_epoch(generator, EPOCHS - 1, EPOCHS)


def test_an_epoch_has_as_many_draws_as_examples_with_a_positive_weight_each(
    data_case: DataCase,
) -> None:
    indices, weights = draw_next(data_case.make(), Generator().manual_seed(0))
    assert (indices.shape, indices.dtype) == ((NUM_EXAMPLES,), torch.long)
    assert (weights.shape, weights.dtype) == ((NUM_EXAMPLES,), torch.float32)
    assert indices.min() >= 0
    assert indices.max() < NUM_EXAMPLES
    assert weights.isfinite().all()
    assert weights.min() > 0


def test_examples_weigh_one_unless_importance_was_learned(data_case: DataCase) -> None:
    data, weights = data_case.make(), torch.ones(())
    if data_case.learned:  # drawn without new observations
        _, weights = learn_data(data_case.fresh(), some_scores(NUM_EXAMPLES))
    else:
        _, weights = draw_next(data, Generator())
    weighted = data_case.learned and data_case.name in WEIGHTED_DATA
    assert bool((weights != 1).any()) is weighted


def test_the_order_of_examples_is_a_function_of_the_generator(data_case: DataCase) -> None:
    first, second, other = (
        draw_next(data_case.make(), Generator().manual_seed(seed))[0] for seed in (3, 3, 4)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_drawing_examples_leaves_the_global_generator_alone(data_case: DataCase) -> None:
    before = torch.get_rng_state()
    draw_next(data_case.make(), Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


def observe_some(data: DataSampler, indices: Tensor, weights: Tensor) -> None:
    data.observe(indices[:20], some_scores(NUM_EXAMPLES)[indices[:20]].float())


def test_a_restored_data_sampler_goes_on_alike(data_case: DataCase) -> None:
    data, generator = data_case.make(), Generator().manual_seed(0)
    observe_some(data, *draw_next(data, generator))  # the epoch has begun
    restored, same = data_case.fresh(), Generator().manual_seed(99)
    restored.load_state_dict(through_a_file(data.state_dict()))
    same.set_state(generator.get_state())
    for _ in range(3):
        drawn = draw_next(data, generator)
        for one, other in zip(draw_next(restored, same), drawn, strict=True):
            assert torch.equal(one, other)
        assert restored.figures() == data.figures()
        for sampler in (data, restored):
            observe_some(sampler, *drawn)
        torch.testing.assert_close(restored.state_dict(), data.state_dict(), rtol=0, atol=0)


def test_a_restored_data_sampler_does_not_share_what_it_learns(data_case: DataCase) -> None:
    data, restored = data_case.make(), data_case.fresh()
    restored.load_state_dict(data.state_dict())
    before = copy.deepcopy(data.state_dict())
    observe_some(restored, torch.arange(NUM_EXAMPLES), torch.ones(NUM_EXAMPLES))
    torch.testing.assert_close(data.state_dict(), before, rtol=0, atol=0)


def test_data_figures_are_numbers(data_case: DataCase) -> None:
    figures = data_case.make().figures()
    assert all(math.isfinite(value) and value >= 0 for value in figures.values())
    assert bool(figures) is data_case.make().needs_scores


def test_data_samplers_refuse_the_state_of_another(data_case: DataCase) -> None:
    with pytest.raises(ValueError, match=r"state.*, got \['mean'\]"):
        data_case.fresh().load_state_dict({"mean": 1.0})


@pytest.mark.parametrize(
    ("key", "value"),
    [("floor", 0.0), ("floor", 1.1), ("annealing", 0), ("decay", -0.5), ("draws", "random")],
)
def test_settings_of_data_importance_are_checked(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be .*, got '?{value}'?$"):
        DATA["systematic"](**{key: value}, num_examples=3)


def test_a_uniform_epoch_has_every_example_once_in_another_order_each_time() -> None:
    data, generator = UniformData(num_examples=101), Generator().manual_seed(0)
    epochs = [data.draw_epoch(generator, epoch, 3)[0] for epoch in range(3)]
    for indices in epochs:
        assert indices.sort().values.tolist() == list(range(101))
    assert len({tuple(indices.tolist()) for indices in epochs}) == 3
