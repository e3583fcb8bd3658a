"""What was found of architectures one by one, kept in a file so that nothing is found twice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from nas.exits import Stopped
from nas.files import append_record, read_records
from nas.records import STRICT, checked, from_json, to_json
from nas.tracking import Bar
from search_spaces.space import Arch, Space

FoundT = TypeVar("FoundT")


@dataclass(frozen=True)
class Line:
    """A line of the file."""

    __pydantic_config__ = STRICT

    conditions: dict[str, object]
    arch: Arch
    found: dict[str, object]


class Findings(Generic[FoundT]):
    """Values of one kind, by architecture, that hold under the same conditions.

    Lines of other conditions stay in the file. Raises ValueError for a line that is no such value.
    """

    def __init__(
        self,
        path: Path,
        conditions: Mapping[str, object],
        kind: type[FoundT],
        space: Space[Arch],
    ) -> None:
        self.path = path
        self.conditions = dict(conditions)
        self.known: dict[Arch, FoundT] = {}
        for number, record in enumerate(read_records(path), 1):
            if record.get("conditions") == self.conditions:
                where = f"{path} line {number}"
                line = from_json(Line, record, space, where)
                self.known[line.arch] = checked(kind, line.found, where)

    def add(self, arch: Arch, found: FoundT) -> None:
        append_record(self.path, to_json(Line(self.conditions, arch, to_json(found))))
        self.known[arch] = found

    def complete(
        self,
        archs: Sequence[Arch],
        find: Callable[[Arch], FoundT],
        bar: Bar,
        stop: Sequence[int],
    ) -> tuple[FoundT, ...]:
        """Those of `archs`; what is not known is found and added.

        Raises Stopped between two architectures as soon as `stop` has a signal.
        """
        for arch in archs:
            if arch not in self.known:
                if stop:
                    raise Stopped(stop[0])
                self.add(arch, find(arch))
            bar.advance()
        return tuple(self.known[arch] for arch in archs)
