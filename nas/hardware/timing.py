"""Times of calls that take turns, and what they say of one relative to another.

A call is timed beside a reference, because the ratio of the two holds still where milliseconds
drift with the machine. The last call of a list is the reference of the others.
"""

import gc
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import torch

Call = Callable[[], object]
FEWEST = 6  # rounds; fewer have no 95 % interval of a median
MOST_WARMUP = 20  # blocks of untimed rounds, after which a clock that never settles is accepted
MOST_THROTTLED = 60  # rounds, after which timing is given up at the time limit
MOST_LATE = 200  # rounds of which hardly one was uninterrupted, likewise
GROWTH = 1.5  # of the number of rounds, from one look at the interval to the next


@dataclass(frozen=True)
class Effort:
    """How long to go on timing."""

    warmup: int  # untimed rounds in a block; blocks go on until one is no faster than the last
    passes: int  # least number of timed rounds
    precision: float  # wanted half width of the 95 % interval of each ratio, as a fraction of it
    time_limit_s: float  # for the timed rounds, after which the interval is what it is


@dataclass(frozen=True)
class Rounds:
    """Milliseconds of calls that took turns: one tuple a round, in the order of the calls."""

    times_ms: list[tuple[float, ...]]
    num_warmup: int  # untimed rounds before
    num_interrupted: int  # rounds left out because a call in it was interrupted
    num_throttled: int  # rounds left out because the device had lowered its clock

    def of(self, index: int) -> list[float]:
        return [times[index] for times in self.times_ms]


@dataclass(frozen=True)
class Latency:
    """Time of a pass of one model, a whole batch, in milliseconds and relative to a reference."""

    ratio: float  # median over pairs of the model's time over the reference's
    ratio_low: float  # 95 % interval of that median
    ratio_high: float
    median_ms: float
    p90_ms: float
    spread: float  # interquartile range of the ratios over their median
    num_passes: int  # timed pairs
    reference_ms: float  # the reference's median

    @property
    def half_width(self) -> float:
        """How far the interval reaches from the ratio, as a fraction of it."""
        return max(self.ratio_high - self.ratio, self.ratio - self.ratio_low) / self.ratio


def time_until_precise(
    calls: Sequence[Call],
    effort: Effort,
    *,
    device: torch.device,
    throttled: Callable[[], bool] = lambda: False,
) -> Rounds:
    """Rounds of all calls until each one's ratio to the last is known to `effort.precision`.

    Each timed call follows an untimed one of its own: caches are then as they are where a model
    runs alone, whatever took its turn before, so that sessions with other neighbours compare.

    Rounds in which `throttled` was true afterwards are left out, and so are those in which a call
    took longer than its far fence, the third quartile and three interquartile ranges (Tukey, 1977,
    Exploratory Data Analysis): an interruption can only lengthen a pass.

    Raises ValueError if all but a few rounds had to be left out.
    """
    num_warmup = warm_up(calls, effort, device=device)
    deadline_ns = perf_counter_ns() + round(1e9 * effort.time_limit_s)
    times_ms: list[tuple[float, ...]] = []
    num_throttled, wanted = 0, max(effort.passes, FEWEST)
    with paused_garbage_collection():
        while True:
            while len(times_ms) < wanted:
                late = perf_counter_ns() >= deadline_ns
                if late and len(uninterrupted(times_ms)) >= FEWEST:
                    break
                if len(times_ms) >= MOST_LATE and late:
                    raise ValueError(
                        "target.device must be left alone while it is timed, got passes that were "
                        f"interrupted in all but a few of {len(times_ms)} rounds"
                    )
                backwards = len(times_ms) % 2 == 1
                times = time_round(calls, device, backwards=backwards, settle=True)
                if not throttled():
                    times_ms.append(times)
                    continue
                num_throttled += 1
                if late and num_throttled > MOST_THROTTLED:
                    raise ValueError(
                        "target.device must run at its own clock, got one that was throttled in "
                        f"{num_throttled} of {num_throttled + len(times_ms)} rounds"
                    )
            kept = uninterrupted(times_ms)
            late = perf_counter_ns() >= deadline_ns
            if len(kept) >= FEWEST and (late or precise(kept, effort.precision)):
                return Rounds(kept, num_warmup, len(times_ms) - len(kept), num_throttled)
            wanted = math.ceil(GROWTH * len(times_ms))


def warm_up(calls: Sequence[Call], effort: Effort, *, device: torch.device) -> int:
    """Untimed blocks of rounds until one is no faster than the last; returns how many rounds.

    Caches, allocators, compilers and clocks that rise all make later passes faster.
    """
    before, block = [math.inf] * len(calls), 0
    while block < MOST_WARMUP:
        block += 1
        rounds = [time_round(calls, device) for _ in range(effort.warmup)]
        now = [min(times) for times in zip(*rounds, strict=True)]
        if all(b >= (1 - effort.precision) * a for a, b in zip(before, now, strict=True)):
            break
        before = [min(pair) for pair in zip(before, now, strict=True)]
    return block * effort.warmup


def time_round(
    calls: Sequence[Call], device: torch.device, *, backwards: bool = False, settle: bool = False
) -> tuple[float, ...]:
    """Milliseconds of each call, in turn; the device is awaited round each clock read.

    To `settle`, each is called once untimed right before.
    """
    time_ms = cuda_time_ms if device.type == "cuda" else cpu_time_ms
    times_ms = []
    for call in reversed(calls) if backwards else calls:
        if settle:
            call()
        times_ms.append(time_ms(call, device))
    return tuple(reversed(times_ms) if backwards else times_ms)


def cpu_time_ms(call: Call, device: torch.device) -> float:
    start_ns = perf_counter_ns()
    call()
    return (perf_counter_ns() - start_ns) / 1e6


def cuda_time_ms(call: Call, device: torch.device) -> float:
    with torch.cuda.device(device):
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
    return start.elapsed_time(end)


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def uninterrupted(times_ms: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """The rounds in which no call took longer than its own far fence."""
    if len(times_ms) < FEWEST:
        return list(times_ms)
    fences = [far_fence(times) for times in zip(*times_ms, strict=True)]
    return [times for times in times_ms if all(t <= f for t, f in zip(times, fences, strict=True))]


def far_fence(values: Sequence[float]) -> float:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high + 3 * (high - low)


def precise(rounds: Sequence[tuple[float, ...]], precision: float) -> bool:
    """Whether the ratio of each call to the last is known well enough."""
    *columns, reference = zip(*rounds, strict=True)
    return all(summarise(column, reference).half_width <= precision for column in columns)


def summarise(model_ms: Sequence[float], reference_ms: Sequence[float]) -> Latency:
    """Latency from the times of paired passes."""
    ratios = sorted(a / b for a, b in zip(model_ms, reference_ms, strict=True))
    ratio = statistics.median(ratios)
    low = interval_rank(len(ratios)) - 1
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive")
    return Latency(
        ratio=ratio,
        ratio_low=ratios[low],
        ratio_high=ratios[-1 - low],
        median_ms=statistics.median(model_ms),
        p90_ms=statistics.quantiles(model_ms, n=10, method="inclusive")[8],
        spread=(quartiles[2] - quartiles[0]) / ratio,
        num_passes=len(ratios),
        reference_ms=statistics.median(reference_ms),
    )


def interval_rank(num_values: int) -> int:
    """The rank k for which the k-th smallest and k-th largest value enclose the median at 95 %.

    Distribution-free: the number of values below the true median is binomial (n, 1/2), and k is the
    largest with P(fewer than k) <= 0.025. Five values or fewer do not reach 95 %; k is then 1.
    """
    rank, tail = 0, 1  # tail / 2^n = P(at most `rank` values below the median)
    while 40 * tail <= 2**num_values:
        rank += 1
        tail += math.comb(num_values, rank)
    return max(rank, 1)
