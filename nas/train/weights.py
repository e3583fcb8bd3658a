"""The supernet of a run: made from its configuration, or with the weights that training saved."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.config.config import Config
from nas.train.checkpoint import load_checkpoint
from search_spaces.cell import CellArch, CellSpace
from search_spaces.vit import ViTArch
from supernet.families.cell import CellNetwork, CellSizes, CellSupernet
from supernet.families.vit import FixedSizes, ViTSupernet, build
from supernet.supernet import Supernet


def make_supernet(config: Config) -> Supernet:
    """Initial weights, a function of the seed alone, on the CPU."""
    generator = torch.Generator().manual_seed(config.seed)
    if isinstance(config.space, CellSpace):
        return CellSupernet(config.space, cell_sizes(config), generator=generator)
    return ViTSupernet(config.space, vit_sizes(config), config.source, generator=generator)


def cell_sizes(config: Config) -> CellSizes:
    return CellSizes(
        in_chans=config.data.in_chans,
        num_classes=config.data.num_classes,
        channels=config.space.channels,
        num_cells=config.space.num_cells,
    )


def vit_sizes(config: Config) -> FixedSizes:
    data = config.data
    return FixedSizes(
        img_size=data.img_size,
        patch_size=data.patch_size,
        in_chans=data.in_chans,
        num_classes=data.num_classes,
        head_dim=config.space.head_dim,
    )


def build_plain(arch: Mapping[str, Any], model: Mapping[str, Any]) -> nn.Module:
    """The untrained plain model of an architecture's record and a supernet's fixed sizes.

    Raises KeyError or TypeError for records of no family.
    """
    if "operations" in arch:
        return CellNetwork(CellArch(tuple(arch["operations"])), CellSizes(**model))
    values: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in arch.items()}
    return build(ViTArch(**values), FixedSizes(**model))


def load_supernet(config: Config, run: Path, warn: Callable[[str], None]) -> tuple[Supernet, int]:
    """The averaged weights of the last checkpoint, on the CPU, and the step that it was made at.

    Raises ValueError if nothing was trained.
    """
    state = load_checkpoint(run, torch.device("cpu"), warn)
    if state is None:
        raise ValueError(f"run must hold a checkpoint; nas train run={run} makes one, got none")
    if not state["finished"]:
        warn(f"training has stopped at step {state['step']} and is not finished")
    supernet = make_supernet(config)
    supernet.load_state_dict(state["ema"])
    return supernet.eval(), int(state["step"])
