import gc
from collections.abc import Callable, Iterator
from itertools import cycle

import pytest
import torch
from scipy import stats

from benchmarks.alternating import time_alternating
from nas.hardware import timing
from nas.hardware.timing import (
    FEWEST,
    MOST_THROTTLED,
    Effort,
    far_fence,
    interval_rank,
    summarise,
    time_until_precise,
    uninterrupted,
    warm_up,
)
from tests.helpers.clocks import Clock

CPU = torch.device("cpu")
EFFORT = Effort(warmup=2, passes=6, precision=0.02, time_limit_s=10)


def sleeping(clock: Clock, times_ms: Iterator[float]) -> Callable[[], None]:
    """A call that takes one of these times after another."""
    return lambda: clock.sleep(next(times_ms))


def test_pairs_alternate_in_order_after_the_warmup(clock: Clock) -> None:
    calls: list[str] = []

    def first() -> None:
        calls.append("A")
        clock.sleep(len(calls))

    def second() -> None:
        calls.append("B")
        clock.sleep(0.5)

    times = time_alternating(first, second, device=CPU, warmup=2, passes=3)
    assert "".join(calls) == "ABAB" + "AB" + "BA" + "AB"
    assert times == ([5, 8, 9], [0.5, 0.5, 0.5])


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_garbage_collection_rests_while_timing_and_is_restored(enabled: bool, fails: bool) -> None:
    seen: list[bool] = []

    def call() -> None:
        seen.append(gc.isenabled())
        if fails:
            raise RuntimeError("stop")

    try:
        if not enabled:
            gc.disable()
        if fails:
            with pytest.raises(RuntimeError, match="stop"):
                time_alternating(call, call, device=CPU, warmup=0, passes=1)
        else:
            time_alternating(call, call, device=CPU, warmup=0, passes=1)
        assert gc.isenabled() is enabled
        assert seen
        assert not any(seen)
    finally:
        gc.enable()


@pytest.mark.parametrize("num_values", [6, 7, 17, 50, 101, 3000])
def test_interval_is_the_tightest_that_holds_the_median_at_95_percent(num_values: int) -> None:
    rank = interval_rank(num_values)
    miss = stats.binom(num_values, 0.5).cdf  # P(fewer than k) on each side
    assert 2 * miss(rank - 1) <= 0.05 < 2 * miss(rank)


def test_summary_agrees_with_its_definitions() -> None:
    model_ms = [float(value) for value in torch.randperm(21, generator=seeded(0)) + 1]
    latency = summarise(model_ms, [2.0] * 21)
    ratios = torch.tensor(model_ms).div(2).sort().values
    quartiles = torch.quantile(ratios, torch.tensor([0.25, 0.75]))
    assert latency.ratio == 5.5
    assert (latency.ratio_low, latency.ratio_high) == (ratios[5].item(), ratios[15].item())
    assert latency.p90_ms == pytest.approx(torch.tensor(model_ms).quantile(0.9).item())
    assert latency.spread == pytest.approx(quartiles.diff().item() / 5.5)
    assert (latency.median_ms, latency.reference_ms, latency.num_passes) == (11, 2, 21)


def test_drift_that_both_of_a_pair_share_leaves_the_ratio_alone() -> None:
    drift = [1.0, 1.3, 1.1, 4.0, 2.0, 1.7, 1.2]
    latency = summarise([3 * factor for factor in drift], [2 * factor for factor in drift])
    assert latency.ratio_low == pytest.approx(1.5)
    assert latency.ratio_high == pytest.approx(1.5)
    assert latency.spread == pytest.approx(0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_steady_calls_are_timed_no_longer_than_asked(clock: Clock) -> None:
    calls = [sleeping(clock, cycle([3.0])), sleeping(clock, cycle([2.0]))]
    rounds = time_until_precise(calls, EFFORT, device=CPU)
    assert rounds.times_ms == [(3.0, 2.0)] * EFFORT.passes
    # The second block is no faster than the first.
    assert (rounds.num_warmup, rounds.num_interrupted, rounds.num_throttled) == (4, 0, 0)
    assert rounds.of(0) == [3.0] * EFFORT.passes


def test_a_timed_pass_follows_one_of_its_own_whatever_took_its_turn_before(clock: Clock) -> None:
    before: list[str] = []

    def model(name: str, alone_ms: float) -> Callable[[], None]:
        def call() -> None:  # twice as slow after another model
            clock.sleep(alone_ms if before[-1:] == [name] else 2 * alone_ms)
            before.append(name)

        return call

    models = {"A": model("A", 3), "B": model("B", 5), "R": model("R", 2)}
    pair = time_until_precise([models["A"], models["R"]], EFFORT, device=CPU)
    turns = time_until_precise([*models.values()], EFFORT, device=CPU)
    assert set(pair.times_ms) == {(3.0, 2.0)}
    assert set(turns.times_ms) == {(3.0, 5.0, 2.0)}


def test_timing_goes_on_until_every_ratio_is_known_to_the_precision(clock: Clock) -> None:
    generator = seeded(0)

    def noisy(time_ms: float) -> Callable[[], None]:
        return lambda: clock.sleep(time_ms * (1 + 0.1 * float(torch.rand(1, generator=generator))))

    rounds = time_until_precise([noisy(3), noisy(5), noisy(2)], EFFORT, device=CPU)
    assert len(rounds.times_ms) > EFFORT.passes
    for index in (0, 1):
        latency = summarise(rounds.of(index), rounds.of(2))
        assert latency.half_width <= EFFORT.precision
        low, high = latency.ratio_low / latency.ratio, latency.ratio_high / latency.ratio
        assert latency.half_width == pytest.approx(max(high - 1, 1 - low))


def test_a_time_limit_ends_what_never_becomes_precise(clock: Clock) -> None:
    # The second of each pair of passes is timed.
    calls = [sleeping(clock, cycle([10.0, 10.0, 10.0, 30.0])), sleeping(clock, cycle([10.0]))]
    rounds = time_until_precise(calls, EFFORT, device=CPU)
    assert summarise(rounds.of(0), rounds.of(1)).half_width > EFFORT.precision
    assert 10 <= clock.now_ns / 1e9 < 10.3


def test_however_slow_a_pass_an_interval_is_to_be_had(clock: Clock) -> None:
    calls = [sleeping(clock, cycle([6e3])), sleeping(clock, cycle([6e3]))]
    rounds = time_until_precise(calls, EFFORT, device=CPU)
    assert len(rounds.times_ms) >= FEWEST


def test_warming_up_goes_on_while_passes_become_faster(clock: Clock) -> None:
    slow_at_first = iter([9.0, 8, 7, 6, 5, 4, 4, 4, 4, 4, 4])
    calls = [sleeping(clock, slow_at_first), sleeping(clock, cycle([2.0]))]
    # Blocks of two: least times 8, 6, 4, 4.
    assert warm_up(calls, EFFORT, device=CPU) == 8


def test_warming_up_ends_for_a_clock_that_never_settles(clock: Clock) -> None:
    times = (1e3 * 0.9**number for number in range(10_000))
    assert warm_up([sleeping(clock, times)], EFFORT, device=CPU) == 2 * timing.MOST_WARMUP


def test_rounds_with_an_interrupted_pass_are_left_out_and_counted(clock: Clock) -> None:
    # After the warm-up of four rounds, the third timed pass is interrupted.
    times = iter([3.0] * 4 + [3.0, 3.1, 90.0, 3.0, 3.1, 3.0, 3.1, 3.0, 3.1] + [3.0] * 100)
    calls = [sleeping(clock, times), sleeping(clock, cycle([2.0]))]
    rounds = time_until_precise(calls, EFFORT, device=CPU)
    assert rounds.num_interrupted == 1
    assert all(time_ms < 90 for time_ms in rounds.of(0))


def test_the_far_fence_is_three_interquartile_ranges_above_the_third_quartile() -> None:
    values = [float(value) for value in range(1, 10)]
    assert far_fence(values) == 7 + 3 * (7 - 3)
    rounds = [(value, 1.0) for value in [*values, 19.0, 40.0]]
    fence = far_fence([a for a, _ in rounds])
    assert 19 < fence < 40
    assert uninterrupted(rounds) == rounds[:-1]


def test_rounds_of_a_throttled_clock_are_left_out_and_counted(clock: Clock) -> None:
    throttled = iter([True, False, True, *[False] * 100])
    calls = [sleeping(clock, cycle([3.0])), sleeping(clock, cycle([2.0]))]
    rounds = time_until_precise(calls, EFFORT, device=CPU, throttled=lambda: next(throttled))
    assert (len(rounds.times_ms), rounds.num_throttled) == (EFFORT.passes, 2)


def test_a_clock_that_is_always_throttled_is_an_error(clock: Clock) -> None:
    calls = [sleeping(clock, cycle([3.0])), sleeping(clock, cycle([2.0]))]
    with pytest.raises(ValueError, match=r"target.device must run at its own clock, .* throttled"):
        time_until_precise(calls, EFFORT, device=CPU, throttled=lambda: True)
    assert clock.now_ns / 1e6 >= 5 * MOST_THROTTLED


def test_rounds_go_on_past_the_time_limit_until_enough_were_uninterrupted(clock: Clock) -> None:
    generator = seeded(0)

    def often_interrupted() -> None:
        clock.sleep(50.0 if float(torch.rand(1, generator=generator)) < 0.12 else 1.0)

    brief = Effort(warmup=1, passes=6, precision=0.001, time_limit_s=0.001)
    rounds = time_until_precise([often_interrupted] * 6, brief, device=CPU)
    assert len(rounds.times_ms) >= FEWEST
    assert rounds.num_interrupted > 0
