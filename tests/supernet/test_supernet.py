"""A subnet of the supernet is the plain model that is extracted from it, and no more than its slice
is trained. Every family of supernets and every weight source runs through the same tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from search_spaces.space import Space
from search_spaces.vit import ViTArch, ViTSpace
from supernet.batch_norm import batch_statistics
from supernet.families.vit import ROLES, ViTSupernet, build, role_sizes
from supernet.parameter_counts import count
from supernet.sources.source import SourceFactory, below, merge
from supernet.supernet import Supernet
from tests.helpers.spaces import (
    ADAPTERS,
    CELLS,
    FIXED,
    OWN,
    SOURCES,
    make_cells,
    make_space,
    make_supernet,
    some_archs,
    some_images,
)


@pytest.fixture(params=SOURCES, name="source")
def source_fixture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass(frozen=True)
class Family:
    """One kind of supernet, freshly made, with what it is called with."""

    space: Space[Any]
    supernet: Supernet
    images: Tensor


@pytest.fixture(params=[*SOURCES, "cells"], name="family")
def family_fixture(request: pytest.FixtureRequest) -> Family:
    if request.param == "cells":
        return Family(CELLS, make_cells(), some_images(size=8))
    return Family(make_space(request.param), make_supernet(request.param), some_images())


def test_the_extracted_subnet_equals_the_supernet(family: Family) -> None:
    supernet, images = family.supernet, family.images
    for arch in some_archs(family.space):
        plain = supernet.extract(arch)
        with batch_statistics(plain):
            assert_close(plain(images), supernet(images, arch), atol=1e-5, rtol=0)


def test_extraction_copies(family: Family) -> None:
    supernet, images = family.supernet, family.images
    plain = supernet.extract(family.space.largest())
    before = plain(images)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(1.0)
    assert torch.equal(plain(images), before)


def test_the_factorised_file_merges_into_the_plain_model_to_the_bit(
    family: Family, tmp_path: object
) -> None:
    supernet = family.supernet
    for arch in some_archs(family.space, count=3):
        path = f"{tmp_path}/factorised.safetensors"
        save_file(supernet.factorise(arch), path)
        merged = supernet.merge(load_file(path), arch)
        expected = supernet.extract(arch).state_dict()
        assert merged.keys() == expected.keys()
        assert all(torch.equal(merged[name], expected[name]) for name in expected)


def test_the_ledger_counts_the_elements_of_the_saved_files(
    family: Family, tmp_path: object
) -> None:
    supernet = family.supernet
    for arch in some_archs(family.space):
        counts = count(supernet, arch)
        path = f"{tmp_path}/weights.safetensors"
        save_file(supernet.factorise(arch), path)
        assert counts.stored_factorised == elements(load_file(path))
        plain = supernet.extract(arch)
        save_file(plain.state_dict(), path)
        statistics = elements(dict(plain.named_buffers()))
        assert counts.resident == elements(load_file(path))
        assert counts.stored_merged == counts.resident - statistics
        assert (statistics > 0) is (family.space is CELLS)
        assert counts.params == min(counts.stored_factorised, counts.stored_merged)


def elements(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def test_a_role_is_stored_factorised_only_where_that_is_less() -> None:
    supernet, space = make_supernet("atoms"), make_space("atoms")
    shallow = space.decode(space.encode(space.largest()) | {"depth": 1, "num_atoms": 3})
    assert count(supernet, shallow).stored_factorised == count(supernet, shallow).stored_merged
    deep = space.decode(space.encode(space.largest()) | {"num_atoms": 1})
    assert count(supernet, deep).stored_factorised < count(supernet, deep).stored_merged


def test_sources_compose_what_their_definitions_say() -> None:
    supernet = make_supernet("atoms_adapters")
    arch = make_space().sample(Random(7))
    source = supernet.linear("fc1").source
    parameters = dict(source.named_parameters())
    atoms, coefficients = (
        parameters["parts.0.atoms"],
        parameters["parts.0.coefficients.coefficients"],
    )
    a, b = parameters["parts.1.a"], parameters["parts.1.b"]
    for layer, (o, i) in enumerate(role_sizes(arch, FIXED.head_dim)["fc1"]):
        expected = torch.zeros(o, i, dtype=torch.float64)
        for s in range(arch.num_atoms):
            expected += coefficients[layer, s].double() * atoms[s, :o, :i].double()
        for r in range(arch.rank[layer]):
            outer = torch.outer(b[layer, :o, r].double(), a[layer, r, :i].double())
            expected += 6.0 / 5 * outer  # alpha over the largest rank, at every rank
        composed = source.weight(range(layer, layer + 1), o, i, arch)[0]
        assert_close(composed.double(), expected, atol=1e-5, rtol=0)


def test_layers_composed_together_equal_layers_composed_alone(source: str) -> None:
    supernet = make_supernet(source)
    arch = make_space(source).largest()
    for role, sizes in role_sizes(arch, FIXED.head_dim).items():
        alone = supernet.linear(role).source
        factors = alone.factors(sizes, arch)
        together = [weight for weight, _ in supernet.linear(role).compose(sizes, arch)]
        for layer, (o, i) in enumerate(sizes):
            single = alone.weight(range(layer, layer + 1), o, i, arch)[0]
            assert torch.equal(single, merge(factors, layer, o, i))
            assert_close(together[layer], single, atol=1e-6, rtol=0)


def test_a_head_keeps_its_weights_at_every_width() -> None:
    supernet, space = make_supernet("own"), make_space("own")
    values = space.encode(space.largest())
    few = supernet.extract(space.decode(values | {"blocks.0.num_heads": 2}))
    many = supernet.extract(space.decode(values | {"blocks.0.num_heads": 3}))
    name = "blocks.0.attn.qkv.weight"
    kept, every = (m.get_parameter(name).reshape(3, -1, 7, 17) for m in (few, many))
    assert torch.equal(kept, every[:, :2])


def test_gradients_reach_the_slice_and_nothing_else(source: str) -> None:
    space = make_space(source)
    for arch in some_archs(space, count=4):
        supernet = make_supernet(source)
        supernet(some_images(), arch).square().sum().backward()
        for name, used in used_parts(supernet, arch).items():
            gradient = supernet.get_parameter(name).grad
            assert gradient is not None, f"{name} has no gradient, which DDP would wait for"
            assert torch.all(gradient[~used] == 0), name
            assert torch.count_nonzero(gradient[used]) >= 0.5 * used.sum(), name


def used_parts(supernet: ViTSupernet, arch: ViTArch) -> dict[str, Tensor]:
    """For each parameter, which elements a subnet uses, written down by hand."""
    sizes = role_sizes(arch, FIXED.head_dim)
    used = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in supernet.named_parameters()}
    width, depth = arch.embed_dim, arch.depth
    for name, mask in used.items():
        role = name.split(".")[1] if name.startswith("linears.") else ""
        if name.startswith("patch_embed."):
            mask[:width] = True
        elif name == "pos_embed.weight" or name == "head.weight":
            mask[..., :width] = True
        elif name == "head.bias":
            mask[:] = True
        elif name.startswith("fc_norm."):
            mask[:, :width] = True
        elif name.startswith("norm"):
            mask[:depth, :width] = True
        for layer, (o, i) in enumerate(sizes.get(role, [])):
            if name.endswith(".bias") and role:
                # The bias of k moves every logit of a query alike, so its gradient is rounding.
                mask[layer, :o] = True
            elif name.endswith(".coefficients"):
                mask[layer, : arch.num_atoms] = True
            elif name.endswith(".a"):
                mask[layer, : arch.rank[layer], :i] = True
            elif name.endswith(".b"):
                mask[layer, :o, : arch.rank[layer]] = True
            elif name.endswith("atoms"):
                own = supernet.linear(role).source.dimensions == frozenset()
                mask[slice(layer, layer + 1) if own else slice(arch.num_atoms), :o, :i] = True
    return used


def test_each_choices_gradients_are_views_of_the_supernets(family: Family) -> None:
    supernet = family.supernet
    for arch in some_archs(family.space):
        supernet.zero_grad()
        assert not any(supernet.own_gradients(arch).values())
        supernet(family.images, arch).square().sum().backward()
        found = supernet.own_gradients(arch)
        assert found.keys() == family.space.active(arch).keys()
        grads = [p.grad for p in supernet.parameters() if p.grad is not None]
        storages = {grad.untyped_storage().data_ptr() for grad in grads}
        for gradient in (gradient for own in found.values() for gradient in own):
            assert gradient.untyped_storage().data_ptr() in storages


def places(gradients: list[Tensor]) -> set[tuple[int, torch.Size, tuple[int, ...]]]:
    """Where each view lies."""
    return {(grad.data_ptr(), grad.shape, grad.stride()) for grad in gradients}


def after_a_pass(source: str) -> tuple[ViTSupernet, ViTArch, dict[str, Tensor]]:
    """A supernet after a backward pass of two blocks, with all of its gradients by name."""
    supernet = make_supernet(source)
    ranks = (1, 0) if "adapters" in source else (0, 0)
    atoms = 1 if "atoms" in source else 0
    arch = ViTArch(embed_dim=13, num_heads=(2, 1), mlp_ratio=(3, 1.5), rank=ranks, num_atoms=atoms)
    supernet(some_images(), arch).square().sum().backward()
    grads = {n: p.grad for n, p in supernet.named_parameters() if p.grad is not None}
    return supernet, arch, grads


def test_choices_own_what_they_size_where_weights_are_a_layers_own() -> None:
    supernet, arch, grads = after_a_pass("own")
    found = {name: places(own) for name, own in supernet.own_gradients(arch).items()}
    bias = {role: grads[f"linears.{role}.bias"] for role in ROLES}
    atoms = {role: grads[f"linears.{role}.source.atoms"] for role in ROLES}
    heads = [grad[1, :7] for role, grad in bias.items() if role in ("q", "k", "v")]
    heads += [atoms[role][1, :7, :13] for role in ("q", "k", "v")] + [atoms["o"][1, :13, :7]]
    assert found["blocks.1.num_heads"] == places(heads)
    hidden = [bias["fc1"][1, :19], atoms["fc1"][1, :19, :13], atoms["fc2"][1, :13, :19]]
    assert found["blocks.1.mlp_ratio"] == places(hidden)
    norms = [f"{norm}.{kind}" for norm in ("norm1", "norm2") for kind in ("weight", "bias")]
    back = [bias["o"][1, :13], bias["fc2"][1, :13], *(grads[norm][1, :13] for norm in norms)]
    assert found["depth"] == places(heads + hidden + back)
    width = [grads[norm][:2, :13] for norm in norms]
    width += [grads["fc_norm.weight"][0, :13], grads["fc_norm.bias"][0, :13]]
    width += [grads["patch_embed.weight"][:13], grads["patch_embed.bias"][:13]]
    width += [grads["pos_embed.weight"][..., :13], grads["head.weight"][:, :13]]
    assert found["embed_dim"] == places(width)
    assert found["num_atoms"] == found["blocks.0.rank"] == found["blocks.1.rank"] == set()


def test_shared_atoms_count_for_their_number_and_adapters_for_their_rank() -> None:
    supernet, arch, grads = after_a_pass("atoms_adapters")
    found = {name: places(own) for name, own in supernet.own_gradients(arch).items()}
    part = "linears.{}.source.parts.{}"
    roles = {"q": (14, 13), "k": (14, 13), "v": (14, 13), "fc1": (39, 13), "fc2": (13, 39)}
    box = [
        grads[part.format(role, "0.atoms")][:1, :o, :i] for role, (o, i) in roles.items()
    ]  # of both blocks
    assert found["num_atoms"] == places(box)
    adapters = {
        role: [
            grads[part.format(role, "1.a")][0, :1, :i],
            grads[part.format(role, "1.b")][0, :o, :1],
        ]
        for role, (o, i) in roles.items()
    }
    assert found["blocks.0.rank"] == places([grad for own in adapters.values() for grad in own])
    assert found["blocks.1.rank"] == set()
    coefficients = part.format("fc1", "0.coefficients.coefficients")
    hidden = [grads["linears.fc1.bias"][0, :39], grads[coefficients][0, :1]]
    hidden += [grads[part.format("fc2", "0.coefficients.coefficients")][0, :1]]
    hidden += adapters["fc1"] + adapters["fc2"]
    assert found["blocks.0.mlp_ratio"] == places(hidden)


def test_initial_weights_are_a_function_of_the_generator() -> None:
    first, second, other = (make_supernet(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["linears.q.bias"], other["linears.q.bias"])


def test_weights_are_composed_in_full_precision_under_autocast() -> None:
    supernet = make_supernet()
    arch = make_space().largest()
    with torch.autocast("cpu", torch.bfloat16):
        composed = supernet.compose(arch)
    expected = supernet.compose(arch)
    for role in ROLES:
        for (weight, _), (exact, _) in zip(composed[role], expected[role], strict=True):
            assert weight.dtype == torch.float32
            assert torch.equal(weight, exact)


def test_decay_spares_vectors_and_spares_no_matrix() -> None:
    supernet = make_supernet()
    spared = supernet.no_weight_decay()
    for name, parameter in supernet.named_parameters():
        is_matrix = name.split(".")[-1] in ("atoms", "a", "b") or name in (
            "patch_embed.weight",
            "head.weight",
        )
        assert (name in spared) is not is_matrix or parameter.ndim == 1, name


@pytest.mark.parametrize(
    ("source", "sharing", "message"),
    [
        (OWN, {"rank": (0, 4)}, r"space\.rank must be \[0\]"),
        (OWN, {"num_atoms": (2,)}, r"space\.num_atoms must be \[0\]"),
        (SOURCES["atoms"], {}, r"space\.num_atoms must be positive"),
        (ADAPTERS, {}, r"space\.rank must reach above 0"),
    ],
)
def test_a_space_that_varies_what_no_source_reads_is_refused(
    source: SourceFactory, sharing: dict[str, tuple[int, ...]], message: str
) -> None:
    space = ViTSpace(
        embed_dim=(8,), depth=(1,), num_heads=(1,), mlp_ratio=(1,), head_dim=7, **sharing
    )
    with pytest.raises(ValueError, match=message):
        ViTSupernet(
            space,
            FIXED,
            dict.fromkeys(ROLES, source),
            generator=torch.Generator(),
        )


def test_the_plain_model_is_stock_timm() -> None:
    arch = make_space().largest()
    model = build(arch, FIXED)
    assert type(model).__module__ == "timm.models.vision_transformer"
    assert {type(module).__module__.split(".")[0] for module in model.modules()} <= {
        "timm",
        "torch",
    }


def test_below_strips_only_the_prefix() -> None:
    tensors = {"q.atoms": torch.ones(1), "qq.atoms": torch.zeros(1)}
    assert below(tensors, "q.").keys() == {"atoms"}
