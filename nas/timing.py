"""Times of two calls side by side, and what they say of one relative to the other.

A call is timed beside a reference, because the ratio of the two holds still where milliseconds
drift with the machine.
"""

import gc
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import torch


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


def time_alternating(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    device: torch.device,
    warmup: int,
    passes: int,
) -> tuple[list[float], list[float]]:
    """Milliseconds of each call of `first` and of `second`, after `warmup` untimed calls of each.

    The calls come in pairs whose order alternates (A B, B A, ...), so that neither slow drift nor
    the place in a pair favours one of the two. The device is awaited round every clock read.
    """
    time_ms = cuda_time_ms if device.type == "cuda" else cpu_time_ms
    for _ in range(warmup):
        first()
        second()
    first_ms: list[float] = []
    second_ms: list[float] = []
    order = [(first, first_ms), (second, second_ms)]
    with paused_garbage_collection():
        for _ in range(passes):
            for call, times_ms in order:
                times_ms.append(time_ms(call, device))
            order.reverse()
    return first_ms, second_ms


def cpu_time_ms(call: Callable[[], object], device: torch.device) -> float:
    start_ns = perf_counter_ns()
    call()
    return (perf_counter_ns() - start_ns) / 1e6


def cuda_time_ms(call: Callable[[], object], device: torch.device) -> float:
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


def summarise(model_ms: list[float], reference_ms: list[float]) -> Latency:
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
