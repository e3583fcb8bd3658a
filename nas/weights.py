"""The supernet of a run: made from its configuration, or with the weights that training saved."""

from collections.abc import Callable
from pathlib import Path

import torch

from nas.checkpoint import load_checkpoint
from nas.config import Config
from supernet.vit import ViTSupernet


def make_supernet(config: Config) -> ViTSupernet:
    """Initial weights, a function of the seed alone, on the CPU."""
    generator = torch.Generator().manual_seed(config.seed)
    return ViTSupernet(config.space, config.fixed, config.source, generator=generator)


def load_supernet(
    config: Config, run: Path, warn: Callable[[str], None]
) -> tuple[ViTSupernet, int]:
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
