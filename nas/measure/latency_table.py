"""What was measured on a device, kept as lines of JSON and read under the device's card alone."""

import json
from bisect import insort
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

from nas.checks import check
from nas.files import RecordReader, append_record
from nas.hardware.device import digest
from nas.hardware.timing import summarise
from nas.measure.bench import Session
from nas.records import DeviceCard, Measurement, arch_of, checked, to_json
from search_spaces.space import Arch, Space, to_record

DIGITS = 6  # of stored milliseconds: nanoseconds, which is what the clock has
FIGURES = tuple(field.name for field in fields(Session))


class LatencyTable:
    """Sessions under one card; lines of other cards are never returned.

    All milliseconds are a ratio times the median, over all sessions, of the reference's median
    milliseconds, so that they share one scale whatever the machine did meanwhile.

    The reference is the largest architecture of the space, with what is fixed in `sizes`, a
    dataclass. Raises ValueError, which names the line, for a session beside another one and for a
    damaged line.
    """

    def __init__(self, path: Path, card: DeviceCard, space: Space[Arch], sizes: object) -> None:
        self.path, self.card, self.space = path, card, space
        self.digest, self.largest = digest(card), space.largest()
        reference = {"arch": to_record(self.largest), "model": to_json(sizes)}
        self.reference = json.loads(json.dumps(reference))  # as a file gives it back
        self._reader = RecordReader(path)
        self._num_lines = 0
        self._sessions: dict[Arch, list[Session]] = {}
        self._pooled: dict[Arch, Measurement] = {}  # milliseconds of a reference that takes one
        self._references_ms: list[float] = []  # ascending

    def get(self, arch: Arch) -> Measurement | None:
        self._read()
        if arch not in self._sessions:
            return None
        if arch not in self._pooled:
            self._pooled[arch] = pooled(self._sessions[arch], reference_ms=1.0)
        return self._pooled[arch].scaled(self.reference_ms)

    def put(self, arch: Arch, session: Session) -> Measurement:
        self._read()
        # For who reads the file: what is known with this line, milliseconds on the scale of then.
        references_ms = [*self._references_ms]
        insort(references_ms, session.latency().reference_ms)
        known = pooled([*self._sessions.get(arch, []), session], median_of(references_ms))
        figures = {
            key: [round(time, DIGITS) for time in value] if isinstance(value, tuple) else value
            for key, value in asdict(session).items()
        }
        record = {
            "digest": self.digest,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "arch": to_record(arch),
            **figures,
            "measurement": asdict(known),
            "reference": self.reference,
            "card": asdict(self.card),
        }
        append_record(self.path, record)
        found = self.get(arch)
        assert found is not None
        return found

    def alone(self, session: Session) -> Measurement:
        """One session by itself, on the table's scale of milliseconds."""
        self._read()
        return pooled([session], self.reference_ms or session.latency().reference_ms)

    def archs(self) -> list[Arch]:
        """Every architecture that was measured, in the order of its first session."""
        self._read()
        return list(self._sessions)

    @property
    def reference_ms(self) -> float:
        """0 while there is no session."""
        return median_of(self._references_ms or [0.0])

    def drift(self) -> float:
        """By how much the reference's milliseconds ranged over the sessions, as a fraction."""
        self._read()
        if not self._references_ms:
            return 0.0
        return (self._references_ms[-1] - self._references_ms[0]) / self.reference_ms

    def _read(self) -> None:
        for record in self._reader.new():
            self._num_lines += 1
            if record.get("digest") != self.digest:
                continue
            where = f"{self.path} line {self._num_lines}"
            same = record.get("reference") == self.reference
            rule = f"measured beside the largest subnet here, {self.reference}"
            check(where, same, rule, record.get("reference"))
            figures = {key: record[key] for key in FIGURES if key in record}
            session = checked(Session, figures, where)
            arch = read_arch(record.get("arch"), self.space, where)
            self._sessions.setdefault(arch, []).append(session)
            self._pooled.pop(arch, None)
            insort(self._references_ms, session.latency().reference_ms)


def pooled(sessions: Sequence[Session], reference_ms: float) -> Measurement:
    """All sessions of one architecture together.

    Sessions may differ by more than chance within one explains, by where in memory a model came to
    lie, say: the interval therefore holds the median of each.
    """
    model_ms = [time for session in sessions for time in session.model_ms]
    together = summarise(model_ms, [t for session in sessions for t in session.reference_ms])
    ratios = [session.latency().ratio for session in sessions]
    several = len(ratios) > 1
    return Measurement(
        latency_ms=together.ratio * reference_ms,
        ratio=together.ratio,
        ratio_low=min(together.ratio_low, *ratios) if several else together.ratio_low,
        ratio_high=max(together.ratio_high, *ratios) if several else together.ratio_high,
        median_ms=together.median_ms,
        p90_ms=together.p90_ms,
        spread=together.spread,
        num_passes=together.num_passes,
        num_sessions=len(sessions),
        num_interrupted=sum(session.num_interrupted for session in sessions),
        num_throttled=sum(session.num_throttled for session in sessions),
        memory_mib=sessions[-1].memory_mib,
        resident_mib=sessions[-1].resident_mib,
        energy_mj=sessions[-1].energy_mj,
        flops=sessions[-1].flops,
    )


def median_of(ascending: Sequence[float]) -> float:
    middle = len(ascending) // 2
    return (ascending[middle] + ascending[~middle]) / 2


def read_arch(record: object, space: Space[Arch], where: str) -> Arch:
    """Raises ValueError that names the place unless it is the record of an architecture."""
    try:
        return arch_of(record, space)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def cards_in(path: Path) -> list[DeviceCard]:
    """The devices that a table's lines are of."""
    cards: dict[str, DeviceCard] = {}
    for number, record in enumerate(RecordReader(path).new(), 1):
        key, card = str(record.get("digest")), record.get("card")
        where = f"{path} line {number}"
        check(where, isinstance(card, dict), "a measurement with its device's card", record)
        if key not in cards:
            cards[key] = checked(DeviceCard, card, where)
            own = digest(cards[key])
            check(f"{where} digest", key == own, f"that of its card, {own}", key)
    return list(cards.values())
