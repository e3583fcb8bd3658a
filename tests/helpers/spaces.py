"""Small spaces and supernets with odd sizes and random weights, for the tests."""

from functools import partial
from random import Random

import torch
from torch import Generator, nn

from search_spaces.cell import CellSpace
from search_spaces.space import ArchT, Space
from search_spaces.vit import ViTSpace
from supernet.families.cell import CellSizes, CellSupernet
from supernet.families.vit import ROLES, ViTSizes, ViTSupernet
from supernet.image_tasks import Classification
from supernet.sources.atoms import Atoms, Free, OneHot
from supernet.sources.low_rank import Factors
from supernet.sources.source import SourceFactory, Sum

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
FIXED = ViTSizes(img_size=6, patch_size=2, in_chans=3, num_classes=5, head_dim=7)


def make_task(img_size: int = 6, num_classes: int = 5) -> Classification:
    return Classification(3, img_size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), num_classes)


def make_space(source: str = "atoms_adapters") -> ViTSpace:
    return ViTSpace(
        embed_dim=(9, 13, 17),
        depth=(1, 2, 4),
        num_heads=(1, 2, 3),
        mlp_ratio=(1, 1.5, 3),
        rank=SHARING[source]["rank"],
        num_atoms=SHARING[source]["num_atoms"],
        head_dim=FIXED.head_dim,
        patch_size=FIXED.patch_size,
    )


def sources_of(source: str = "atoms_adapters") -> dict[str, SourceFactory]:
    """All roles from one source but o, whose weights are its own."""
    return {role: OWN if role == "o" else SOURCES[source] for role in ROLES}


def make_supernet(source: str = "atoms_adapters", seed: int = 0) -> ViTSupernet:
    """Nothing is zero or one."""
    generator = Generator().manual_seed(seed)
    supernet = ViTSupernet(make_space(source), FIXED, sources_of(source), generator=generator)
    shake(supernet, generator)
    return supernet


@torch.no_grad()
def shake(module: nn.Module, generator: Generator, size: float = 0.2) -> None:
    for parameter in module.parameters():
        parameter.add_(size * torch.randn(parameter.shape, generator=generator))


CELLS = CellSpace(channels=3, num_cells=2)
CELL_SIZES = CellSizes(in_chans=3, num_classes=5, channels=3, num_cells=2)


def make_cells(seed: int = 0) -> CellSupernet:
    """Nothing is zero, the classifier's biases among it."""
    generator = Generator().manual_seed(seed)
    supernet = CellSupernet(CELLS, CELL_SIZES, {}, generator=generator)
    with torch.no_grad():
        supernet.head_bias.add_(torch.randn(5, generator=generator))
    return supernet


def some_archs(space: Space[ArchT], count: int = 8, seed: int = 0) -> list[ArchT]:
    generator = Random(seed)
    return [space.smallest(), space.largest(), *(space.sample(generator) for _ in range(count))]


def some_images(count: int = 3, seed: int = 0, size: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=Generator().manual_seed(seed))
