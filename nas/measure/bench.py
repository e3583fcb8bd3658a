"""Latency, memory, energy and FLOPs of plain models on the target device.

Whatever is measured is measured on a copy, in eval and inference mode: the caller's models stay as
they were. This module knows plain models only, nothing of supernets.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas.config.sections import TargetConfig
from nas.hardware.device import DTYPES
from nas.hardware.memory import MIB, allocator_peak_mib, device_growth_mib, resident_growth_mib
from nas.hardware.nvml import Gpu, energy_per_pass_mj, open_gpu
from nas.hardware.runtimes import (
    ENGINES,
    Inputs,
    Pass,
    cpu_threads,
    engine_loader,
    running,
    unavailable,
)
from nas.hardware.timing import Call, Effort, Latency, Rounds, summarise, time_until_precise
from nas.records import STRICT, DeviceCard, Measurement


@dataclass(frozen=True)
class Session:
    """What one sitting of timed passes found of one model, per batch of the device's card."""

    __pydantic_config__ = STRICT  # for who reads it from a file

    model_ms: tuple[float, ...]  # of each pass
    reference_ms: tuple[float, ...]  # of the reference's pass beside it
    num_warmup: int  # untimed rounds before
    num_interrupted: int  # rounds left out, see Rounds
    num_throttled: int
    memory_mib: float
    resident_mib: float | None  # growth of the process's peak resident set, on the CPU
    energy_mj: float | None  # millijoules an example, on a GPU that tells
    flops: int  # of one example

    def __post_init__(self) -> None:
        times = (*self.model_ms, *self.reference_ms)
        if len(self.model_ms) != len(self.reference_ms) or len(times) < 4 or min(times) <= 0:
            raise ValueError(f"a session must have pairs of positive milliseconds, got {times}")

    def latency(self) -> Latency:
        return summarise(self.model_ms, self.reference_ms)


def effort_of(target: TargetConfig) -> Effort:
    return Effort(target.warmup, target.passes, target.precision, target.time_limit_s)


class Bench:
    """Models of one card's device and inputs, timed in turns with one reference."""

    def __init__(
        self, reference: nn.Module, inputs: Inputs, card: DeviceCard, effort: Effort
    ) -> None:
        self.card, self.effort = card, effort
        self.device = torch.device(card.device)
        self.inputs = tuple(self.converted(tensor) for tensor in inputs)
        self.gpu: Gpu | None = open_gpu(self.device)
        self.passes_s = 0.0  # spent in timed passes and in those whose memory is measured
        # Prepared once: compiling it takes longer than timing it.
        self._stack = ExitStack()
        self.reference = self._stack.enter_context(self.running(reference))

    def close(self) -> None:
        self._stack.close()

    def converted(self, tensor: Tensor) -> Tensor:
        """On the card's device, and in its dtype unless it holds integers."""
        dtype = DTYPES[self.card.dtype] if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.device, dtype)

    @contextmanager
    def running(self, model: nn.Module, runtime: str = "") -> Iterator[Call]:
        """A call that makes one pass of a copy of `model`, in the card's runtime or another.

        The reference is a copy of its own also where it is the model, so that neither finds the
        other's weights in a cache.
        """
        card, runtime = self.card, runtime or self.card.runtime
        with running(ready(model, card), self.inputs, runtime, threads=card.threads) as call:
            yield call

    def rounds(self, calls: Sequence[Call]) -> Rounds:
        """Rounds of the calls with the reference last; each call has the time of one alone."""
        throttled = self.gpu.throttled if self.gpu else lambda: False
        limit_s = max(1, len(calls)) * self.effort.time_limit_s
        effort = replace(self.effort, time_limit_s=limit_s)
        with self._spent():
            return time_until_precise(
                [*calls, self.reference], effort, device=self.device, throttled=throttled
            )

    @contextmanager
    def _spent(self) -> Iterator[None]:
        begin = perf_counter()
        yield
        self.passes_s += perf_counter() - begin

    def sessions(
        self,
        models: Sequence[nn.Module],
        *,
        known: Sequence[Measurement | None] = (),
        details: bool = False,
    ) -> list[Session]:
        """One session of each model, all timed in turns; `details` take seconds a model more.

        `known` is what earlier sessions found of each, whose memory and FLOPs need no new look.
        """
        with ExitStack() as stack:
            calls = [stack.enter_context(self.running(model)) for model in models]
            rounds = self.rounds(calls)
            energies = [self.energy_mj(call) if details else None for call in calls]
            constants = [
                self.memory_and_flops(model, call) if own is None else (own.memory_mib, own.flops)
                for model, call, own in zip(
                    models, calls, known or [None] * len(models), strict=True
                )
            ]
        reference_ms = tuple(rounds.of(-1))
        return [
            Session(
                model_ms=tuple(rounds.of(index)),
                reference_ms=reference_ms,
                num_warmup=rounds.num_warmup,
                num_interrupted=rounds.num_interrupted,
                num_throttled=rounds.num_throttled,
                memory_mib=constants[index][0],
                resident_mib=self.resident_mib(model) if details else None,
                energy_mj=energies[index],
                flops=constants[index][1],
            )
            for index, model in enumerate(models)
        ]

    def across_runtimes(
        self, model: nn.Module, runtimes: Sequence[str]
    ) -> dict[str, Latency | str]:
        """One model's latency in several runtimes that take turns, or why one cannot run it here.

        All are relative to the reference in the card's own runtime.
        """
        reasons: dict[str, str] = {}
        calls: dict[str, Call] = {}
        with ExitStack() as stack:
            for runtime in runtimes:
                reasons[runtime] = unavailable(runtime, self.device, DTYPES[self.card.dtype])
                if reasons[runtime]:
                    continue
                try:
                    call = stack.enter_context(self.running(model, runtime))
                    call()
                except Exception as error:  # whatever a compiler, a converter or an engine raises
                    reasons[runtime] = f"{type(error).__name__}: {error}".partition("\n")[0]
                else:
                    calls[runtime] = call
            rounds = self.rounds(list(calls.values()))
        latencies = {
            runtime: summarise(rounds.of(index), rounds.of(-1))
            for index, runtime in enumerate(calls)
        }
        return reasons | latencies

    def energy_mj(self, call: Call) -> float | None:
        if self.gpu is None:
            return None
        of_batch = energy_per_pass_mj(call, self.gpu)
        return None if of_batch is None else of_batch / self.card.batch_size

    def memory_and_flops(self, model: nn.Module, call: Call) -> tuple[float, int]:
        with self._spent():
            memory_mib = self.memory_mib(model, call)
        return memory_mib, count_flops(model, self.inputs)

    def memory_mib(self, model: nn.Module, call: Call) -> float:
        """Peak memory of weights, buffers, inputs and activations.

        By PyTorch's allocator, to the byte, where the runtime takes its memory from there: eager,
        compiled, and as a CUDA graph, whose pool holds what an eager pass takes. Engines have an
        allocator of their own: what they and their weights add to the process counts.
        """
        plain = ready(model, self.card)
        if self.card.runtime in ENGINES:
            return self.engine_mib(plain)
        run = call if self.card.runtime == "compile" else lambda: plain(*self.inputs)
        held = [*plain.parameters(), *plain.buffers(), *self.inputs]
        with torch.inference_mode(), cpu_threads(self.card.threads):
            return allocator_peak_mib(run, held, self.device)

    def engine_mib(self, plain: nn.Module) -> float:
        runtime, inputs = self.card.runtime, self.inputs
        load = engine_loader(plain, inputs, runtime, threads=self.card.threads)
        on_gpu = self.device.type == "cuda"
        grown = device_growth_mib(load, self.device) if on_gpu else resident_growth_mib(load)
        if grown is None:
            rule = "one whose memory this system tells, which takes Linux"
            raise ValueError(f"target.runtime must be {rule}, got {runtime!r}")
        return grown + sum(tensor.nbytes for tensor in inputs) / MIB

    def resident_mib(self, model: nn.Module) -> float | None:
        """Growth of the resident set by an eager copy and its passes, on the CPU."""
        if self.device.type != "cpu":
            return None

        def load() -> Pass:
            plain = ready(model, self.card)
            return lambda: plain(*self.inputs)

        with torch.inference_mode(), cpu_threads(self.card.threads):
            return resident_growth_mib(load)


def count_flops(model: nn.Module, inputs: Inputs) -> int:
    """FLOPs of the first example of `inputs`; a multiply-add counts as 2, as in PyTorch.

    Counted on the meta device: on the CPU some builds count no FLOPs for attention.
    """
    tensors = (*model.parameters(), *model.buffers())
    # What deepcopy finds here it takes for copied: no weight is.
    empty = {id(tensor): on_meta(tensor) for tensor in tensors}
    skeleton = copy.deepcopy(model, empty).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        skeleton(*(on_meta(tensor[:1]) for tensor in inputs))
    return counter.get_total_flops()


def on_meta(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    shell = torch.empty_like(tensor, device="meta", dtype=dtype, requires_grad=False)
    return nn.Parameter(shell) if isinstance(tensor, nn.Parameter) else shell


def ready(model: nn.Module, card: DeviceCard) -> nn.Module:
    """A copy of the model on the card's device, in its dtype and in eval mode."""
    return copy.deepcopy(model).to(torch.device(card.device), DTYPES[card.dtype]).eval()
