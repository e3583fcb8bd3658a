import dataclasses
import json
import statistics
from pathlib import Path

import pytest

from nas.hardware.device import DeviceCard
from nas.hardware.timing import interval_rank
from nas.measure.bench import Session
from nas.measure.latency_table import LatencyTable, Measurement, cards_in
from tests.helpers.devices import CARD

ARCH = {"embed_dim": 7, "num_heads": (1, 2)}
REFERENCE = {"arch": {"embed_dim": 9}, "model": {"img_size": 5}}


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
    return LatencyTable(path, card, REFERENCE)


def test_what_was_put_in_is_found_by_any_process(path: Path) -> None:
    table, other = open_table(path), open_table(path)
    assert other.get(ARCH) is None
    put = table.put(ARCH, session(1.5))
    same = {"num_heads": [1, 2], "embed_dim": 7}  # as JSON gives it back
    for reader in (table, other, open_table(path)):
        assert reader.get(same) == put
        assert reader.get({**ARCH, "embed_dim": 8}) is None
        assert reader.archs() == [same]


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
    table.put({"embed_dim": 8}, session(1.0, reference_ms=3.0))
    last = table.put({"embed_dim": 9}, session(0.5, reference_ms=10.0))
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


def other_cards() -> list[DeviceCard]:
    changes = {
        field.name: {"str": "other", "int": 99}[str(field.type.__name__)]  # type: ignore[union-attr]
        for field in dataclasses.fields(DeviceCard)
    }
    return [dataclasses.replace(CARD, **{name: value}) for name, value in changes.items()]  # type: ignore[arg-type]


@pytest.mark.parametrize("card", other_cards())
def test_a_card_that_differs_in_any_field_finds_nothing(card: DeviceCard, path: Path) -> None:
    known = open_table(path).put(ARCH, session(1.5))
    other = open_table(path, card)
    assert other.get(ARCH) is None
    assert other.reference_ms == 0
    other.put(ARCH, session(9.0, reference_ms=70.0))
    assert open_table(path).get(ARCH) == known
    assert {c.digest() for c in cards_in(path)} == {CARD.digest(), card.digest()}


def test_a_table_refuses_what_was_timed_beside_another_reference(path: Path) -> None:
    open_table(path).put(ARCH, session(1.5))
    other = LatencyTable(path, CARD, {**REFERENCE, "arch": {"embed_dim": 10}})
    with pytest.raises(ValueError, match=r"made of measurements beside the largest subnet here"):
        other.get(ARCH)


def test_a_line_says_what_was_measured_where_and_when(path: Path) -> None:
    open_table(path).put(ARCH, session(1.5))
    record = json.loads(path.read_text())
    assert record["arch"] == {"embed_dim": 7, "num_heads": [1, 2]}
    assert record["card"] == CARD.record()
    assert record["time"].endswith("+00:00")
    assert record["measurement"]["ratio"] == pytest.approx(1.5)


def test_the_newest_line_tells_the_scale_of_milliseconds(path: Path) -> None:
    table = open_table(path)
    for reference_ms in (2.0, 3.0, 10.0):
        table.put(ARCH, session(1.5, reference_ms=reference_ms))
    newest = json.loads(path.read_text().splitlines()[-1])["measurement"]
    assert newest["latency_ms"] / newest["ratio"] == pytest.approx(table.reference_ms)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["latency_ms", "ratio", "memory_mib"])
def test_a_cost_that_is_no_cost_cannot_be_made(key: str, value: float) -> None:
    figures = dict.fromkeys((field.name for field in dataclasses.fields(Measurement)), 1)
    with pytest.raises(ValueError, match=f"measured {key} must be positive, got"):
        Measurement(**{**figures, key: value})  # type: ignore[arg-type]
