"""Small spaces and supernets with odd sizes and random weights, for the tests."""

from functools import partial
from random import Random

import torch
from torch import Generator

from search_spaces.vit import ViTArch, ViTSpace
from supernet.plain import FixedSizes
from supernet.sources import Atoms, Factors, Free, OneHot, SourceFactory, Sum
from supernet.vit import ROLES, ViTSupernet

OWN = partial(Atoms, partial(OneHot))
ATOMS = partial(Atoms, partial(Free))
ADAPTERS = partial(Factors, 6.0)
ATOMS_ADAPTERS = partial(Sum, [ATOMS, ADAPTERS])
SOURCES: dict[str, SourceFactory] = {
    "own": OWN,
    "atoms": ATOMS,
    "factors": ADAPTERS,
    "atoms_adapters": ATOMS_ADAPTERS,
}
SHARING: dict[str, dict[str, tuple[int, ...]]] = {
    "own": {"rank": (0,), "num_atoms": (0,)},
    "atoms": {"rank": (0,), "num_atoms": (1, 3)},
    "factors": {"rank": (1, 2, 5), "num_atoms": (0,)},
    "atoms_adapters": {"rank": (0, 1, 5), "num_atoms": (1, 3)},
}
FIXED = FixedSizes(img_size=6, patch_size=2, in_chans=3, num_classes=5, head_dim=7)


def make_space(source: str = "atoms_adapters") -> ViTSpace:
    return ViTSpace(
        embed_dim=(9, 13, 17),
        depth=(1, 2, 4),
        num_heads=(1, 2, 3),
        mlp_ratio=(1, 1.5, 3),
        rank=SHARING[source]["rank"],
        num_atoms=SHARING[source]["num_atoms"],
        head_dim=FIXED.head_dim,
    )


def make_supernet(source: str = "atoms_adapters", seed: int = 0) -> ViTSupernet:
    """All roles from one source but o, whose weights are its own; nothing is zero or one."""
    generator = Generator().manual_seed(seed)
    sources = {role: OWN if role == "o" else SOURCES[source] for role in ROLES}
    supernet = ViTSupernet(make_space(source), FIXED, sources, generator=generator)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return supernet


def some_archs(space: ViTSpace, count: int = 8, seed: int = 0) -> list[ViTArch]:
    generator = Random(seed)
    return [space.smallest(), space.largest(), *(space.sample(generator) for _ in range(count))]


def some_images(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 6, 6, generator=Generator().manual_seed(seed))
