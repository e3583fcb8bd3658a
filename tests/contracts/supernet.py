"""What every family of supernets must do. Yours is held to it by

    class TestMine(SupernetContract):
        space = MySpace(...)
        family = MySupernet

A family whose layers have weights of their own keeps `OwnWeightsContract` as well.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor
from torch.testing import assert_close

from search_spaces.space import Space
from supernet.batch_norm import batch_statistics
from supernet.parameter_counts import count
from supernet.sources.source import SourceFactory, WeightSource
from supernet.supernet import Supernet
from supernet.task import Task
from tests.helpers.spaces import make_task, shake


class SupernetContract:
    space: Space[Any]
    family: type[Supernet[Any]]
    sources: Mapping[str, SourceFactory] = {}
    task: Task = make_task(img_size=8)

    def fresh(self, seed: int = 0) -> Supernet[Any]:
        generator = Generator().manual_seed(seed)
        return self.family.from_config(self.space, self.task, self.sources, generator=generator)

    def make(self, seed: int = 0) -> Supernet[Any]:
        """One whose parameters are all random, as after training."""
        supernet = self.fresh(seed)
        shake(supernet, Generator().manual_seed(seed))
        return supernet

    def archs(self, count: int = 8) -> list[Any]:
        space, generator = self.space, Random(0)
        return [space.smallest(), space.largest(), *(space.sample(generator) for _ in range(count))]

    def test_outputs_are_one_row_an_example(self) -> None:
        supernet = self.make()
        for arch in self.archs():
            outputs = supernet(*self.task.example_inputs(3), arch=arch)
            assert outputs.shape == (3, self.task.num_outputs)
            assert bool(outputs.isfinite().all())

    def test_the_extracted_subnet_equals_the_supernet(self) -> None:
        supernet, inputs = self.make(), self.task.example_inputs(3)
        for arch in self.archs():
            plain = supernet.extract(arch)
            assert not any(module.training for module in plain.modules())
            with batch_statistics(plain), torch.no_grad():
                outputs, expected = plain(*inputs), supernet(*inputs, arch=arch)
            assert_close(outputs, expected, atol=supernet.tolerance(arch), rtol=0)

    def test_extraction_copies_and_draws_nothing(self) -> None:
        supernet, inputs = self.make(), self.task.example_inputs(3)
        state = torch.get_rng_state()
        plain = supernet.extract(self.space.largest())
        assert torch.equal(torch.get_rng_state(), state)
        before = plain(*inputs)
        shake(supernet, Generator())
        assert torch.equal(plain(*inputs), before)

    def test_the_plain_model_has_the_names_and_sizes_of_what_is_extracted(self) -> None:
        supernet = self.make()
        for arch in self.archs():
            built = supernet.build(arch).state_dict()
            extracted = supernet.extract(arch).state_dict()
            assert {name: t.shape for name, t in built.items()} == {
                name: t.shape for name, t in extracted.items()
            }

    def test_sizes_are_plain_values_that_make_the_plain_model(self) -> None:
        supernet, arch = self.make(), self.space.largest()
        fixed = self.family.sizes(self.space, self.task)
        assert supernet.fixed == fixed
        assert all(isinstance(value, int | float | str) for value in asdict(fixed).values())
        plain = self.family.plain(arch, type(fixed)(**asdict(fixed)), device="meta")
        assert plain.state_dict().keys() == supernet.extract(arch).state_dict().keys()

    def test_architecture_and_sizes_are_written_as_python_that_makes_them(self) -> None:
        """As an exported subnet's README shows them."""
        for value in (self.space.largest(), self.make().fixed):
            assert eval(repr(value), {type(value).__name__: type(value)}) == value

    def test_the_factorised_file_merges_into_the_plain_model_to_the_bit(
        self, tmp_path: Path
    ) -> None:
        supernet = self.make()
        for arch in self.archs(3):
            save_file(supernet.factorise(arch), tmp_path / "factorised.safetensors")
            merged = supernet.merge(load_file(tmp_path / "factorised.safetensors"), arch)
            expected = supernet.extract(arch).state_dict()
            assert merged.keys() == expected.keys()
            assert all(torch.equal(merged[name], expected[name]) for name in expected)

    def test_counts_are_the_elements_of_the_saved_files(self, tmp_path: Path) -> None:
        supernet, path = self.make(), tmp_path / "weights.safetensors"
        for arch in self.archs():
            counts, plain = count(supernet, arch), supernet.extract(arch)
            save_file(supernet.factorise(arch), path)
            assert counts.stored_factorised == elements(load_file(path))
            save_file(plain.state_dict(), path)
            assert counts.resident == elements(load_file(path))
            statistics = elements(dict(plain.named_buffers()))
            assert counts.stored_merged == counts.resident - statistics
            assert counts.params == min(counts.stored_factorised, counts.stored_merged)

    def test_loading_what_was_extracted_changes_nothing(self) -> None:
        supernet, inputs = self.make(), self.task.example_inputs(3)
        for arch in self.archs():
            before = supernet(*inputs, arch=arch)
            supernet.load_plain(supernet.extract(arch).state_dict(), arch)
            assert_close(supernet(*inputs, arch=arch), before, atol=1e-5, rtol=0)

    def test_the_weights_of_another_model_are_refused(self) -> None:
        supernet, (smallest, largest) = self.make(), self.archs(0)
        before = copy.deepcopy(supernet.state_dict())
        state = supernet.extract(largest).state_dict()
        name, tensor = next(iter(state.items()))
        for other in (
            supernet.extract(smallest).state_dict(),
            {key: value for key, value in state.items() if key != name},
            {**state, "more": torch.ones(1)},
            {**state, name: tensor[None]},
        ):
            with pytest.raises(ValueError, match="state must be that of the plain model"):
                supernet.load_plain(other, largest)
        assert all(torch.equal(before[key], value) for key, value in supernet.state_dict().items())

    def test_gradients_are_the_derivatives_of_the_outputs(self) -> None:
        """Along random directions in which all parameters move, those out of use as well."""
        supernet = self.make().double()
        inputs = [example.double() for example in self.task.example_inputs(3)]
        parameters: list[Tensor] = list(supernet.parameters())
        generator, step = Generator().manual_seed(0), 1e-6

        def loss(arch: Any) -> Tensor:
            outputs: Tensor = supernet(*inputs, arch=arch)
            return (outputs * torch.linspace(0.5, 1.5, outputs.numel()).view_as(outputs)).sum()

        for arch in self.archs(4):
            supernet.zero_grad()
            loss(arch).backward()
            ways = [torch.randn(p.shape, generator=generator).double() for p in parameters]
            pairs = [(p.grad, way) for p, way in zip(parameters, ways, strict=True)]
            slope = sum(float((grad * way).sum()) for grad, way in pairs if grad is not None)
            found = []
            with torch.no_grad():
                for move in (step, -2 * step):
                    torch._foreach_add_(parameters, ways, alpha=move)
                    found.append(float(loss(arch)))
                torch._foreach_add_(parameters, ways, alpha=step)
            assert (found[0] - found[1]) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-5)

    def test_gradients_of_choices_are_views_of_the_supernets(self) -> None:
        supernet, inputs = self.make(), self.task.example_inputs(3)
        if type(supernet).choice_gradients is Supernet.choice_gradients:
            with pytest.raises(ValueError, match="paths must not need gradients of choices"):
                supernet.choice_gradients(self.space.largest())
            return
        for arch in self.archs():
            supernet.zero_grad()
            assert not any(supernet.choice_gradients(arch).values())
            supernet(*inputs, arch=arch).square().sum().backward()
            found = supernet.choice_gradients(arch)
            assert found.keys() == self.space.active(arch).keys()
            grads = [p.grad for p in supernet.parameters() if p.grad is not None]
            storages = {grad.untyped_storage().data_ptr() for grad in grads}
            for gradient in (gradient for own in found.values() for gradient in own):
                assert gradient.untyped_storage().data_ptr() in storages

    def test_initial_weights_are_a_function_of_the_generator(self) -> None:
        before = torch.get_rng_state()
        first, same, other = (self.fresh(seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[name], same[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)
        assert torch.equal(torch.get_rng_state(), before)

    def test_what_is_spared_from_decay_are_parameters(self) -> None:
        supernet = self.fresh()
        assert supernet.no_weight_decay() <= dict(supernet.named_parameters()).keys()

    def test_sources_are_checked_beforehand(self) -> None:
        self.family.check_sources(self.space, self.sources)
        with pytest.raises(ValueError, match=r"^source must .*'nonsense'"):
            self.family.check_sources(self.space, {**self.sources, "nonsense": no_source})

    def test_the_space_of_another_family_is_refused(self) -> None:
        class Other:
            pass

        other: Any = Other()
        with pytest.raises(ValueError, match=r"^space\.supernet must be one for Other"):
            self.family.sizes(other, self.task)


class OwnWeightsContract(SupernetContract):
    """Of families whose layers have weights of their own: what is extracted can be put anywhere."""

    def test_a_fresh_supernet_takes_in_what_was_extracted_from_another(self) -> None:
        inputs, source = self.task.example_inputs(3), self.make()
        for arch in self.archs():
            supernet = self.fresh(1)
            supernet.load_plain(source.extract(arch).state_dict(), arch)
            expected = source(*inputs, arch=arch)
            assert_close(supernet(*inputs, arch=arch), expected, atol=1e-6, rtol=0)

    def test_gradients_reach_what_a_subnet_is_loaded_into_and_nothing_else(self) -> None:
        for arch in self.archs(4):
            supernet, loaded = self.make(), self.make()
            loaded.load_plain(self.make(1).extract(arch).state_dict(), arch)
            supernet(*self.task.example_inputs(3), arch=arch).square().sum().backward()
            for name, parameter in supernet.named_parameters():
                used = parameter != loaded.get_parameter(name)
                grad = torch.zeros(()) if parameter.grad is None else parameter.grad
                grad = grad.expand_as(parameter)
                assert not grad[~used].any(), name
                # A smaller one may hold weights to no effect, as cells whose edges are all zero.
                if arch == self.space.largest():
                    assert grad[used].count_nonzero() >= 0.5 * used.sum(), name


def no_source(**_: object) -> WeightSource:
    raise TypeError("'nonsense'")


def elements(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())
