"""What was measured on a device, kept as lines of JSON and read under the device's card alone."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas.checks import check
from nas.files import RecordReader, append_record
from nas.hardware.device import DeviceCard, canonical_json
from nas.hardware.timing import summarise
from nas.measure.bench import Session

DIGITS = 6  # of stored milliseconds: nanoseconds, which is what the clock has


@dataclass(frozen=True)
class Measurement:
    """What one architecture costs on one device, per batch of the device's card."""

    latency_ms: float  # ratio times the reference milliseconds of the table
    ratio: float  # to the reference, the largest subnet; median over all pairs of passes
    ratio_low: float  # 95 % interval of that median
    ratio_high: float
    median_ms: float
    p90_ms: float
    spread: float
    num_passes: int
    num_sessions: int
    num_interrupted: int
    num_throttled: int
    memory_mib: float
    resident_mib: float | None
    energy_mj: float | None
    flops: int  # of one image

    def __post_init__(self) -> None:
        # A cost of 0 would meet every budget.
        for key in ("latency_ms", "ratio", "memory_mib"):
            value = getattr(self, key)
            check(f"measured {key}", math.isfinite(value) and value > 0, "positive", value)

    @property
    def half_width(self) -> float:
        """How far the interval reaches from the ratio, as a fraction of it."""
        return max(self.ratio_high - self.ratio, self.ratio - self.ratio_low) / self.ratio


def pooled(sessions: list[Session], reference_ms: float) -> Measurement:
    """All sessions of one architecture together.

    Sessions may differ by more than chance within one explains, by where in memory a model came to
    lie, say: the interval therefore holds the median of each.
    """
    model_ms = [time for session in sessions for time in session.model_ms]
    together = summarise(model_ms, [t for session in sessions for t in session.reference_ms])
    ratios = [session.latency().ratio for session in sessions]
    return Measurement(
        latency_ms=together.ratio * reference_ms,
        ratio=together.ratio,
        ratio_low=min(together.ratio_low, *ratios) if len(ratios) > 1 else together.ratio_low,
        ratio_high=max(together.ratio_high, *ratios) if len(ratios) > 1 else together.ratio_high,
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


class LatencyTable:
    """Sessions under one card; lines of other cards are never returned.

    All milliseconds are a ratio times the median, over all sessions, of the reference's median
    milliseconds, so that they share one scale whatever the machine did meanwhile.

    Raises ValueError if the file's sessions were timed beside another reference than `reference`,
    a record that says what model that is.
    """

    def __init__(self, path: Path, card: DeviceCard, reference: Mapping[str, object]) -> None:
        self.path = path
        self.card = card
        self.digest = card.digest()
        self.reference = reference
        self._reader = RecordReader(path)
        self._archs: dict[str, dict[str, object]] = {}
        self._sessions: dict[str, list[Session]] = defaultdict(list)
        self._pooled: dict[str, Measurement] = {}  # milliseconds of a reference that takes one
        self._references_ms: list[float] = []

    def get(self, arch: Mapping[str, object]) -> Measurement | None:
        self._read()
        key = canonical_json(arch)
        if key not in self._sessions:
            return None
        if key not in self._pooled:
            self._pooled[key] = pooled(self._sessions[key], reference_ms=1.0)
        known = self._pooled[key]
        return replace(known, latency_ms=known.ratio * self.reference_ms)

    def put(self, arch: Mapping[str, object], session: Session) -> Measurement:
        figures = {
            key: [round(time, DIGITS) for time in value] if isinstance(value, tuple) else value
            for key, value in asdict(session).items()
        }
        self._read()
        head = {
            "digest": self.digest,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "arch": arch,
        }
        # For who reads the file: what is known with this line, milliseconds on the scale of then.
        sessions = [*self._sessions.get(canonical_json(arch), []), session]
        references_ms = [*self._references_ms, session.latency().reference_ms]
        known = pooled(sessions, statistics.median(references_ms))
        tail = {
            "measurement": asdict(known),
            "reference": self.reference,
            "card": self.card.record(),
        }
        append_record(self.path, {**head, **figures, **tail})
        found = self.get(arch)
        assert found is not None
        return found

    def alone(self, session: Session) -> Measurement:
        """One session by itself, on the table's scale of milliseconds."""
        self._read()
        return pooled([session], self.reference_ms or session.latency().reference_ms)

    def archs(self) -> list[dict[str, object]]:
        """Every architecture that was measured, in the order of its first session."""
        self._read()
        return list(self._archs.values())

    @property
    def reference_ms(self) -> float:
        """0 while there is no session."""
        return statistics.median(self._references_ms or [0.0])

    def drift(self) -> float:
        """By how much the reference's milliseconds ranged over the sessions, as a fraction."""
        self._read()
        if not self._references_ms:
            return 0.0
        return (max(self._references_ms) - min(self._references_ms)) / self.reference_ms

    def _read(self) -> None:
        for record in self._reader.new():
            if record.get("digest") != self.digest:
                continue
            same = canonical_json(record["reference"]) == canonical_json(self.reference)
            rule = f"made of measurements beside the largest subnet here, {dict(self.reference)}"
            check(str(self.path), same, rule, record["reference"])
            key, session = canonical_json(record["arch"]), session_of(record)
            self._archs.setdefault(key, record["arch"])
            self._sessions[key].append(session)
            self._pooled.pop(key, None)
            self._references_ms.append(session.latency().reference_ms)


def session_of(record: Mapping[str, Any]) -> Session:
    values = {field.name: record[field.name] for field in fields(Session)}
    times = {key: tuple(values[key]) for key in ("model_ms", "reference_ms")}
    return Session(**{**values, **times})


def cards_in(path: Path) -> list[DeviceCard]:
    """The devices that a table's lines are of."""
    cards = {}
    for number, record in enumerate(RecordReader(path).new(), 1):
        card = record.get("card")
        known = isinstance(card, dict) and card.keys() == {f.name for f in fields(DeviceCard)}
        check(f"{path} line {number}", known, "a measurement with its device's card", record)
        cards[record["digest"]] = DeviceCard(**record["card"])
    return list(cards.values())
