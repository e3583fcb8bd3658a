"""Vision transformers keep the contract of supernets, with every weight source; then what they add.

A subnet of the supernet is the plain model that is extracted from it, and no more than its slice is
trained.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from search_spaces.vit import ViTArch, ViTSpace
from supernet.families.cell import CellSupernet
from supernet.families.vit import ROLES, ViTSupernet, role_sizes
from supernet.image_tasks import Regression
from supernet.parameter_counts import count
from supernet.sources.atoms import OneHot
from supernet.sources.source import SourceFactory, WeightSource
from tests.contracts.supernet import OwnWeightsContract, SupernetContract
from tests.helpers.spaces import (
    ADAPTERS,
    CELLS,
    FIXED,
    OWN,
    SOURCES,
    make_space,
    make_supernet,
    make_task,
    some_archs,
    some_images,
    sources_of,
)


class TestOwnWeights(OwnWeightsContract):
    space, family, sources = make_space("own"), ViTSupernet, sources_of("own")
    task = make_task()


class TestAtoms(SupernetContract):
    space, family, sources = make_space("atoms"), ViTSupernet, sources_of("atoms")
    task = make_task()


class TestAdaptersAlone(SupernetContract):
    space, family, sources = make_space("factors"), ViTSupernet, sources_of("factors")
    task = make_task()


class TestAtomsAndAdapters(SupernetContract):
    space, family, sources = make_space(), ViTSupernet, sources_of()
    task = make_task()


class TestRegression(OwnWeightsContract):
    space, family, sources = make_space("own"), ViTSupernet, sources_of("own")
    task = Regression(1, 4, (0.0,), (1.0,), ("age", "weight"))


@pytest.fixture(params=SOURCES, name="source")
def source_fixture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_role_is_stored_factorised_only_where_that_is_less() -> None:
    supernet, space = make_supernet("atoms"), make_space("atoms")
    shallow = space.decode(space.encode(space.largest()) | {"depth": 1, "num_atoms": 3})
    assert count(supernet, shallow).stored_factorised == count(supernet, shallow).stored_merged
    deep = space.decode(space.encode(space.largest()) | {"num_atoms": 1})
    assert count(supernet, deep).stored_factorised < count(supernet, deep).stored_merged


def test_layers_composed_together_equal_layers_composed_alone(source: str) -> None:
    supernet = make_supernet(source)
    arch = make_space(source).largest()
    for role, sizes in role_sizes(arch, FIXED.head_dim).items():
        alone = supernet.linear(role).source
        factors = alone.factors(sizes, arch)
        together = [weight for weight, _ in supernet.linear(role).compose(sizes, arch)]
        for layer, (o, i) in enumerate(sizes):
            single = alone.weight(range(layer, layer + 1), o, i, arch)[0]
            assert torch.equal(single, alone.merge(factors, layer, o, i))
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
        supernet(some_images(), arch=arch).square().sum().backward()
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


def places(gradients: list[Tensor]) -> set[tuple[int, torch.Size, tuple[int, ...]]]:
    """Where each view lies."""
    return {(grad.data_ptr(), grad.shape, grad.stride()) for grad in gradients}


def after_a_pass(source: str) -> tuple[ViTSupernet, ViTArch, dict[str, Tensor]]:
    """A supernet after a backward pass of two blocks, with all of its gradients by name."""
    supernet = make_supernet(source)
    ranks = (1, 0) if "adapters" in source else (0, 0)
    atoms = 1 if "atoms" in source else 0
    arch = ViTArch(embed_dim=13, num_heads=(2, 1), mlp_ratio=(3, 1.5), rank=ranks, num_atoms=atoms)
    supernet(some_images(), arch=arch).square().sum().backward()
    grads = {n: p.grad for n, p in supernet.named_parameters() if p.grad is not None}
    return supernet, arch, grads


def test_choices_own_what_they_size_where_weights_are_a_layers_own() -> None:
    supernet, arch, grads = after_a_pass("own")
    found = {name: places(own) for name, own in supernet.choice_gradients(arch).items()}
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
    found = {name: places(own) for name, own in supernet.choice_gradients(arch).items()}
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
        (8,), (1,), (1,), (1,), sharing.get("rank", (0,)), sharing.get("num_atoms", (0,))
    )
    sources = dict.fromkeys(ROLES, source)
    with pytest.raises(ValueError, match=message):
        ViTSupernet.check_sources(space, sources)
    with pytest.raises(ValueError, match=message):
        ViTSupernet(space, FIXED, sources, generator=torch.Generator())


def test_the_plain_model_is_stock_timm() -> None:
    arch = make_space().largest()
    model = ViTSupernet.plain(arch, FIXED)
    assert type(model).__module__ == "timm.models.vision_transformer"
    assert {type(module).__module__.split(".")[0] for module in model.modules()} <= {
        "timm",
        "torch",
    }


def test_sizes_come_from_the_space_and_the_task() -> None:
    assert ViTSupernet.sizes(make_space(), make_task()) == FIXED


def test_patches_must_cover_the_image() -> None:
    message = r"^space\.patch_size must be a divisor of data\.img_size \(7\), got 2$"
    with pytest.raises(ValueError, match=message):
        ViTSupernet.sizes(make_space(), make_task(img_size=7))


def test_a_supernet_of_another_family_is_refused() -> None:
    space: object = CELLS
    with pytest.raises(ValueError, match=r"^space\.supernet must be one for CellSpace, got ViT"):
        ViTSupernet.check_sources(space, sources_of())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^space\.supernet must be one for ViTSpace, got Cell"):
        CellSupernet.sizes(make_space(), make_task())  # type: ignore[arg-type]


def test_a_role_without_a_source_is_refused() -> None:
    sources = sources_of()
    del sources["q"]
    with pytest.raises(
        ValueError, match=r"^source must have exactly the roles .*'fc1', 'fc2', 'k'"
    ):
        ViTSupernet.check_sources(make_space(), sources)


@pytest.mark.parametrize("given", [OneHot, partial(OneHot)])
def test_what_is_no_source_is_refused(given: SourceFactory) -> None:
    with pytest.raises(ValueError, match=r"^source\.o must be a weight source, got OneHot"):
        ViTSupernet.check_sources(make_space(), {**sources_of(), "o": given})


def not_a_source(*, width: int) -> WeightSource:
    raise AssertionError


def test_what_cannot_be_called_for_a_source_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^source: .* unexpected keyword argument 'shape'"):
        ViTSupernet.check_sources(make_space(), {**sources_of(), "o": not_a_source})


def test_a_plain_model_of_even_layers_is_loaded_as_well_as_its_sources_can_fit() -> None:
    """Its fused q, k and v among them."""
    space = make_space("atoms")
    arch = replace(space.largest(), num_atoms=3)
    plain = make_supernet("own").extract(replace(arch, num_atoms=0))
    supernet = make_supernet("atoms", seed=1)
    supernet.load_plain(plain.state_dict(), arch)
    found = supernet.extract(arch).state_dict()
    heads = torch.stack([plain.get_parameter(f"blocks.{b}.attn.qkv.weight") for b in range(4)])
    for part in range(3):
        wanted = heads.chunk(3, dim=1)[part].flatten(1).double()
        u, s, v = torch.linalg.svd(wanted, full_matrices=False)
        best = (u[:, :3] * s[:3]) @ v[:3]
        rows = [found[f"blocks.{b}.attn.qkv.weight"].chunk(3)[part].flatten() for b in range(4)]
        assert_close(torch.stack(rows).double(), best, atol=1e-5, rtol=0)
    exact = [name for name in found if ".proj." in name or name.endswith("bias") or "norm" in name]
    assert len(exact) > 4 * 9
    assert all(torch.equal(found[name], plain.state_dict()[name]) for name in exact)
