"""Every path sampler and every data sampler keeps its contract; then what each promises itself."""

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from omegaconf import OmegaConf
from scipy.stats import chisquare
from torch import Generator

from nas.config.run_folder import conf_dir
from search_spaces.space import Space
from supernet.sampling.annealing import judge
from supernet.sampling.examples import DataSampler, UniformData
from supernet.sampling.path_importance import FactorisedPaths
from supernet.sampling.paths import PathSampler, SandwichPaths, UniformPaths
from supernet.sampling.published import PublishedPaths
from tests.contracts.examples import DataContract
from tests.contracts.paths import PathContract, draw_many
from tests.helpers.samplers import DATA, PATHS, learn_paths
from tests.helpers.spaces import make_space

SPACE = make_space()


class TestPaths(PathContract):
    """Every sampler of `PATHS`."""

    @pytest.fixture(params=PATHS, autouse=True)
    def name(self, request: pytest.FixtureRequest) -> None:
        self.factory = PATHS[request.param]
        self.has_figures = request.param not in ("uniform", "sandwich", "single")
        self.weighs = self.has_figures and request.param != "published"
        self.is_random = request.param != "single"

    def make(self, space: Space[Any]) -> PathSampler[Any]:
        return self.factory(space=space)


class TestExamples(DataContract):
    """Every sampler of `DATA`."""

    @pytest.fixture(params=DATA, autouse=True)
    def name(self, request: pytest.FixtureRequest) -> None:
        self.factory = DATA[request.param]
        self.weighs = request.param in ("systematic", "independent")

    def make(self, num_examples: int) -> DataSampler:
        return self.factory(num_examples=num_examples)


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
    assert configured("paths") == {type(make(space=SPACE)).__name__ for make in PATHS.values()}
    assert configured("examples") == {type(make(num_examples=9)).__name__ for make in DATA.values()}


# Paths


@pytest.mark.parametrize("num_random", [0, 1, 3])
def test_a_sandwich_is_the_largest_then_random_ones_then_the_smallest(num_random: int) -> None:
    drawn = SandwichPaths(num_random, space=SPACE).draw(Random(0))
    assert [path.role for path in drawn] == ["largest", *["random"] * num_random, "smallest"]
    assert (drawn[0].arch, drawn[-1].arch) == (SPACE.largest(), SPACE.smallest())


@pytest.mark.parametrize("name", ["uniform", "factorised", "factorised_choice"])
def test_a_sandwich_is_filled_with_what_another_sampler_draws_and_teaches_it(name: str) -> None:
    sandwich = SandwichPaths(4, PATHS[name], space=SPACE)
    learn_paths(sandwich, SPACE, steps=20)
    single = PATHS[name](space=SPACE)
    learn_paths(single, SPACE, steps=80)
    assert sandwich.norms == single.norms
    assert sandwich.state_dict() == {"largest_alone": False, **single.state_dict()}
    assert sandwich.figures() == single.figures()
    assert sandwich.draw(Random(5))[1:-1] == draw_many(single, Random(5), 4)


def test_the_largest_learns_alone_for_its_share_of_the_epochs() -> None:
    sandwich = SandwichPaths(1, largest_first=0.25, space=SPACE)
    roles = []
    for epoch in range(6):
        sandwich.begin_epoch(epoch, 6)
        roles.append([path.role for path in sandwich.draw(Random(0))])
    assert roles == [["largest"]] * 2 + [["largest", "random", "smallest"]] * 4


def test_a_sandwich_that_goes_on_in_the_middle_of_an_epoch_draws_as_before() -> None:
    sandwich, other = (SandwichPaths(1, largest_first=0.5, space=SPACE) for _ in range(2))
    sandwich.begin_epoch(0, 2)
    other.load_state_dict(sandwich.state_dict())
    assert [path.role for path in other.draw(Random(0))] == ["largest"]
    other.load_state_dict({})  # of a version that had no such share
    assert len(other.draw(Random(0))) == 3


@pytest.mark.parametrize("share", [-0.1, 1, 2.0])
def test_a_share_that_leaves_nothing_for_the_others_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"largest_first must be in \[0, 1\), got"):
        SandwichPaths(1, largest_first=share, space=SPACE)


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
        (FactorisedPaths, "floor", -0.1),
        (FactorisedPaths, "annealing", 0),
    ],
)
def test_settings_of_path_importance_are_checked(
    make: Callable[..., PathSampler[Any]], key: str, value: object
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
    assert judge({0.0: 1.0, 0.5: 1.0 - 1e-15, 1.0: 1.0}, weighted=True) == (0.0, 1.0)
    assert judge({0.0: 1.0, 0.5: 0.9, 1.0: 0.9}, weighted=True) == (0.5, 0.9)
    assert judge({0.0: 1.0, 0.5: 0.9, 1.0: 0.8}, weighted=True) == (1.0, 0.8)
    assert judge({0.5: 0.0, 0.0: 0.0}, weighted=True) == (0.0, 1.0)


def test_draws_that_are_not_weighted_have_the_full_strength_whatever_it_gains() -> None:
    assert judge({0.0: 1.0, 0.5: 0.9, 1.0: 1.2}, weighted=False) == (1.0, 1.2)


def test_published_paths_read_clipped_norms_and_the_others_do_not() -> None:
    norms = {name: make(space=SPACE).norms for name, make in PATHS.items()}
    assert norms == {
        "uniform": "none",
        "sandwich": "none",
        "single": "none",
        "sandwich_importance": "path",
        "factorised": "path",
        "factorised_choice": "choice",
        "published": "clipped_choice",
    }
    assert PublishedPaths.norms == "clipped_choice"


# Examples


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
