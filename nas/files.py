"""Files that a reader never sees half of: written aside and renamed, or appended line by line."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
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
    append_records(path, [record])


def append_records(
    path: Path, records: Sequence[Mapping[str, object]], *, durable: bool = True
) -> None:
    """Adds lines as `append_record` does; `durable` ones are waited for until they are on disk."""
    lines = b"".join(json.dumps(dict(r), allow_nan=False).encode() + b"\n" for r in records)
    # Unbuffered: after a failed write, closing a buffered file would write the rest once more.
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = whole_lines_end(file.fileno())
        file.truncate(end)
        try:
            while lines:
                lines = lines[file.write(lines) :]
            if durable:
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
    return RecordReader(path).new()


class RecordReader:
    """Reads a file of records that grows, each record once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = self._num_lines = 0

    def new(self) -> list[dict[str, Any]]:
        """The records since the last call; a torn last line waits until it is whole."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        end = content.rfind(b"\n") + 1
        records = []
        for line in content[:end].split(b"\n")[:-1]:
            self._num_lines += 1
            records.append(self._parse(line))
        self._offset += end
        return records

    def _parse(self, line: bytes) -> dict[str, Any]:
        where = f"{self.path} line {self._num_lines}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} must be a JSON record: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where} must be a JSON record, got {record!r}")
        return record


@contextmanager
def locked(path: Path, *, blocking: bool, shared: bool = False) -> Iterator[bool]:
    """Holds an exclusive lock on a file, made if absent; yields whether it was got."""
    descriptor = open_lock(path)
    try:
        try:
            fcntl.flock(
                descriptor,
                (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if blocking else fcntl.LOCK_NB),
            )
            got = True
        except BlockingIOError:
            got = False
        yield got
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> int:
    """A file to lock, which may be another user's where they share a folder for temporary files."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
