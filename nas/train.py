"""Stage 1: train the supernet. Writes checkpoint.pt and metrics.jsonl into the run folder."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, cast

from omegaconf import OmegaConf
from rich.console import Console

from nas.checkpoint import load_checkpoint, save_checkpoint, save_snapshot
from nas.config import Config
from nas.data import ImageData, load
from nas.device import training_device
from nas.evaluate import calibrated, evaluate
from nas.files import locked
from nas.gradient_variance import log_variance
from nas.optimization import is_finite
from nas.outcomes import Diverged, Stopped
from nas.signals import stop_signals
from nas.tracking import Tracker
from nas.training import Training


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
                    figures |= training.figures()
                    tracker.log("train", step, epoch=epoch, **figures, images_per_s=rate)
                    logged_step, logged_at = step, now
                if step % training.steps_per_epoch == 0:
                    evaluate_probes(training, data, tracker)
                    save_last_epochs(training, run)
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
        plain = training.ema.module.extract(arch).to(training.device)
        accuracy = evaluate(calibrated(plain, data, config.data.batch_size), data, "val")
        if not is_finite(accuracy.loss):
            raise Diverged(
                f"val loss is {accuracy.loss} at step {training.step} for the {name} {arch} "
                "with averaged weights"
            )
        tracker.log("eval", training.step, epoch=epoch, probe=name, **asdict(accuracy))
        found.append(f"{name} {accuracy.top1:.4f}")
    if config.train.variance_draws:
        variances = log_variance(training, data, config.train.variance_draws)
        tracker.log("variance", training.step, epoch=epoch, **variances)
    tracker.say(f"epoch {epoch}: val top-1 of {accuracy.num_examples} images: {', '.join(found)}")


def save_last_epochs(training: Training, run: Path) -> None:
    """Keeps the weights at the end of each of the last train.snapshots epochs, for nas rank."""
    left = (training.num_steps - training.step) // training.steps_per_epoch
    if left < training.config.train.snapshots:
        weights = {
            "step": training.step,
            "ema": training.ema.module.state_dict(),
            "supernet": training.supernet.state_dict(),
        }
        save_snapshot(run, weights)


def check_batches(config: Config, num_train: int) -> None:
    size = config.data.batch_size
    if num_train < size:
        raise ValueError(f"data.batch_size must be at most the {num_train} images, got {size}")


def loggable(run: Path) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(run / "config.yaml")))
