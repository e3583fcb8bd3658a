"""Ground truth made here: subnets trained alone from scratch, one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.console import Console
from timm.utils.model_ema import ModelEmaV3

from nas.checks import check
from nas.config.config import Config
from nas.config.run_folder import FREE_KEYS
from nas.config.sections import TrainConfig
from nas.data.batches import ImageData, load
from nas.evaluate import calibrated, evaluate
from nas.exits import Diverged, Stopped, stop_signals
from nas.files import append_record, read_records
from nas.hardware.device import canonical_json, training_device
from nas.rank.ground_truth import GroundTruth
from nas.seeds import mixed_seed
from nas.tracking import Bar, progress
from nas.train.optimization import autocast, is_finite, make_optimizer, make_scheduler, uses_bf16
from nas.train.weights import make_supernet
from supernet.losses import cross_entropy

# Settings that only the training of a supernet reads.
UNUSED = ("eval_every", "momentum_choice", "probes", "schedule", "snapshots", "variance_draws")


def train_standalone(config: Config, run: Path, console: Console, data: ImageData) -> GroundTruth:
    """Trains `rank.standalone` architectures, but for those in run/standalone.jsonl.

    Each is scored by its top-1 on val, which `data`, without mixup, holds. Raises Stopped after
    SIGINT or SIGTERM, and Diverged for a loss that is not finite; what was trained before stays.
    """
    settings = standalone_settings(config)
    archs = draw_archs(config)
    path, digest = run / "standalone.jsonl", settings_digest(config, settings)
    known = read_known(path, digest)
    missing = {place: arch for place, arch in enumerate(archs) if key_of(arch) not in known}
    if missing:
        for record in train_each(config, settings, missing, data, console):
            append_record(path, {"digest": digest, **record})
        known = read_known(path, digest)
    scores = tuple(float(known[key_of(arch)]["top1"]) for arch in archs)
    source = f"val top-1 of subnets trained alone for {settings.epochs} epochs"
    return GroundTruth(source, tuple(archs), scores)


def standalone_settings(config: Config) -> TrainConfig:
    epochs = config.rank.standalone_epochs or config.train.epochs
    warmup = config.train.warmup_epochs
    rule = f"more than train.warmup_epochs ({warmup})"
    check("rank.standalone_epochs", epochs > warmup, rule, epochs)
    return replace(config.train, epochs=epochs)


def draw_archs(config: Config) -> list[Any]:
    """Distinct architectures; a larger number begins with those of a smaller one."""
    count, space = config.rank.standalone, config.space
    rule = f"at most the {space.num_archs()} architectures of the space"
    check("rank.standalone", count <= space.num_archs(), rule, count)
    generator = Random(config.rank.seed)
    archs: dict[Any, None] = {}
    while len(archs) < count:
        archs[space.sample(generator)] = None
    return list(archs)


def settings_digest(config: Config, settings: TrainConfig) -> str:
    """A short hash of what decides the result of training an architecture alone."""
    facts = {
        f"{section}.{name}": value
        for section, values in (("data", asdict(config.data)), ("train", asdict(settings)))
        for name, value in values.items()
        if f"{section}.{name}" not in FREE_KEYS and name not in UNUSED
    }
    facts |= {"seed": config.seed, "rank.seed": config.rank.seed}
    return sha256(canonical_json(facts).encode()).hexdigest()[:16]


def read_known(path: Path, digest: str) -> dict[str, Mapping[str, Any]]:
    records = [record for record in read_records(path) if record["digest"] == digest]
    return {canonical_json(record["arch"]): record for record in records}


def key_of(arch: Any) -> str:
    return canonical_json(asdict(arch))


def train_each(
    config: Config,
    settings: TrainConfig,
    archs: Mapping[int, Any],
    unmixed: ImageData,
    console: Console,
) -> Iterator[dict[str, Any]]:
    """The record of each architecture, by its place among those drawn, as soon as it is trained."""
    device = training_device(settings)
    smoothing = settings.label_smoothing
    data = load(config.data, seed=config.seed, device=device, label_smoothing=smoothing)
    steps = settings.epochs * (data.num_train // config.data.batch_size)
    with (
        stop_signals() as stop,
        progress(console, "standalone", total=len(archs) * steps) as bar,
    ):
        for place, arch in archs.items():
            alone = Alone(config, settings, arch, place, device)
            alone.train(data, bar, stop)
            # The averaged weights, whose batch norms have no statistics of their own.
            model = calibrated(alone.ema.module, unmixed, config.data.batch_size)
            accuracy = asdict(evaluate(model, unmixed, "val"))
            yield {"arch": asdict(arch), "epochs": settings.epochs, "seed": alone.seed, **accuracy}


class Alone:
    """The training of one plain model, by the recipe of the supernet's, always with a cosine."""

    def __init__(
        self, config: Config, settings: TrainConfig, arch: Any, place: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.device = device
        self.batch_size = config.data.batch_size
        self.arch = arch
        self.seed = mixed_seed(config.seed, config.rank.seed, place)
        # The initial weights of its own supernet: each family's own, and no one else's.
        self.model = make_supernet(replace(config, seed=self.seed)).extract(arch).to(device)
        self.optimizer = make_optimizer(settings, self.model)
        self.ema = ModelEmaV3(self.model, decay=settings.ema_decay, use_warmup=True)
        self.bf16 = uses_bf16(settings.precision, device)

    def train(self, data: ImageData, bar: Bar, stop: Sequence[int]) -> None:
        """Each image once an epoch; raises Stopped between steps as soon as `stop` has a signal."""
        steps_per_epoch = data.num_train // self.batch_size
        scheduler = make_scheduler(self.settings, self.optimizer, steps_per_epoch)
        generator = torch.Generator().manual_seed(self.seed)
        step = 0
        self.model.train()
        for epoch in range(self.settings.epochs):
            indices = torch.randperm(data.num_train, generator=generator)
            seed = mixed_seed(self.seed, epoch)
            for batch in data.train_batches(indices, batch_size=self.batch_size, seed=seed):
                loss = self.backward(batch.images, batch.targets, step)
                scheduler.step_update(step)
                self.optimizer.step()
                step += 1
                self.ema.update(self.model, step=step)
                bar.advance(loss=loss)
                if stop:
                    raise Stopped(stop[0])

    def backward(self, images: torch.Tensor, targets: torch.Tensor, step: int) -> float:
        """The loss of a batch, whose clipped gradients are left in the model."""
        # Mixup smooths its soft targets itself.
        smoothing = 0.0 if targets.is_floating_point() else self.settings.label_smoothing
        self.optimizer.zero_grad()
        with autocast(self.device, enabled=self.bf16):
            logits = self.model(images)
        loss = cross_entropy(logits, targets, smoothing).mean()
        loss.backward()
        largest = self.settings.clip_grad or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest)
        figures = torch.stack([loss.detach(), norm]).tolist()  # the step's one wait
        for name, value in zip(("loss", "gradient norm"), figures, strict=True):
            if not is_finite(value):
                raise Diverged(f"{name} is {value} at step {step} of {self.arch} trained alone")
        return float(figures[0])
