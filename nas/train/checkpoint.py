"""Checkpoints: the last one and the one before, each written aside and renamed."""

import os
import pickle
import pickletools
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch

from nas.files import atomic_path
from supernet.sampling.paths import State

LAST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
SNAPSHOTS = "snapshots"  # folder of the weights of the last epochs

# What a pickle needs to reach a function; plain numbers, texts and lists do without.
CODE = {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}


class Damaged(Exception):
    """A file that is not whole."""


class PickledCode(ValueError):
    """A file that would run code when read."""


def save_checkpoint(run: Path, state: State) -> None:
    """Writes `state`; the checkpoint that was the last one becomes the previous one.

    Raises OSError, on a full disk say; the older checkpoints then stay as they were. Only one
    process may save to a run folder.
    """
    last = run / LAST
    for leftover in run.glob(f".{last.stem}.*{last.suffix}"):  # of writers that were killed
        leftover.unlink()
    with atomic_path(last) as temporary:
        write(temporary, state, last)
        if last.exists():
            last.replace(run / PREVIOUS)


def save_snapshot(run: Path, weights: State) -> None:
    """Writes weights that no later checkpoint replaces; raises OSError as `save_checkpoint`."""
    path = run / SNAPSHOTS / f"step_{weights['step']}.pt"
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as temporary:
        write(temporary, weights, path)


def write(temporary: Path, state: State, path: Path) -> None:
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())  # may find the disk full, and must before the renames
    except (OSError, RuntimeError) as error:
        cause = disk_error(error)
        if cause is None:
            raise
        reason = f"{path.stem} is not saved, the older ones stay: {cause.strerror}"
        raise OSError(cause.errno, reason, str(path)) from error


def disk_error(error: BaseException | None) -> OSError | None:
    """The operating system's error, which PyTorch's writer may hide behind one of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def load_checkpoint(run: Path, device: torch.device, warn: Callable[[str], None]) -> State | None:
    """The last checkpoint, or the one before where that is damaged; None if there is neither.

    Raises ValueError if there are files and none can be read, or if one holds pickled code.
    """
    problems: dict[str, str] = {}
    for path in (run / LAST, run / PREVIOUS):
        try:
            state = read(path, device)
        except FileNotFoundError:
            problems[path.name] = "missing"
        except Damaged as error:
            problems[path.name] = f"damaged ({error})"
        else:
            for name, problem in problems.items():
                warn(f"{run / name} is {problem}, {path.name} is read in its place")
            return state
    if set(problems.values()) == {"missing"}:
        return None
    found = ", ".join(f"{name} {problem}" for name, problem in problems.items())
    raise ValueError(f"{run} must hold a whole checkpoint, got {found}")


def read(path: Path, device: torch.device) -> State:
    check_whole(path)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise refusal(path) from error
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # the device's fault, not the file's
    except (RuntimeError, ValueError, KeyError) as error:
        raise Damaged(str(error).partition("\n")[0]) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} must hold a dict, got {type(state).__name__}")
    return state


def check_whole(path: Path) -> None:
    """Compares the checksums that torch.save wrote, which torch.load (2.15) does not look at.

    Raises Damaged; and PickledCode for a bare pickle, which older versions of torch.save wrote.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        if is_pickled_code(path):
            raise refusal(path) from error
        raise Damaged(str(error) or type(error).__name__) from error
    if wrong is not None:
        raise Damaged(f"wrong checksum of {wrong}")


def is_pickled_code(path: Path) -> bool:
    """Reads the instructions of a file of pickles, one after the other, without running them."""
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":  # the rest of a zip file, not a pickle
                return False
            file.seek(0)
            while True:  # genops ends with each pickle, and raises where there is no further one
                if any(opcode.name in CODE for opcode, _, _ in pickletools.genops(file)):
                    return True
    except (ValueError, OSError, MemoryError):  # a damaged length can be beyond all memory
        return False


def refusal(path: Path) -> PickledCode:
    return PickledCode(f"{path} must hold tensors and plain values only; it holds pickled code")
