"""Files that a reader never sees half of: written aside and renamed, or appended line by line."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replaces a file's content as a whole; on any failure the old content stays."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A free name beside `path` to write to, which becomes `path` if the block ends well."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's names, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_record(path: Path, record: Mapping[str, object]) -> None:
    """Adds one line of JSON; a torn last line, left by a killed writer, is cut off first.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    line = json.dumps(dict(record), allow_nan=False).encode() + b"\n"
    # Unbuffered: after a failed write, closing a buffered file would write the rest once more.
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = whole_lines_end(file.fileno())
        file.truncate(end)
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)
            raise
    if end == 0:  # the file may be new
        sync(path.parent)


def whole_lines_end(descriptor: int) -> int:
    """The offset after the last newline, looked for from the end of the file."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 4096)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file, none if it is absent; a torn last line is not a record.

    Raises ValueError that names the line if another one is damaged.
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path} line {number} must be a JSON record: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path} line {number} must be a JSON record, got {record!r}")
        records.append(record)
    return records


@contextmanager
def locked(path: Path, *, blocking: bool, shared: bool = False) -> Iterator[bool]:
    """Holds an exclusive lock on a file, made if absent; yields whether it was got."""
    with path.open("a") as file:
        try:
            fcntl.flock(
                file,
                (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if blocking else fcntl.LOCK_NB),
            )
            got = True
        except BlockingIOError:
            got = False
        yield got
