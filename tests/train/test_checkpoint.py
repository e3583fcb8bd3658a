import io
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from ctypes import c_int
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from nas.train.checkpoint import LAST, PREVIOUS, load_checkpoint, save_checkpoint
from tests.helpers.disks import disk_of

CPU = torch.device("cpu")
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["nas.train.checkpoint"])  # imports torch once for all children


def numbered(step: int, size: int = 20_011) -> dict[str, Any]:
    return {"step": step, "weight": torch.full((size,), float(step))}


def load(run: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The checkpoint, found to be all of one step, and the warnings."""
    warnings: list[str] = []
    state = load_checkpoint(run, CPU, warnings.append)
    if state is not None:
        assert state["weight"].eq(state["step"]).all()
    return state, warnings


def step_of(run: Path) -> int:
    state, _ = load(run)
    assert state is not None
    return int(state["step"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the checkpoints of steps 1 and 2."""
    save_checkpoint(tmp_path, numbered(1))
    save_checkpoint(tmp_path, numbered(2))
    return tmp_path


class MakesFolder:
    """Unpickling it runs code, which is seen by the folder it makes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


class TrainingParts:
    """The kinds of state that training has."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.model = nn.Linear(3, 2, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.normal_(generator=self.generator)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)

    def step(self) -> list[float]:
        images = torch.randn(5, 3, generator=self.generator) * self.random.random()
        self.optimizer.zero_grad()
        loss = self.model(images).square().mean()
        loss.backward()
        self.optimizer.step()
        return [loss.item(), *torch.cat([p.flatten() for p in self.model.parameters()]).tolist()]

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": self.random.getstate(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.random.setstate(state["random"])
        self.generator.set_state(state["generator"])


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    parts, others = TrainingParts(0), TrainingParts(1)
    parts.step()
    save_checkpoint(tmp_path, parts.state_dict())
    state = load_checkpoint(tmp_path, CPU, pytest.fail)
    assert state is not None
    others.load_state_dict(state)
    assert [others.step() for _ in range(3)] == [parts.step() for _ in range(3)]


def test_no_checkpoint_is_none_and_no_warning(tmp_path: Path) -> None:
    assert load(tmp_path) == (None, [])


def test_the_last_checkpoint_is_read_and_the_one_before_is_kept(run: Path) -> None:
    assert step_of(run) == 2
    (run / LAST).unlink()
    assert step_of(run) == 1
    assert sorted(path.name for path in run.iterdir()) == [PREVIOUS]


def test_a_missing_last_checkpoint_is_told_and_the_one_before_is_read(run: Path) -> None:
    (run / LAST).unlink()
    state, warnings = load(run)
    assert state is not None
    assert warnings == [f"{run / LAST} is missing, {PREVIOUS} is read in its place"]


@pytest.mark.parametrize("fraction", [0.0, 1e-4, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_checkpoint_is_told_and_the_one_before_is_read(run: Path, fraction: float) -> None:
    content = (run / LAST).read_bytes()
    (run / LAST).write_bytes(content[: int(fraction * len(content))])
    state, (warning,) = load(run)
    assert state is not None
    assert state["step"] == 1
    assert warning.startswith(f"{run / LAST} is damaged")


def damage(path: Path, *, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def test_one_wrong_bit_of_a_weight_is_found(run: Path) -> None:
    weights = numbered(2)["weight"].numpy().tobytes()
    begin = (run / LAST).read_bytes().index(weights)
    damage(run / LAST, byte=begin + 4321)
    state, (warning,) = load(run)
    assert state is not None
    assert state["step"] == 1
    assert "checksum" in warning


@pytest.mark.parametrize("content", [bytes(5000), b"not a checkpoint\n", Random(0).randbytes(5000)])
def test_a_file_of_something_else_is_damaged(run: Path, content: bytes) -> None:
    (run / LAST).write_bytes(content)
    assert step_of(run) == 1


def test_an_error_names_both_files_if_neither_can_be_read(run: Path) -> None:
    (run / LAST).write_bytes(b"")
    (run / PREVIOUS).write_bytes((run / PREVIOUS).read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint\.pt damaged.*checkpoint\.previous\.pt dam"):
        load(run)


def test_an_error_names_the_damaged_file_if_there_is_no_other(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, numbered(1))
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt damaged"):
        load(tmp_path)


def saved(payload: object, *, as_zip: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": payload}, file, _use_new_zipfile_serialization=as_zip)
    return file.getvalue()


FORMATS: dict[str, Callable[[object], bytes]] = {
    "zip": lambda payload: saved(payload, as_zip=True),
    "legacy": lambda payload: saved(payload, as_zip=False),
    **{
        f"pickle {protocol}": partial(pickle.dumps, protocol=protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", [LAST, PREVIOUS])
def test_pickled_code_is_refused_and_not_run(run: Path, name: str, form: str) -> None:
    if name == PREVIOUS:
        (run / LAST).unlink()
    (run / name).write_bytes(FORMATS[form](MakesFolder(run / "made")))
    with pytest.raises(ValueError, match=rf"{name} must hold .* it holds pickled code"):
        load(run)
    assert not (run / "made").exists()


def test_a_device_without_memory_is_not_called_a_damaged_file(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(torch.OutOfMemoryError):
        load(run)


@pytest.mark.parametrize("num_bytes", [10, 3_000, 50_000, -1])
def test_a_full_disk_is_told_and_leaves_the_older_checkpoints(run: Path, num_bytes: int) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    size = num_bytes if num_bytes > 0 else len(before[LAST]) + num_bytes
    with disk_of(size), pytest.raises(OSError, match=r"not saved.*File too large") as caught:
        save_checkpoint(run, numbered(3))
    assert caught.value.filename == str(run / LAST)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    save_checkpoint(run, numbered(4))
    assert step_of(run) == 4


def test_a_disk_found_full_only_when_flushing_leaves_the_older_checkpoints(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(run, numbered(3))
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_an_error_of_the_device_while_saving_is_not_called_a_full_disk(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("device error")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="device error"):
        save_checkpoint(run, numbered(3))
    assert step_of(run) == 2


def save_forever(run: Path, finished: c_int) -> None:
    """`finished` is the last step whose checkpoint was saved."""
    torch.set_num_threads(1)
    while True:
        save_checkpoint(run, numbered(finished.value + 1, size=1_000_000))
        finished.value += 1


def test_a_killed_writer_leaves_the_last_checkpoint_it_finished(tmp_path: Path) -> None:
    generator = Random(0)
    finished = PROCESSES.RawValue(c_int)
    for _ in range(5):
        begin = finished.value
        process = PROCESSES.Process(target=save_forever, args=(tmp_path, finished))
        process.start()
        try:
            while finished.value < begin + 2:
                assert process.is_alive()
                load(tmp_path)  # a reader never meets a half-written checkpoint
            time.sleep(generator.uniform(0, 0.05))
        finally:
            process.kill()
            process.join()
        assert process.exitcode == -signal.SIGKILL
        assert step_of(tmp_path) - finished.value in (0, 1)
        finished.value = step_of(tmp_path)
    save_checkpoint(tmp_path, numbered(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREVIOUS, LAST]
