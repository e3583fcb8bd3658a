"""What every training here has in common, of a supernet or of a model alone."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from timm.optim._optim_factory import create_optimizer_v2, get_optimizer_class
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nas.config.sections import TrainConfig


def make_optimizer(settings: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """timm's optimizer, as a fused kernel where it has one.

    The other forms allocate temporaries of the size of the stacked weights.
    """
    found = get_optimizer_class(settings.opt, bind_defaults=False)
    create: Callable[..., torch.optim.Optimizer] = create_optimizer_v2
    if "fused" in inspect.signature(found).parameters:
        create = partial(create, fused=True)
    try:
        return create(model, settings.opt, lr=settings.lr, weight_decay=settings.weight_decay)
    except (AssertionError, ImportError, RuntimeError, TypeError) as error:
        raise ValueError(f"train.opt must work here, got {settings.opt!r}: {error}") from error


def make_scheduler(
    settings: TrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> Scheduler:
    """A linear warm-up, then half a cosine down to `min_lr`, by `step_update(step)`."""
    scheduler, _ = create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=settings.epochs,
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=settings.min_lr,
        min_lr=settings.min_lr,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler


@contextmanager
def autocast(device: torch.device, *, enabled: bool) -> Iterator[None]:
    """bf16 autocast; on the CPU with plain attention, whose bf16 backward is the faster one."""
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        if enabled and device.type == "cpu":
            with sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            yield


def uses_bf16(precision: str, device: torch.device) -> bool:
    """`auto` is bf16 where the hardware multiplies it: recent GPUs, AVX-512 BF16 and AMX."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def is_finite(value: float) -> bool:
    return value - value == 0
