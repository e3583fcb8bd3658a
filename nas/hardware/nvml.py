"""What the driver tells of a GPU: why its clocks were lowered, and the energy it used.

Read through NVML, NVIDIA's management library (package nvidia-ml-py).
https://docs.nvidia.com/deploy/nvml-api/
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from time import perf_counter
from types import ModuleType

import torch

# Reasons for a lowered clock that come from heat or a failing supply, and so change from one
# minute to the next with what ran before. Left out are those that hold still while a model is timed
# (clocks that somebody set, a display, a group of GPUs in step), idleness, which ends with a pass,
# and the board's power limit, at which some GPUs run all the time that they have work.
THROTTLING = (
    "nvmlClocksEventReasonHwSlowdown",
    "nvmlClocksEventReasonSwThermalSlowdown",
    "nvmlClocksEventReasonHwThermalSlowdown",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown",
)
SPAN_S = 1.0  # of passes whose energy is read: the counter moves 20 to 100 times a second
BLOCK_S = 0.01  # of passes between two looks at the counter
PATIENCE = 4  # spans, after which a counter that does not move is given up


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML sees it."""

    nvml: ModuleType  # pynvml
    handle: object
    device: torch.device

    def throttled(self) -> bool:
        """Whether heat or power keeps the clocks down at this moment."""
        mask = 0
        for name in THROTTLING:
            mask |= getattr(self.nvml, name)
        return bool(self.clock_reasons() & mask)

    def clock_reasons(self) -> int:
        try:
            return self.nvml.nvmlDeviceGetCurrentClocksEventReasons(self.handle)
        except self.nvml.NVMLError_FunctionNotFound:  # its name before driver 535
            return self.nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self.handle)

    def energy_mj(self) -> float | None:
        """Millijoules of the whole board since the driver was loaded; None where not counted."""
        try:
            return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))
        except self.nvml.NVMLError_NotSupported:  # before Volta
            return None


def open_gpu(device: torch.device) -> Gpu | None:
    """The GPU of a CUDA device, found by its UUID; None where `unavailable` has a reason.

    The index would not do: CUDA_VISIBLE_DEVICES and the order of devices change it.
    """
    return None if unavailable(device) else connect(device)


def unavailable(device: torch.device) -> str:
    """Why NVML tells nothing of a device; empty if it does."""
    if device.type != "cuda":
        return f"NVML knows GPUs of NVIDIA, not {device}"
    if find_spec("pynvml") is None:
        return "NVML needs the package nvidia-ml-py, which is not installed"
    nvml = importlib.import_module("pynvml")
    try:
        connect(device).clock_reasons()
    except nvml.NVMLError as error:  # no library, no permission, a part of a GPU (MIG)
        return f"NVML does not tell of {device}: {error}"
    return ""


def connect(device: torch.device) -> Gpu:
    """Raises pynvml.NVMLError where NVML is not there or does not know the device."""
    nvml = importlib.import_module("pynvml")
    nvml.nvmlInit()  # counted: again is harmless
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return Gpu(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid), device)


def energy_per_pass_mj(
    call: Callable[[], object], gpu: Gpu, *, span_s: float = SPAN_S
) -> float | None:
    """Millijoules of one pass, of the whole board; None where the GPU does not count energy.

    The passes run without a pause for at least `span_s` seconds, from one move of the counter to
    another, so that its steps do not blur the figure.
    """
    if gpu.energy_mj() is None:
        return None
    block = passes_lasting(call, gpu.device, BLOCK_S)
    first_mj, _ = run_until_it_moves(call, gpu, block, at_least_s=0, at_most_s=PATIENCE * span_s)
    last_mj, passes = run_until_it_moves(
        call, gpu, block, at_least_s=span_s, at_most_s=(1 + PATIENCE) * span_s
    )
    return (last_mj - first_mj) / passes if last_mj > first_mj else None


def passes_lasting(call: Callable[[], object], device: torch.device, wanted_s: float) -> int:
    """How many passes last about as long as wanted."""
    passes = 1
    while (spent_s := time_s(call, device, passes)) < wanted_s / 2:
        passes *= 2
    return max(1, round(passes * wanted_s / spent_s))


def run_until_it_moves(
    call: Callable[[], object], gpu: Gpu, block: int, *, at_least_s: float, at_most_s: float
) -> tuple[float, int]:
    """The counter's next move after `at_least_s` seconds of passes, and how many passes ran."""
    start = perf_counter()
    now_mj, passes = gpu.energy_mj() or 0.0, 0
    while perf_counter() < start + at_most_s:
        time_s(call, gpu.device, block)
        passes += block
        before_mj, now_mj = now_mj, gpu.energy_mj() or 0.0
        if now_mj != before_mj and perf_counter() >= start + at_least_s:
            break
    return now_mj, passes


def time_s(call: Callable[[], object], device: torch.device, passes: int) -> float:
    start = perf_counter()
    for _ in range(passes):
        call()
    torch.cuda.synchronize(device)
    return perf_counter() - start
