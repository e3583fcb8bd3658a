"""The target device and its card: the conditions under which something was measured."""

import hashlib
import json
import platform
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from nas.checks import check
from nas.config.sections import TargetConfig, TrainConfig
from nas.hardware.runtimes import unavailable, versions
from nas.records import DeviceCard

DEFAULT_THREADS = torch.get_num_threads()  # of PyTorch, before train.threads may set another
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def training_device(settings: TrainConfig) -> torch.device:
    """The device of `train.device`, after setting the number of CPU threads to `train.threads`."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return resolve_device(settings.device, "train.device")


def resolve_device(device: str, key: str) -> torch.device:
    """The device that the setting `key` names: cpu, cuda, cuda:N, or auto (CUDA if there is one).

    Raises ValueError that names the key for CUDA that is not there.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and num_gpus == 0):
        return torch.device("cpu")
    _, _, suffix = device.partition(":")
    index = int(suffix or 0)
    check(key, index < num_gpus, f"a CUDA device of this machine, which has {num_gpus}", device)
    return torch.device("cuda", index)


def device_lock(device: torch.device) -> Path:
    """A file of this machine whose lock the one process holds that may time passes on a device.

    A GPU is named by its UUID, since CUDA_VISIBLE_DEVICES gives it another index.
    """
    name = "cpu"
    if device.type == "cuda":
        name = f"cuda-{torch.cuda.get_device_properties(device).uuid}"
    return Path(tempfile.gettempdir(), f"atomweave-{name}.lock")


def digest(card: DeviceCard) -> str:
    """A short hash of every field: half of the key under which measurements are cached."""
    text = json.dumps(asdict(card), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def device_card(target: TargetConfig, inputs: Sequence[Tensor]) -> DeviceCard:
    """The card of this machine's target, for a batch of a network's inputs.

    Raises ValueError if it has not that device or runtime.
    """
    device = resolve_device(target.device, "target.device")
    on_gpu = device.type == "cuda"
    reason = unavailable(target.runtime, device, DTYPES[target.dtype])
    check("target.runtime", not reason, f"a runtime of this machine ({reason})", target.runtime)
    return DeviceCard(
        device=str(device),
        name=torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        driver=driver_versions() if on_gpu else "",
        host=platform.platform(),
        threads=target.threads or DEFAULT_THREADS,
        dtype=target.dtype,
        float32_matmul=torch.get_float32_matmul_precision(),
        batch_size=target.batch_size,
        inputs=shapes(inputs),
        runtime=target.runtime,
        runtime_version=versions(target.runtime),
        torch_version=torch.__version__,
        python_version=platform.python_version(),
    )


def shapes(inputs: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in inputs)


def cpu_name() -> str:
    """The processor's model name as Linux gives it, else what the platform calls it."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def driver_versions() -> str:
    """The CUDA version that PyTorch was built for and, where Linux tells it, the driver's."""
    path = Path("/proc/driver/nvidia/version")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", text)
    runtime = f"CUDA {torch.version.cuda}"
    return f"{runtime}, driver {found[1]}" if found else runtime
