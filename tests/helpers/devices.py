"""A target with its inputs and its card, and made-up measurements, for the tests."""

import torch

from nas.config.sections import TargetConfig
from nas.hardware.device import device_card
from nas.records import Costs, Measurement
from supernet.parameter_counts import Counts

CPU = torch.device("cpu")
TARGET = TargetConfig(
    device="cpu",
    runtime="eager",
    table="",
    batch_size=3,
    dtype="float32",
    threads=1,
    warmup=1,
    passes=6,
    precision=0.02,
    time_limit_s=5.0,
    compare=[],
)
INPUTS = (torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0)),)
CARD = device_card(TARGET, INPUTS)


def measured(ratio: float, *, low: float, high: float) -> Measurement:
    """Milliseconds are five times the ratio, MiB twice."""
    return Measurement(
        latency_ms=5 * ratio,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        median_ms=6 * ratio,
        p90_ms=7 * ratio,
        spread=0.1,
        num_passes=6,
        num_sessions=1,
        num_interrupted=0,
        num_throttled=0,
        memory_mib=2 * ratio,
        resident_mib=None,
        energy_mj=None,
        flops=1000,
    )


def costs_of(ratio: float, *, low: float, high: float, params: int) -> Costs:
    """The largest subnet stores 80 parameters and has a ratio of 1."""
    return Costs(
        measurement=measured(ratio, low=low, high=high),
        counts=Counts(stored_factorised=params, stored_merged=params + 7, resident=params + 9),
        params_of_largest=params / 80,
        memory_of_largest=ratio,
    )
