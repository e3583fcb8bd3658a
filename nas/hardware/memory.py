"""Peak memory of a pass: by PyTorch's allocator to the byte, or by the process's resident set."""

import ctypes
import gc
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from nas.hardware.timing import paused_garbage_collection

MIB = 2**20
RESET_PEAK = "5"  # what proc(5) says to write to clear_refs to reset VmHWM
GROWTHS = 3  # of the resident set, whose median counts


def allocator_peak_mib(
    run: Callable[[], object], held: Iterable[Tensor], device: torch.device
) -> float:
    """Peak MiB of the tensors `held` and of what one call of `run` gets from PyTorch's allocator.

    Held are weights, buffers and input, each counted once. What the libraries keep for themselves
    (CUDA context, matrix product workspaces) is left out: it belongs to the process, whatever the
    model. Call it in inference mode, or activations count as kept for the backward pass.
    """
    activation_bytes = cuda_activation_bytes if device.type == "cuda" else cpu_activation_bytes
    with paused_garbage_collection():
        run()  # the first pass also allocates workspaces, which stay
        peak = activation_bytes(run, device)
    return (sum(tensor.nbytes for tensor in held) + peak) / MIB


def cuda_activation_bytes(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def cpu_activation_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The highest running sum of what PyTorch's CPU allocator handed out and took back.

    The profiler has one event for each; its trace is the public way to all of them in order.
    """
    with (
        quiet_profiler(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as prof,
    ):
        run()
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


def resident_growth_mib(build_and_run: Callable[[], Callable[[], object]]) -> float | None:
    """MiB by which the process's peak resident set grows while a model is loaded and run.

    `build_and_run` loads the model and returns a call that makes one pass. It happens a few times,
    first uncounted, since libraries settle in then; the median counts. None where the system does
    not tell: elsewhere than on Linux, or in a container that keeps the peak from being reset.
    """
    if not tells_resident_set():
        return None
    one_growth_mib(build_and_run)
    return statistics.median(one_growth_mib(build_and_run) for _ in range(GROWTHS))


def tells_resident_set() -> bool:
    return sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)


def one_growth_mib(build_and_run: Callable[[], Callable[[], object]]) -> float:
    """The peak resident set while a model is loaded and run over the resident set before."""
    gc.collect()
    # Memory that was freed but not given back would be used again, and not counted.
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if give_back is not None:
        give_back(0)
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before = resident_kib("VmRSS")
    run = build_and_run()
    run()
    return (resident_kib("VmHWM") - before) / 1024


def resident_kib(key: str) -> int:
    """A figure of /proc/self/status: VmRSS, the resident set, or VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0])
    raise RuntimeError(f"/proc/self/status has no {key}")


def device_growth_mib(
    build_and_run: Callable[[], Callable[[], object]], device: torch.device
) -> float:
    """MiB of a GPU's memory that are taken while a model is loaded and run, by any library.

    Other processes on the GPU that take or free memory meanwhile falsify it.
    """
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before, _ = torch.cuda.mem_get_info(device)
    run = build_and_run()
    run()
    torch.cuda.synchronize(device)
    after, _ = torch.cuda.mem_get_info(device)
    return (before - after) / MIB
