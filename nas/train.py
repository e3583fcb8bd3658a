"""Stage 1: train the supernet. Writes checkpoint.pt and metrics.jsonl into the run folder."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.console import Console
from timm.optim._optim_factory import create_optimizer_v2, get_optimizer_class
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nas.checkpoint import load_checkpoint, save_checkpoint
from nas.config import Config, TrainConfig, check
from nas.data import Batch, ImageData, load
from nas.device import training_device
from nas.evaluate import evaluate
from nas.files import locked
from nas.outcomes import Diverged, Stopped
from nas.run import code_version
from nas.signals import stop_signals
from nas.tracking import Tracker
from nas.weights import make_supernet
from supernet.distillation import cross_entropy
from supernet.sampling import Path as SampledPath
from supernet.sampling import UniformData


class Training:
    """Everything that changes while training: what a checkpoint holds."""

    def __init__(self, config: Config, device: torch.device, num_train: int) -> None:
        settings = config.train
        self.config = config
        self.device = device
        self.bf16 = uses_bf16(settings.precision, device)
        self.num_train = num_train
        self.steps_per_epoch = num_train // config.data.batch_size
        self.num_steps = settings.epochs * self.steps_per_epoch
        self.supernet = make_supernet(config).to(device)
        self.optimizer = make_optimizer(settings, self.supernet)
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            "cosine",
            num_epochs=settings.epochs,
            warmup_epochs=settings.warmup_epochs,
            warmup_lr=settings.min_lr,
            min_lr=settings.min_lr,
            step_on_epochs=False,
            updates_per_epoch=self.steps_per_epoch,
        )
        self.ema = ModelEmaV3(self.supernet, decay=settings.ema_decay, use_warmup=True)
        self.paths = config.paths
        self.data_sampler = UniformData(num_examples=num_train)
        self.path_generator = Random(config.seed)
        self.data_generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.indices = torch.empty(0, dtype=torch.long)  # this epoch's draw, (n,)
        self.weights = torch.empty(0)  # (n,)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "finished": self.step == self.num_steps,
            "commit": code_version(),
            "num_train": self.num_train,
            "supernet": self.supernet.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "paths": self.paths.state_dict(),
            "data_sampler": self.data_sampler.state_dict(),
            "path_generator": self.path_generator.getstate(),
            "data_generator": self.data_generator.get_state(),
            "indices": self.indices,
            "weights": self.weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError if the training images are not as many as they were."""
        rule = f"the {state['num_train']} training images that the run began with"
        check("data", self.num_train == state["num_train"], rule, self.num_train)
        self.step = state["step"]
        self.supernet.load_state_dict(state["supernet"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.paths.load_state_dict(state["paths"])
        self.data_sampler.load_state_dict(state["data_sampler"])
        self.path_generator.setstate(state["path_generator"])
        self.data_generator.set_state(state["data_generator"].cpu())
        self.indices, self.weights = state["indices"].cpu(), state["weights"].cpu()
        self.scheduler.step_update(self.step)

    def epoch_batches(self, data: ImageData) -> Iterator[Batch]:
        """The rest of the current epoch, which begins with a new draw of examples."""
        epoch, start = divmod(self.step, self.steps_per_epoch)
        if start == 0:
            self.indices, self.weights = self.data_sampler.draw_epoch(self.data_generator)
        # Augmentation is a function of the seed, the epoch and the batch: nothing to save.
        seed = int(np.random.SeedSequence([self.config.seed, epoch]).generate_state(1)[0])
        size = self.config.data.batch_size
        return data.train_batches(self.indices, batch_size=size, seed=seed, start=start)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update of the weights from one batch and the paths drawn for it."""
        settings = self.config.train
        begin = self.step % self.steps_per_epoch * len(batch.targets)
        weights = self.weights[begin : begin + len(batch.targets)].to(self.device)
        # Mixup smooths its soft targets itself.
        smoothing = 0.0 if batch.targets.is_floating_point() else settings.label_smoothing
        self.optimizer.zero_grad()
        paths = self.paths.draw(self.path_generator)
        losses, teacher = [], None
        for path in paths:
            with autocast(self.device, enabled=self.bf16):
                logits = self.supernet(batch.images, path.arch)
            hard_loss = cross_entropy(logits, batch.targets, smoothing)
            loss = (weights * self.config.distillation(logits, hard_loss, teacher)).mean()
            (path.weight * loss / len(paths)).backward()
            losses.append(loss.detach())
            if path.role == "largest":
                teacher = logits.detach()
        largest = settings.clip_grad or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), largest)
        figures = torch.stack([*losses, norm]).tolist()  # the step's one wait for the device
        self.refuse_divergence(paths, figures)
        self.scheduler.step_update(self.step)
        lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.step += 1
        self.ema.update(self.supernet, step=self.step)
        return {"loss": sum(figures[:-1]) / len(paths), "grad_norm": figures[-1], "lr": lr}

    def refuse_divergence(self, paths: list[SampledPath], figures: list[float]) -> None:
        *losses, norm = figures
        for path, loss in zip(paths, losses, strict=True):
            if not is_finite(loss):
                raise Diverged(
                    f"loss is {loss} at step {self.step} for the {path.role} {path.arch}"
                )
        if not is_finite(norm):
            archs = "; ".join(f"{path.role} {path.arch}" for path in paths)
            raise Diverged(f"gradient norm is {norm} at step {self.step} for {archs}")


def train(config: Config, run: Path, console: Console) -> None:
    """Trains from the last checkpoint, or from the start, to the end.

    Raises Stopped after SIGINT or SIGTERM, and Diverged for a loss that is not finite; the
    checkpoints remain.
    """
    with locked(run / "train.lock", blocking=False) as alone:
        if not alone:
            raise ValueError(f"run must not be in training already, got {run}")
        train_alone(config, run, console)


def train_alone(config: Config, run: Path, console: Console) -> None:
    settings = config.train
    training, data = prepare(config, run, console)
    if training.step == training.num_steps:
        console.print(f"training is finished: all {training.num_steps} steps were done before")
        return
    with (
        Tracker(
            run,
            wandb_mode=config.wandb.mode,
            project=config.wandb.project,
            settings=loggable(run),
            start_step=training.step,
            console=console,
        ) as tracker,
        stop_signals() as stop,
        tracker.progress("train", total=training.num_steps, done=training.step) as bar,
    ):
        logged_step, logged_at = training.step, perf_counter()
        while training.step < training.num_steps:
            for batch in training.epoch_batches(data):
                figures = training.train_step(batch)
                step, epoch = training.step, training.step / training.steps_per_epoch
                bar.advance(loss=figures["loss"])
                if step % settings.log_every == 0:
                    # An image counts once, however many subnets see it; all other work counts too.
                    now = perf_counter()
                    rate = (step - logged_step) * config.data.batch_size / (now - logged_at)
                    tracker.log("train", step, epoch=epoch, **figures, images_per_s=rate)
                    logged_step, logged_at = step, now
                if step % training.steps_per_epoch == 0:
                    evaluate_probes(training, data, tracker)
                stopping = bool(stop)  # read once, so that no signal stops what is not saved
                if step % settings.checkpoint_every == 0 or step == training.num_steps or stopping:
                    save_checkpoint(run, training.state_dict())
                if stopping:
                    raise Stopped(stop[0])


def prepare(config: Config, run: Path, console: Console) -> tuple[Training, ImageData]:
    """The training as its last checkpoint left it, or at its start, and its data."""
    settings = config.train
    device = training_device(settings)
    data = load(
        config.data, seed=config.seed, device=device, label_smoothing=settings.label_smoothing
    )
    check_batches(config, data.num_train)
    training = Training(config, device, data.num_train)
    if state := load_checkpoint(run, device, partial(console.print, markup=False, soft_wrap=True)):
        training.load_state_dict(state)
    console.print(
        f"training on {device} in {'bf16 autocast' if training.bf16 else 'fp32'}, "
        f"{data.num_train} images, {training.num_steps} steps from step {training.step}"
    )
    return training, data


def make_optimizer(settings: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """timm's optimizer, as a fused kernel where it has one.

    The other forms allocate temporaries of the size of the stacked weights.
    """
    found = get_optimizer_class(settings.opt, bind_defaults=False)
    fused: dict[str, Any] = (
        {"fused": True} if "fused" in inspect.signature(found).parameters else {}
    )
    try:
        return create_optimizer_v2(
            model, settings.opt, lr=settings.lr, weight_decay=settings.weight_decay, **fused
        )
    except (AssertionError, ImportError, RuntimeError, TypeError) as error:
        raise ValueError(f"train.opt must work here, got {settings.opt!r}: {error}") from error


def evaluate_probes(training: Training, data: ImageData, tracker: Tracker) -> None:
    """Accuracy on val of the same few subnets every time, with the averaged weights."""
    config = training.config
    epoch = training.step // training.steps_per_epoch
    if epoch % config.train.eval_every and training.step < training.num_steps:
        return
    probes = {"smallest": config.space.smallest(), "largest": config.space.largest()}
    for name, record in config.train.probes.items():
        probes[name] = config.space.from_record(record)
    found = []
    for name, arch in probes.items():
        accuracy = evaluate(training.ema.module.extract(arch), data, "val")
        if not is_finite(accuracy.loss):
            raise Diverged(
                f"val loss is {accuracy.loss} at step {training.step} for the {name} {arch} "
                "with averaged weights"
            )
        tracker.log("eval", training.step, epoch=epoch, probe=name, **asdict(accuracy))
        found.append(f"{name} {accuracy.top1:.4f}")
    tracker.say(f"epoch {epoch}: val top-1 of {accuracy.num_examples} images: {', '.join(found)}")


def check_batches(config: Config, num_train: int) -> None:
    size = config.data.batch_size
    if num_train < size:
        raise ValueError(f"data.batch_size must be at most the {num_train} images, got {size}")


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


def loggable(run: Path) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(run / "config.yaml")))
