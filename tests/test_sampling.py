"""Every path sampler and every data sampler keeps one contract; then what each promises itself."""

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
import torch
from omegaconf import OmegaConf
from scipy.stats import chisquare
from torch import Generator

from nas.run import conf_dir
from search_spaces.vit import ViTSpace
from supernet.sampling import DataSampler, PathSampler, SandwichPaths, UniformData, UniformPaths
from tests.spaces import make_space

SPACE = make_space()
PATHS: dict[str, Callable[[ViTSpace], PathSampler]] = {
    "UniformPaths": lambda space: UniformPaths(space=space),
    "SandwichPaths": lambda space: SandwichPaths(2, space=space),
}
DATA: dict[str, Callable[[int], DataSampler]] = {
    "UniformData": lambda num_examples: UniformData(num_examples=num_examples),
}


@pytest.fixture(params=PATHS, name="make_paths")
def make_paths_fixture(request: pytest.FixtureRequest) -> Callable[[ViTSpace], PathSampler]:
    return PATHS[request.param]


@pytest.fixture(params=DATA, name="make_data")
def make_data_fixture(request: pytest.FixtureRequest) -> Callable[[int], DataSampler]:
    return DATA[request.param]


def test_every_sampler_that_can_be_configured_runs_through_the_contract() -> None:
    targets = {OmegaConf.load(path)._target_ for path in (conf_dir() / "paths").glob("*.yaml")}
    assert {target.rpartition(".")[2] for target in targets} == PATHS.keys()


def test_paths_lie_in_the_space(make_paths: Callable[[ViTSpace], PathSampler]) -> None:
    paths, generator = make_paths(SPACE), Random(0)
    for path in (path for _ in range(50) for path in paths.draw(generator)):
        assert SPACE.decode(SPACE.encode(path.arch)) == path.arch


def test_paths_are_a_function_of_the_generator(
    make_paths: Callable[[ViTSpace], PathSampler],
) -> None:
    first, second, other = (
        [path for _ in range(10) for path in make_paths(SPACE).draw(generator)]
        for generator in (Random(3), Random(3), Random(4))
    )
    assert first == second
    assert first != other


def test_restored_paths_go_on_alike(make_paths: Callable[[ViTSpace], PathSampler]) -> None:
    paths, generator = make_paths(SPACE), Random(0)
    for _ in range(5):
        paths.draw(generator)
    restored, same = make_paths(SPACE), Random(99)
    restored.load_state_dict(paths.state_dict())
    same.setstate(generator.getstate())
    for _ in range(10):
        assert restored.draw(same) == paths.draw(generator)


def test_the_step_begins_with_the_largest_where_a_sampler_says_so(
    make_paths: Callable[[ViTSpace], PathSampler],
) -> None:
    paths, generator = make_paths(SPACE), Random(0)
    firsts = {paths.draw(generator)[0].role for _ in range(20)}
    assert (firsts == {"largest"}) is paths.begins_with_largest


@pytest.mark.parametrize("make_uniform", PATHS.values(), ids=PATHS)
def test_uniform_paths_weigh_one(make_uniform: Callable[[ViTSpace], PathSampler]) -> None:
    paths, generator = make_uniform(SPACE), Random(0)
    assert {path.weight for _ in range(20) for path in paths.draw(generator)} == {1.0}


@pytest.mark.parametrize("num_random", [0, 1, 3])
def test_a_sandwich_is_the_largest_then_random_ones_then_the_smallest(num_random: int) -> None:
    drawn = SandwichPaths(num_random, space=SPACE).draw(Random(0))
    assert [path.role for path in drawn] == ["largest", *["random"] * num_random, "smallest"]
    assert (drawn[0].arch, drawn[-1].arch) == (SPACE.largest(), SPACE.smallest())


def test_a_sandwich_is_filled_with_what_uniform_paths_draw() -> None:
    filling = SandwichPaths(4, space=SPACE).draw(Random(5))[1:-1]
    uniform, generator = UniformPaths(space=SPACE), Random(5)
    assert filling == [path for _ in range(4) for path in uniform.draw(generator)]


@pytest.mark.parametrize("num_random", [-1, 1.5, True, "2", None])
def test_a_number_of_random_paths_that_cannot_be_drawn_is_refused(num_random: object) -> None:
    with pytest.raises(ValueError, match=r"num_random must be .*got"):
        SandwichPaths(num_random, space=SPACE)  # type: ignore[arg-type]


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


def test_an_epoch_has_every_example_once_in_another_order_each_time() -> None:
    data, generator = UniformData(num_examples=101), Generator().manual_seed(0)
    epochs = [data.draw_epoch(generator)[0] for _ in range(3)]
    for indices in epochs:
        assert indices.sort().values.tolist() == list(range(101))
    assert len({tuple(indices.tolist()) for indices in epochs}) == 3


def test_uniform_examples_weigh_one() -> None:
    _, weights = UniformData(num_examples=7).draw_epoch(Generator())
    assert weights.tolist() == [1.0] * 7


def test_the_order_of_examples_is_a_function_of_the_generator(
    make_data: Callable[[int], DataSampler],
) -> None:
    first, second, other = (
        make_data(50).draw_epoch(Generator().manual_seed(seed))[0] for seed in (3, 3, 4)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_drawing_examples_leaves_the_global_generator_alone(
    make_data: Callable[[int], DataSampler],
) -> None:
    before = torch.get_rng_state()
    make_data(50).draw_epoch(Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_restored_data_sampler_goes_on_alike(make_data: Callable[[int], DataSampler]) -> None:
    data, generator = make_data(50), Generator().manual_seed(0)
    data.draw_epoch(generator)
    restored, same = make_data(50), Generator().manual_seed(99)
    restored.load_state_dict(data.state_dict())
    same.set_state(generator.get_state())
    for _ in range(3):
        for one, other in zip(restored.draw_epoch(same), data.draw_epoch(generator), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    "sampler",
    [UniformPaths(space=SPACE), SandwichPaths(1, space=SPACE), UniformData(num_examples=3)],
)
def test_the_state_of_another_sampler_is_refused(sampler: PathSampler | DataSampler) -> None:
    with pytest.raises(ValueError, match=r"ha(s|ve) no state, got"):
        sampler.load_state_dict({"mean": 1.0})
