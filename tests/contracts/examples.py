"""What every sampler of training examples must do. Yours is held to it by

    class TestMine(DataContract):
        def make(self, num_examples: int) -> MyData:
            return MyData(num_examples=num_examples)

Each test runs twice: as the sampler was made, and after it has learned from made-up scores.
"""

import copy
import math

import pytest
import torch
from torch import Generator, Tensor

from supernet.sampling.examples import DataSampler
from tests.contracts.paths import assert_same, through_a_file
from tests.helpers.samplers import EPOCHS, learn_data, some_scores

NUM_EXAMPLES = 50


class DataContract:
    weighs = True  # once it has learned, draws have different weights

    def make(self, num_examples: int) -> DataSampler:
        raise NotImplementedError

    @pytest.fixture(params=[False, True], ids=["fresh", "learned"])
    def learned(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    @pytest.fixture
    def data(self, learned: bool) -> DataSampler:
        """The same sampler every time."""
        data = self.make(NUM_EXAMPLES)
        if learned:
            learn_data(data, some_scores(NUM_EXAMPLES))
        return data

    def test_an_epoch_has_as_many_draws_as_examples_with_a_positive_weight_each(
        self, data: DataSampler
    ) -> None:
        for drawn in (draw_next(data), data.draw(Generator().manual_seed(0))):
            indices, weights = drawn
            assert (indices.shape, indices.dtype) == ((NUM_EXAMPLES,), torch.long)
            assert (weights.shape, weights.dtype) == ((NUM_EXAMPLES,), torch.float32)
            assert indices.min() >= 0
            assert indices.max() < NUM_EXAMPLES
            assert weights.isfinite().all()
            assert weights.min() > 0

    def test_examples_weigh_one_unless_importance_was_learned(self, learned: bool) -> None:
        data = self.make(NUM_EXAMPLES)
        if learned:
            _, weights = learn_data(data, some_scores(NUM_EXAMPLES))
        else:
            _, weights = draw_next(data)
        assert bool((weights != 1).any()) is (learned and self.weighs)

    def test_the_order_is_a_function_of_the_generator(self, data: DataSampler) -> None:
        first, second, other = (draw_next(copy.deepcopy(data), seed)[0] for seed in (3, 3, 4))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)

    def test_drawing_leaves_the_global_generator_alone(self, data: DataSampler) -> None:
        before = torch.get_rng_state()
        draw_next(data)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_restored_sampler_goes_on_alike(self, data: DataSampler) -> None:
        generator = Generator().manual_seed(0)
        observe_some(data, data.draw_epoch(generator, EPOCHS - 1, EPOCHS)[0])
        restored, same = self.make(NUM_EXAMPLES), Generator().manual_seed(99)
        restored.load_state_dict(through_a_file(data.state_dict()))  # the epoch has begun
        same.set_state(generator.get_state())
        for _ in range(3):
            drawn = data.draw_epoch(generator, EPOCHS - 1, EPOCHS)
            again = restored.draw_epoch(same, EPOCHS - 1, EPOCHS)
            assert all(torch.equal(one, other) for one, other in zip(again, drawn, strict=True))
            assert restored.figures() == data.figures()
            for sampler in (data, restored):
                observe_some(sampler, drawn[0])
            assert_same(restored.state_dict(), data.state_dict())

    def test_a_restored_sampler_does_not_share_what_it_learns(self, data: DataSampler) -> None:
        restored = self.make(NUM_EXAMPLES)
        restored.load_state_dict(data.state_dict())
        before = copy.deepcopy(data.state_dict())
        observe_some(restored, torch.arange(NUM_EXAMPLES))
        assert_same(data.state_dict(), before)

    def test_figures_are_numbers_and_there_where_scores_are_needed(self, data: DataSampler) -> None:
        figures = data.figures()
        assert all(math.isfinite(value) and value >= 0 for value in figures.values())
        assert bool(figures) is data.needs_scores

    def test_the_state_of_another_sampler_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"state.*, got \['mean'\]"):
            self.make(NUM_EXAMPLES).load_state_dict({"mean": 1.0})


def draw_next(data: DataSampler, seed: int = 0) -> tuple[Tensor, Tensor]:
    return data.draw_epoch(Generator().manual_seed(seed), EPOCHS - 1, EPOCHS)


def observe_some(data: DataSampler, indices: Tensor) -> None:
    data.observe(indices[:20], some_scores(NUM_EXAMPLES)[indices[:20]].float())
