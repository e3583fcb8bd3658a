import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pynvml
import pytest
import torch

import nas.hardware.nvml
from nas.hardware.nvml import Gpu, energy_per_pass_mj, open_gpu, unavailable

CUDA = torch.device("cuda", 1)
UUID = "8c05a48f-1d2e-4b5c-9e7d-3a1f0b2c4d6e"
POWER_W = 300
TICK_S = 0.05  # from one move of the energy counter to the next


class Driver(ModuleType):
    """pynvml with one GPU, whose time passes only in passes of a model."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.__spec__ = ModuleSpec("pynvml", None)
        for name in dir(pynvml):
            if name.startswith(("NVMLError", "NVML_", "nvmlClocksEventReason")):
                setattr(self, name, getattr(pynvml, name))
        self.uuids = [f"GPU-{UUID}"]
        self.reasons: int | Exception = 0
        self.counts_energy = True
        self.is_old = False
        self.now_s = 0.0
        self.ticks_until_s = float("inf")

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        if uuid not in self.uuids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.uuids.index(uuid)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:  # noqa: N802
        if self.is_old:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return self.nvmlDeviceGetCurrentClocksThrottleReasons(handle)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:  # noqa: N802
        if isinstance(self.reasons, Exception):
            raise self.reasons
        return self.reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        if not self.counts_energy:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        ticks = min(self.now_s, self.ticks_until_s) // TICK_S
        return 7_000_000 + round(1000 * POWER_W * ticks * TICK_S)

    def sleeper(self, time_s: float) -> Callable[[], None]:
        def call() -> None:
            self.now_s += time_s

        return call


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(nas.hardware.nvml, "perf_counter", lambda: driver.now_s)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    properties = {CUDA: SimpleNamespace(uuid=UUID)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    return driver


def opened(device: torch.device = CUDA) -> Gpu:
    gpu = open_gpu(device)
    assert gpu is not None
    return gpu


def test_a_gpu_is_found_by_its_uuid(driver: Driver) -> None:
    driver.uuids = ["GPU-another", f"GPU-{UUID}"]
    assert opened().handle == 1
    assert unavailable(CUDA) == ""


def test_the_cpu_has_no_gpu_and_a_reason() -> None:
    assert open_gpu(torch.device("cpu")) is None
    assert unavailable(torch.device("cpu")) == "NVML knows GPUs of NVIDIA, not cpu"


def test_a_missing_package_is_a_reason(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_gpu(CUDA) is None
    assert "needs the package nvidia-ml-py" in unavailable(CUDA)


def test_a_gpu_that_the_driver_does_not_know_is_a_reason(driver: Driver) -> None:
    driver.uuids = ["GPU-another"]
    assert open_gpu(CUDA) is None
    assert "NVML does not tell of cuda:1: " in unavailable(CUDA)


def test_a_gpu_that_does_not_tell_of_its_clock_is_a_reason(driver: Driver) -> None:
    driver.reasons = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert open_gpu(CUDA) is None
    assert "Not Supported" in unavailable(CUDA)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without the library")
def test_a_missing_library_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = {CUDA: SimpleNamespace(uuid=UUID)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    assert open_gpu(CUDA) is None
    assert "NVML does not tell of cuda:1: " in unavailable(CUDA)


REASONS = {
    "GpuIdle": False,
    "ApplicationsClocksSetting": False,
    "SyncBoost": False,
    "DisplayClockSetting": False,
    "SwPowerCap": False,
    "HwSlowdown": True,
    "SwThermalSlowdown": True,
    "HwThermalSlowdown": True,
    "HwPowerBrakeSlowdown": True,
}


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(("name", "counts"), REASONS.items())
def test_heat_and_power_throttle_and_nothing_else(
    name: str, counts: bool, is_old: bool, driver: Driver
) -> None:
    driver.is_old = is_old
    gpu = opened()
    assert not gpu.throttled()
    reason = getattr(pynvml, f"nvmlClocksEventReason{name}")
    driver.reasons = reason | pynvml.nvmlClocksEventReasonGpuIdle
    assert gpu.throttled() is counts


def test_every_reason_of_the_library_is_judged() -> None:
    known = sum(getattr(pynvml, f"nvmlClocksEventReason{name}") for name in REASONS)
    assert known == pynvml.nvmlClocksEventReasonAll


@pytest.mark.parametrize("pass_s", [1e-4, 3.7e-3, 0.3])
def test_energy_of_a_pass_is_power_times_its_time(pass_s: float, driver: Driver) -> None:
    driver.now_s = 0.8 * TICK_S
    energy_mj = energy_per_pass_mj(driver.sleeper(pass_s), opened(), span_s=2.03)
    # The end of each span is found one block of passes late at most.
    late = (nas.hardware.nvml.BLOCK_S + TICK_S * (pass_s > TICK_S)) / 2
    assert energy_mj == pytest.approx(1000 * POWER_W * pass_s, rel=late)


def test_energy_is_that_of_passes_for_the_whole_span(driver: Driver) -> None:
    energy_per_pass_mj(driver.sleeper(0.001), opened(), span_s=3)
    assert 3 <= driver.now_s <= 3 + 5 * TICK_S


def test_a_gpu_that_counts_no_energy_has_none(driver: Driver) -> None:
    driver.counts_energy = False
    assert opened().energy_mj() is None
    assert energy_per_pass_mj(driver.sleeper(0.001), opened()) is None


def test_a_counter_that_stands_still_gives_no_energy_and_an_end(driver: Driver) -> None:
    driver.ticks_until_s = 0
    assert energy_per_pass_mj(driver.sleeper(0.001), opened(), span_s=1) is None
    assert driver.now_s < 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_uses_energy_and_tells_of_its_clock() -> None:
    device = torch.device("cuda", 0)
    assert unavailable(device) == ""
    gpu = opened(device)
    gpu.throttled()
    one, other = (torch.randn(2048, 2048, device=device) for _ in range(2))
    if gpu.energy_mj() is not None:
        energy_mj = energy_per_pass_mj(lambda: one @ other, gpu)
        assert energy_mj is not None
        assert energy_mj > 0
