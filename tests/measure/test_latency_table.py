import dataclasses
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from nas.files import append_record
from nas.hardware.device import digest
from nas.hardware.timing import interval_rank
from nas.measure.bench import Session
from nas.measure.latency_table import LatencyTable, cards_in
from nas.records import DeviceCard, Measurement, checked
from search_spaces.cell import CellArch, CellSpace
from search_spaces.space import Arch, Space
from supernet.families.cell import CellSizes
from tests.helpers.devices import CARD
from tests.helpers.runs import Record
from tests.helpers.spaces import some_archs

SPACE = cast(Space[Arch], CellSpace())
ARCH, OTHER, THIRD = some_archs(SPACE, count=1)
SIZES = CellSizes(in_chans=2, num_classes=3, channels=4, num_cells=1)


def session(ratio: float, reference_ms: float = 2.0, **changes: float) -> Session:
    """Eleven pairs whose ratios spread by 5 % to both sides."""
    factors = [0.95 + 0.01 * number for number in range(11)]
    values = {
        "model_ms": tuple(ratio * factor * reference_ms for factor in factors),
        "reference_ms": (reference_ms,) * 11,
        "num_warmup": 2,
        "num_interrupted": 1,
        "num_throttled": 3,
        "memory_mib": 4.0,
        "resident_mib": 5.0,
        "energy_mj": None,
        "flops": 1000,
    }
    return Session(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "latency.jsonl"


def open_table(path: Path, card: DeviceCard = CARD) -> LatencyTable:
    return LatencyTable(path, card, SPACE, SIZES)


def test_what_was_put_in_is_found_by_any_process(path: Path) -> None:
    table, other = open_table(path), open_table(path)
    assert other.get(ARCH) is None
    put = table.put(ARCH, session(1.5))
    for reader in (table, other, open_table(path)):
        assert reader.get(ARCH) == put
        assert reader.get(OTHER) is None
        assert reader.archs() == [ARCH]


def test_one_session_is_summed_up_by_its_definitions(path: Path) -> None:
    found = open_table(path).put(ARCH, session(1.5))
    rank = interval_rank(11)
    assert found.ratio == pytest.approx(1.5)
    assert found.ratio_low == pytest.approx(1.5 * (0.95 + 0.01 * (rank - 1)))
    assert found.ratio_high == pytest.approx(1.5 * (1.05 - 0.01 * (rank - 1)))
    assert (found.num_passes, found.num_sessions) == (11, 1)
    assert (found.num_interrupted, found.num_throttled) == (1, 3)
    assert found.half_width == pytest.approx(found.ratio_high / found.ratio - 1)


def test_more_sessions_are_pooled_and_their_interval_holds_the_median_of_each(path: Path) -> None:
    table = open_table(path)
    for ratio in (1.5, 1.5, 1.8):
        found = table.put(ARCH, session(ratio))
    ratios = [r * (0.95 + 0.01 * n) for r in (1.5, 1.5, 1.8) for n in range(11)]
    assert found.ratio == pytest.approx(statistics.median(ratios))
    assert found.ratio_low <= 1.5
    assert found.ratio_high == pytest.approx(1.8)
    assert (found.num_passes, found.num_sessions, found.num_throttled) == (33, 3, 9)
    assert open_table(path).get(ARCH) == found


def test_more_passes_that_agree_make_the_interval_narrower(path: Path) -> None:
    table = open_table(path)
    first = table.put(ARCH, session(1.5))
    for _ in range(5):
        last = table.put(ARCH, session(1.5))
    assert last.half_width < first.half_width


def test_milliseconds_are_ratios_times_the_references_median_over_the_whole_study(
    path: Path,
) -> None:
    table = open_table(path)
    assert table.drift() == 0
    first = table.put(ARCH, session(1.5, reference_ms=2.0))
    assert first.latency_ms == pytest.approx(1.5 * 2)
    # The machine becomes slower, and slower still.
    table.put(OTHER, session(1.0, reference_ms=3.0))
    last = table.put(THIRD, session(0.5, reference_ms=10.0))
    assert last.latency_ms == pytest.approx(0.5 * 3)
    assert last.median_ms == pytest.approx(0.5 * 10)
    again = table.get(ARCH)
    assert again is not None
    assert again.latency_ms == pytest.approx(1.5 * 3)
    assert table.drift() == pytest.approx((10 - 2) / 3)


def test_a_session_alone_is_on_the_tables_scale_and_not_put_in(path: Path) -> None:
    table = open_table(path)
    known = table.put(ARCH, session(1.5, reference_ms=2.0))
    alone = table.alone(session(3.0, reference_ms=50.0))
    assert alone.ratio == pytest.approx(3)
    assert alone.latency_ms == pytest.approx(3 * 2)
    assert table.get(ARCH) == known
    assert len(path.read_text().splitlines()) == 1


OTHER_CARDS = [
    dataclasses.replace(CARD, device="cuda:0"),
    dataclasses.replace(CARD, threads=99),
    dataclasses.replace(CARD, inputs=((3, 2, 5, 6),)),
]


@pytest.mark.parametrize("card", OTHER_CARDS)
def test_a_card_that_differs_in_any_field_finds_nothing(card: DeviceCard, path: Path) -> None:
    known = open_table(path).put(ARCH, session(1.5))
    other = open_table(path, card)
    assert other.get(ARCH) is None
    assert other.reference_ms == 0
    other.put(ARCH, session(9.0, reference_ms=70.0))
    assert open_table(path).get(ARCH) == known
    assert cards_in(path) == [CARD, card]


def test_a_table_refuses_what_was_timed_beside_another_reference(path: Path) -> None:
    open_table(path).put(ARCH, session(1.5))
    other = LatencyTable(path, CARD, SPACE, dataclasses.replace(SIZES, channels=8))
    with pytest.raises(ValueError, match=r"line 1 must be measured beside the largest subnet here"):
        other.get(ARCH)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": {"operations": ["none"]}}, "line 2: .*operations"),
        ({"arch": "none"}, "line 2: arch must be a JSON object, got 'none'"),
        ({"model_ms": "fast"}, "line 2: model_ms: .* got 'fast'"),
        ({"model_ms": [1.0, 2.0]}, "line 2: .*pairs of positive milliseconds"),
        ({"flops": None}, "line 2: flops"),
        ({"reference": 3}, "line 2 must be measured beside the largest subnet here"),
    ],
)
def test_a_damaged_line_is_named(path: Path, changes: Record, message: str) -> None:
    open_table(path).put(ARCH, session(1.5))
    append_record(path, {**json.loads(path.read_text()), **changes})
    with pytest.raises(ValueError, match=message):
        open_table(path).get(ARCH)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"card": None}, "line 2 must be a measurement with its device's card"),
        ({"card": {"device": "cpu"}, "digest": "x"}, "line 2: name: Field required"),
        ({"digest": "x"}, "line 2 digest must be that of its card"),
    ],
)
def test_a_line_without_its_card_is_named(path: Path, changes: Record, message: str) -> None:
    open_table(path).put(ARCH, session(1.5))
    append_record(path, {**json.loads(path.read_text()), **changes})
    with pytest.raises(ValueError, match=message):
        cards_in(path)


def test_a_line_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, read = open_table(path), list[object]()
    parse = CellSpace.from_record

    def noted(space: CellSpace, record: Mapping[str, object]) -> CellArch:
        read.append(record)
        return parse(space, record)

    monkeypatch.setattr(CellSpace, "from_record", noted)
    for arch in (ARCH, OTHER, ARCH):
        table.put(arch, session(1.5))
    for _ in range(10):
        assert table.get(ARCH) is not None
    assert len(read) == 3


def test_a_line_says_what_was_measured_where_and_when(path: Path) -> None:
    open_table(path).put(ARCH, session(1.5))
    record = json.loads(path.read_text())
    assert SPACE.from_record(record["arch"]) == ARCH
    assert checked(DeviceCard, record["card"], "card") == CARD
    assert record["digest"] == digest(CARD)
    assert record["time"].endswith("+00:00")
    assert record["measurement"]["ratio"] == pytest.approx(1.5)


def test_the_newest_line_tells_the_scale_of_milliseconds(path: Path) -> None:
    table = open_table(path)
    for reference_ms in (2.0, 3.0, 10.0):
        table.put(ARCH, session(1.5, reference_ms=reference_ms))
    newest = json.loads(path.read_text().splitlines()[-1])["measurement"]
    assert newest["latency_ms"] / newest["ratio"] == pytest.approx(table.reference_ms)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["latency_ms", "ratio", "ratio_low", "memory_mib"])
def test_a_cost_that_is_no_cost_cannot_be_made(key: str, value: float) -> None:
    figures = dict.fromkeys((field.name for field in dataclasses.fields(Measurement)), 1)
    with pytest.raises(ValueError, match=f"measured {key} must be positive, got"):
        Measurement(**{**figures, key: value})  # type: ignore[arg-type]
