"""Checkpoints: the last one and the one before, each written aside and renamed."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nas.files import atomic_path

LAST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


class PickledCode(ValueError):
    """A file that would run code when read."""


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Writes `state`; the checkpoint that was the last one becomes the previous one.

    Raises OSError, on a full disk say; the older checkpoints then stay as they were.
    """
    last = run / LAST
    with atomic_path(last) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # PyTorch's zip writer hides the operating system's error
            raise OSError(f"cannot write {last}, the disk may be full: {error}") from error
        if last.exists():
            last.replace(run / PREVIOUS)


def load_checkpoint(
    run: Path, device: torch.device, warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """The last checkpoint, or the one before where that is damaged; None if there is neither.

    Raises ValueError if there are files and none can be read, or if one holds pickled code.
    """
    paths = [path for path in (run / LAST, run / PREVIOUS) if path.exists()]
    damaged = []
    for path in paths:
        try:
            state = read(path, device)
        except PickledCode:
            raise
        except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, KeyError) as error:
            warn(f"{path} is damaged and is passed over: {str(error).splitlines()[0]}")
            damaged.append(path.name)
        else:
            return state
    if damaged:
        raise ValueError(f"{run} must have a whole checkpoint, got damaged {', '.join(damaged)}")
    return None


def read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "WeightsUnpickler error" in str(error):
            raise PickledCode(f"{path} must hold tensors only; it holds code, refused") from error
        raise
    if not isinstance(state, dict):
        raise RuntimeError(f"it holds a {type(state).__name__}")
    return state
