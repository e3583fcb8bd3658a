"""Latency, memory and FLOPs of a plain model on the target device.

Whatever is measured is measured on a copy, in eval and inference mode: the caller's models stay as
they were. This module knows plain models only, nothing of supernets.
"""

import copy
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from nas.device import DTYPES, DeviceCard, canonical_json
from nas.files import append_record, read_records
from nas.settings import check
from nas.timing import Latency, paused_garbage_collection, summarise, time_alternating

MIB = 2**20


@dataclass(frozen=True)
class Measurement:
    """What one architecture costs on one device, per batch of the device's card."""

    latency_ms: float  # ratio times the reference milliseconds of the table
    ratio: float
    ratio_low: float
    ratio_high: float
    median_ms: float
    p90_ms: float
    spread: float
    num_passes: int
    memory_mib: float
    flops: int  # of one image

    def __post_init__(self) -> None:
        # A cost of 0 would meet every budget.
        for key in ("latency_ms", "ratio", "memory_mib"):
            value = getattr(self, key)
            check(f"measured {key}", math.isfinite(value) and value > 0, "positive", value)


class LatencyTable:
    """Measurements under one card, kept as lines of JSON; lines of other cards are never returned.

    The reference's milliseconds are those of its first measurement under the card, so that all
    milliseconds of a table share one scale.
    """

    def __init__(self, path: Path, card: DeviceCard) -> None:
        self.path = path
        self.card = card
        self._measurements: dict[str, Measurement] = {}

    def get(self, arch: Mapping[str, object]) -> Measurement | None:
        key = canonical_json(arch)
        if key not in self._measurements:  # another process may have added it since
            for record in self._records("measurement"):
                figures = {field.name: record[field.name] for field in fields(Measurement)}
                found = canonical_json(record["arch"])
                self._measurements.setdefault(found, Measurement(**figures))
        return self._measurements.get(key)

    def put(self, arch: Mapping[str, object], measurement: Measurement) -> None:
        self._append("measurement", {"arch": arch, **asdict(measurement)})

    def settle_reference(self, reference_ms: float, *, num_params: int) -> float:
        """The reference's milliseconds of this table: as stored, else `reference_ms`, now stored.

        Raises ValueError if what is stored is of a model with another number of parameters.
        """
        if not self._records("reference"):
            self._append("reference", {"reference_ms": reference_ms, "num_params": num_params})
        # Of two processes that stored one at the same time, the first line counts for both.
        first = self._records("reference")[0]
        rule = f"that of {self.path} ({first['num_params']} parameters)"
        check("the reference model", num_params == first["num_params"], rule, num_params)
        return first["reference_ms"]

    def _records(self, kind: str) -> list[dict[str, Any]]:
        digest = self.card.digest()
        return [
            record
            for record in read_records(self.path)
            if record["digest"] == digest and record["kind"] == kind
        ]

    def _append(self, kind: str, values: Mapping[str, object]) -> None:
        head = {
            "kind": kind,
            "digest": self.card.digest(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        append_record(self.path, {**head, **values, "card": self.card.record()})


def measure(
    arch: Mapping[str, object],
    build: Callable[[], nn.Module],
    reference: nn.Module,
    table: LatencyTable,
) -> Measurement:
    """What `arch` costs under the table's card; builds and measures it only if not yet known."""
    known = table.get(arch)
    if known is not None:
        return known
    measurement = measure_now(build(), reference, table)
    table.put(arch, measurement)
    return measurement


def measure_now(model: nn.Module, reference: nn.Module, table: LatencyTable) -> Measurement:
    """What `model` costs under the table's card, on its scale of milliseconds; not cached."""
    latency = measure_latency(model, reference, table.card)
    memory_mib = peak_memory_mib(model, table.card)
    flops = count_flops(model, table.card.input_shape[1:])
    figures = asdict(latency)
    figures["latency_ms"] = latency.ratio * table.settle_reference(
        figures.pop("reference_ms"), num_params=sum(p.numel() for p in reference.parameters())
    )
    return Measurement(**figures, memory_mib=memory_mib, flops=flops)


def measure_latency(model: nn.Module, reference: nn.Module, card: DeviceCard) -> Latency:
    """Latency of `model` relative to `reference`, plain eager passes of copies of both.

    Two copies also where both are one model, so that neither finds the other's weights in a cache.
    """
    images = random_images(card)
    model, reference = ready(model, card), ready(reference, card)
    with torch.inference_mode(), cpu_threads(card.threads):
        model_ms, reference_ms = time_alternating(
            lambda: model(images),
            lambda: reference(images),
            device=torch.device(card.device),
            warmup=card.warmup,
            passes=card.passes,
        )
    return summarise(model_ms, reference_ms)


def count_flops(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """FLOPs of one image of `input_shape` (C, H, W); a multiply-add counts as 2, as in PyTorch.

    Counted on the meta device: on the CPU some builds count no FLOPs for attention.
    """
    skeleton = copy.deepcopy(model).eval().to("meta", torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        skeleton(torch.empty(1, *input_shape, device="meta"))
    return counter.get_total_flops()


def peak_memory_mib(model: nn.Module, card: DeviceCard) -> float:
    """Peak MiB of weights, buffers, input and activations during one pass of a copy of `model`.

    What the libraries keep for themselves (CUDA context, matrix product workspaces) is left out: it
    belongs to the process, whatever the model.
    """
    images = random_images(card)
    model = ready(model, card)
    held = [*model.parameters(), *model.buffers(), images]
    activation_bytes = cuda_activation_bytes if images.is_cuda else cpu_activation_bytes
    with torch.inference_mode(), cpu_threads(card.threads), paused_garbage_collection():
        model(images)  # the first pass also allocates workspaces, which stay
        peak = activation_bytes(model, images)
    return (sum(tensor.nbytes for tensor in held) + peak) / MIB


def cuda_activation_bytes(model: nn.Module, images: Tensor) -> int:
    torch.cuda.synchronize(images.device)
    before = torch.cuda.memory_allocated(images.device)
    torch.cuda.reset_peak_memory_stats(images.device)
    model(images)
    torch.cuda.synchronize(images.device)
    return torch.cuda.max_memory_allocated(images.device) - before


def cpu_activation_bytes(model: nn.Module, images: Tensor) -> int:
    """The highest running sum of what PyTorch's CPU allocator handed out and took back.

    The profiler has one event for each; its trace is the public way to all of them in order.
    """
    with (
        quiet_profiler(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as prof,
    ):
        model(images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        prof.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    allocations = sorted(
        (event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]
    )
    peak = current = 0
    for event in allocations:
        current += event["args"]["Bytes"]
        peak = max(peak, current)
    return peak


def ready(model: nn.Module, card: DeviceCard) -> nn.Module:
    """A copy of the model on the card's device, in its dtype and in eval mode."""
    return copy.deepcopy(model).to(torch.device(card.device), DTYPES[card.dtype]).eval()


def random_images(card: DeviceCard) -> Tensor:
    """Normal noise of the card's input shape (B, C, H, W), the same at every call."""
    images = torch.randn(card.input_shape, generator=torch.Generator().manual_seed(0))
    return images.to(torch.device(card.device), DTYPES[card.dtype])


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_profiler() -> Iterator[None]:
    """Keeps the profiler from writing log lines into a progress bar.

    It reads the variable when it is first used in a process and keeps to it from then on.
    """
    key = "KINETO_LOG_LEVEL"
    if key in os.environ:
        yield
        return
    os.environ[key] = "99"
    try:
        yield
    finally:
        del os.environ[key]
