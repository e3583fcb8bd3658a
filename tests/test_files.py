import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_int
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random

import pytest

from nas.files import append_record, atomic_path, locked, read_records, write_atomic
from tests.helpers.disks import disk_of

PROCESSES = multiprocessing.get_context("forkserver")
LONG = "x" * 1_000_000  # a kill can only tear a write of many pages


@contextmanager
def running(target: Callable[..., None], *arguments: object) -> Iterator[ForkServerProcess]:
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the other process did not get there"
        time.sleep(0.001)


def test_text_and_bytes_replace_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old and long")
    write_atomic(path, "n\u00e9w")
    assert path.read_bytes() == "n\u00e9w".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"


def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    with disk_of(10_000), pytest.raises(OSError, match="File too large"):
        write_atomic(path, "new" * 10_000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_failed_sync_or_rename_leaves_the_old_content_and_nothing_else(
    owner: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(OSError, match="no"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_block_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_atomic(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_lies_beside_with_the_same_suffix(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".onnx")
        assert not path.exists()
    assert path.read_text() == "new"


def test_a_file_gets_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_the_content_is_on_the_disk_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events = tmp_path / "a", []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name[:2])
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> Path:
        events.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_atomic(path, "new")
    assert events == [".a", "rename", tmp_path.name[:2]]


def test_records_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert read_records(path) == []
    records = [
        {"step": 1, "name": "a\nb \u00e9", "none": None},
        {"step": 2, "values": [0.1, 1e-30]},
    ]
    for record in records:
        append_record(path, record)
    assert read_records(path) == records


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_does_not_have_is_refused_and_nothing_is_written(
    value: float, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    append_record(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_record(path, {"loss": [value]})
    assert path.read_text() == '{"loss": 1.0}\n'


@pytest.mark.parametrize("torn", [b"{", b'{"b": 2}', b"\x00" * 5000, b'{"b": "\xc3', b"y" * 9000])
@pytest.mark.parametrize("whole", [[], [{"a": 1}], [{"a": "z" * 5000}, {"a": 2}]])
def test_a_torn_last_line_is_ignored_and_cut_off_by_the_next_writer(
    torn: bytes, whole: list[dict[str, object]], tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    lines = "".join(json.dumps(record) + "\n" for record in whole).encode()
    path.write_bytes(lines + torn)
    assert read_records(path) == whole
    append_record(path, {"c": 3})
    assert path.read_bytes() == lines + b'{"c": 3}\n'


@pytest.mark.parametrize("damaged", ["{", "", "3", "[1]", '{"a": 1}{"b": 2}'])
def test_a_damaged_line_is_named_with_its_file(damaged: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(f'{{"a": 1}}\n{damaged}\n{{"a": 3}}\n')
    with pytest.raises(ValueError, match=r"r\.jsonl line 2 must be a JSON record"):
        read_records(path)


@pytest.mark.parametrize("length", [10_100, 15_000, 25_000])
def test_an_append_to_a_full_disk_fails_as_a_whole(length: int, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append_record(path, {"a": 1})
    with disk_of(10_000), pytest.raises(OSError, match="File too large"):
        append_record(path, {"b": "x" * length})
    assert path.read_text() == '{"a": 1}\n'


def append_numbers(path: Path, name: str, count: int, text: str, finished: c_int) -> None:
    """`finished` counts the calls that returned."""
    for number in range(count):
        append_record(path, {"name": name, "number": number, "text": text})
        finished.value += 1


def test_a_killed_writer_leaves_whole_records_and_every_one_it_finished(tmp_path: Path) -> None:
    generator = Random(0)
    for kill in range(6):
        path, finished = tmp_path / f"{kill}.jsonl", PROCESSES.RawValue(c_int)
        with running(append_numbers, path, "killed", 10_000, LONG, finished) as process:
            wait_for(path.exists)
            time.sleep(generator.uniform(0, 0.05))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
        append_record(path, {"name": "next"})
        *records, last = read_records(path)
        assert last == {"name": "next"}
        assert [record["number"] for record in records] == list(range(len(records)))
        assert all(record["text"] == LONG for record in records)
        assert len(records) - finished.value in (0, 1)


def test_two_processes_that_append_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with (
        running(append_numbers, path, "a", 150, "", PROCESSES.RawValue(c_int)) as one,
        running(append_numbers, path, "b", 150, "", PROCESSES.RawValue(c_int)) as other,
    ):
        while one.is_alive() or other.is_alive():
            read_records(path)  # raises if a reader ever sees a damaged line
        assert (one.exitcode, other.exitcode) == (0, 0)
    records = read_records(path)
    for name in "ab":
        numbers = [record["number"] for record in records if record["name"] == name]
        assert numbers == list(range(150))


def hold(path: Path) -> None:
    with locked(path, blocking=True):
        (path.parent / "held").touch()
        time.sleep(600)


def test_a_lock_is_held_by_one_process_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with running(hold, path) as process:
        wait_for((tmp_path / "held").exists)
        with locked(path, blocking=False) as got:
            assert not got
        process.kill()
        with locked(path, blocking=True) as got:
            assert got


def test_a_lock_is_shared_by_those_who_share_and_by_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with (
        locked(path, blocking=False, shared=True) as one,
        locked(path, blocking=False, shared=True) as other,
        locked(path, blocking=False) as alone,
    ):
        assert (one, other, alone) == (True, True, False)
    with locked(path, blocking=False), locked(path, blocking=False, shared=True) as got:
        assert not got


def test_a_lock_is_free_after_its_block_even_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"

    def fail_while_holding() -> None:
        with locked(path, blocking=False) as got, locked(path, blocking=False) as again:
            assert (got, again) == (True, False)
            raise KeyError

    with pytest.raises(KeyError):
        fail_while_holding()
    with locked(path, blocking=False) as got:
        assert got
