"""Stage 1: train the supernet. Writes checkpoint.pt and metrics.jsonl into the run folder.

Under torchrun the ranks share each batch. The first one alone evaluates and writes.
"""

import json
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console

from nas.checks import check
from nas.config.config import Config
from nas.config.run_folder import SETTINGS, load_mapping
from nas.data.batches import load
from nas.evaluate import calibrated, evaluate
from nas.exits import Diverged, Stopped, stop_signals
from nas.files import locked, write_atomic
from nas.hardware.device import training_device
from nas.tracking import Tracker, progress
from nas.train.checkpoint import load_checkpoint, save_checkpoint, save_snapshot
from nas.train.distributed import Ranks, process_group
from nas.train.gradient_variance import log_variance
from nas.train.optimization import is_finite
from nas.train.training import Training
from nas.train.weights import check_data, initial_weights, keep_task


def train(config: Config, run: Path, console: Console) -> None:
    """Trains from the last checkpoint, or from the start, to the end.

    Raises Stopped after SIGINT or SIGTERM, and Diverged for a loss that is not finite; the
    checkpoints remain.
    """
    ranks = Ranks.from_environment()
    check_parts(config, ranks)
    device = ranks.device(training_device(config.train))
    lock = locked(run / "train.lock", blocking=False) if ranks.is_first else nullcontext(True)
    with process_group(ranks, device), lock as alone:
        if ranks.largest(not alone):
            raise ValueError(f"run must not be in training already, got {run}")
        console = console if ranks.is_first else Console(quiet=True)
        go_on(prepare(config, run, console, device, ranks), run, console)


def go_on(training: Training, run: Path, console: Console) -> None:
    """Trains to the end."""
    config, settings, ranks = training.config, training.config.train, training.ranks
    if training.step == training.num_steps:
        console.print(f"training is finished: all {training.num_steps} steps were done before")
        return
    with (
        start_tracker(config, run, training, console) as tracker,
        stop_signals() as stop,
        progress(console, "train", total=training.num_steps, done=training.step) as bar,
    ):
        if tracker and config.train.init and training.step == 0:
            evaluate_probes(training, tracker, 0)  # what was inherited
        logged_step, logged_at = training.step, perf_counter()
        while training.step < training.num_steps:
            for batch in training.epoch_batches():
                figures = training.train_step(batch)
                step, epoch = training.step, training.step / training.steps_per_epoch
                bar.advance(loss=figures["loss"])
                if tracker and step % settings.log_every == 0:
                    # One counts once, however many subnets see it; all other work counts too.
                    now = perf_counter()
                    rate = (step - logged_step) * config.data.batch_size / (now - logged_at)
                    figures |= training.figures()
                    tracker.log("train", step, epoch=epoch, **figures, examples_per_s=rate)
                    logged_step, logged_at = step, now
                if tracker and step % training.steps_per_epoch == 0:
                    end_epoch(training, tracker)
                    save_last_epochs(training, run)
                # Read once, so that no signal stops what is not saved.
                signum = ranks.largest(stop[0] if stop else 0)
                due = step % settings.checkpoint_every == 0 or step == training.num_steps
                if tracker and (due or signum):
                    save_checkpoint(run, training.state_dict())
                if signum:
                    ranks.largest(0)  # when one has left, torchrun ends the others, saved or not
                    raise Stopped(signum)


def start_tracker(
    config: Config, run: Path, training: Training, console: Console
) -> AbstractContextManager[Tracker | None]:
    """The first rank's, which alone writes; the others have none."""
    if not training.ranks.is_first:
        return nullcontext()
    return Tracker(
        run,
        wandb_mode=config.wandb.mode,
        project=config.wandb.project,
        settings=load_mapping(run / SETTINGS),
        # Without a checkpoint, what was logged of step 0 comes again as well.
        start_step=training.step or -1,
        console=console,
    )


def prepare(
    config: Config, run: Path, console: Console, device: torch.device, ranks: Ranks
) -> Training:
    """The training as its last checkpoint left it, or at its start."""
    with ranks.first_of_machine():  # which may download the data
        data = load(config.data, config.task, seed=config.seed, device=device)
    size, rule = config.data.batch_size, f"at most the {data.num_train} training examples"
    check("data.batch_size", size <= data.num_train, rule, size)
    say = partial(console.print, markup=False, soft_wrap=True)
    state = load_checkpoint(run, device, say)
    supernet, teacher = initial_weights(config, data, say, is_new=state is None)
    training = Training(config, supernet, data, device, ranks, teacher)
    if state is not None:
        check_data(run, data)
        training.load_state_dict(state)
    elif ranks.is_first:
        keep_task(run, data)
    newest = ranks.largest(training.step)
    rule = f"a folder that all ranks see, with a checkpoint of step {newest}"
    check("run", training.step == newest, rule, f"step {training.step}")
    by = f" by {ranks.world} ranks" if ranks.world > 1 else ""
    console.print(
        f"training on {device}{by} in {'bf16 autocast' if training.bf16 else 'fp32'}, "
        f"{data.num_train} examples, {training.num_steps} steps from step {training.step}"
    )
    return training


def end_epoch(training: Training, tracker: Tracker) -> None:
    """Evaluates every train.eval_every epochs and at the end."""
    epoch = training.step // training.steps_per_epoch
    if epoch % training.config.train.eval_every == 0 or training.step == training.num_steps:
        evaluate_probes(training, tracker, epoch)
        log_sampling(training, tracker, epoch)


def evaluate_probes(training: Training, tracker: Tracker, epoch: int) -> None:
    """Scores the same few subnets on val every time, with the averaged weights."""
    config, data, metric = training.config, training.data, training.data.task.metric
    records = config.train.probes.items()
    probes = {name: config.space.from_record(record) for name, record in records}
    ends = {"smallest": config.space.smallest(), "largest": config.space.largest()}
    probes = ends | probes
    if training.paths.only is not None:  # no other has weights
        probes = {"subnet": training.paths.only}
    found = []
    for name, arch in probes.items():
        plain = training.ema.module.extract(arch).to(training.device)
        score = evaluate(calibrated(plain, data, config.data.batch_size), data, "val")
        if not is_finite(score.loss):
            raise Diverged(
                f"val loss is {score.loss} at step {training.step} for the {name} {arch} "
                "with averaged weights"
            )
        figures = {
            metric.name: score.value,
            "low": score.low,
            "high": score.high,
            "loss": score.loss,
            "split": score.split,
            "num_examples": score.num_examples,
        }
        tracker.log("eval", training.step, epoch=epoch, probe=name, **figures)
        found.append(f"{name} {metric.text(score.value)}")
    count = data.num_examples("val")
    tracker.say(f"epoch {epoch}: val {metric.words} of {count} examples: {', '.join(found)}")


def log_sampling(training: Training, tracker: Tracker, epoch: int) -> None:
    """The variance of the gradient, where it is asked for, and each option's probability."""
    if num_draws := training.config.train.variance_draws:
        variances = log_variance(training, num_draws)
        tracker.log("variance", training.step, epoch=epoch, **variances)
    if probabilities := training.paths.option_probabilities():
        record = {"epoch": epoch, "probabilities": probabilities}
        write_atomic(tracker.path.with_name("paths.json"), json.dumps(record, indent=1))


def save_last_epochs(training: Training, run: Path) -> None:
    """Keeps the weights at the end of each of the last train.snapshots epochs, for nas rank."""
    left = (training.num_steps - training.step) // training.steps_per_epoch
    if left < training.config.train.snapshots:
        weights = {
            "step": training.step,
            "ema": training.ema.module.state_dict(),
            "supernet": training.network.state_dict(),
        }
        save_snapshot(run, weights)


def check_parts(config: Config, ranks: Ranks) -> None:
    """Raises ValueError for a batch that the ranks cannot share, before one waits for another."""
    if ranks.world == 1:
        return
    size, mixes = config.data.batch_size, config.data.mixes
    unit = ranks.world * (2 if mixes else 1)
    even = ", each of whose parts mixup and cutmix need even" if mixes else ""
    rule = f"a multiple of {unit} for {ranks.world} ranks{even}"
    check("data.batch_size", size % unit == 0, rule, size)
