"""Ground truth made here: subnets trained alone from scratch, one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from json import dumps
from pathlib import Path
from random import Random

import torch
from rich.console import Console

from nas.checks import check
from nas.config.config import Config
from nas.config.run_folder import FREE_KEYS
from nas.data.batches import Dataset
from nas.evaluate import calibrated, evaluate
from nas.exits import Stopped, stop_signals
from nas.rank.findings import Findings
from nas.rank.ground_truth import GroundTruth, worth_in_words
from nas.records import Score
from nas.seeds import mixed_seed
from nas.tracking import Bar, progress
from nas.train.training import Training
from nas.train.weights import new_supernet
from search_spaces.space import Arch, to_record
from supernet.losses import Labels
from supernet.sampling.examples import UniformData
from supernet.sampling.paths import SinglePath

# Settings that only the training of a supernet reads.
UNUSED = (
    "train.update",
    "train.batches",
    "train.eval_every",
    "train.probes",
    "train.snapshots",
    "train.variance_draws",
)


def train_standalone(
    config: Config, run: Path, console: Console, data: Dataset, device: torch.device
) -> GroundTruth:
    """Trains `rank.standalone` architectures, but for those in run/standalone.jsonl.

    Each is scored on val. Raises Stopped after SIGINT or SIGTERM, and Diverged for a loss that is
    not finite; what was trained before stays.
    """
    config = standalone_config(config)
    archs, epochs = draw_archs(config), config.train.epochs
    known = Findings(run / "standalone.jsonl", conditions(config), Score, config.space)
    missing = {place: arch for place, arch in enumerate(archs) if arch not in known.known}
    if missing:
        steps = len(missing) * epochs * (data.num_train // config.data.batch_size)
        with stop_signals() as stop, progress(console, "standalone", total=steps) as bar:
            for place, arch in missing.items():
                training = begin_alone(config, arch, place, data, device)
                finish(training, bar, stop)
                # The averaged weights, whose batch norms have no statistics of their own.
                model = calibrated(training.ema.module, data, config.data.batch_size)
                known.add(arch, evaluate(model, data, "val"))
    scores = tuple(known.known[arch].worth for arch in archs)
    metric = data.task.metric
    source = f"{worth_in_words(metric)} of subnets trained alone for {epochs} epochs"
    return GroundTruth(source, tuple(archs), scores, metric.is_fraction)


def standalone_config(config: Config) -> Config:
    """The supernet's recipe for a network that learns from the targets alone."""
    epochs = config.rank.standalone_epochs or config.train.epochs
    warmup = config.train.warmup_epochs
    rule = f"more than train.warmup_epochs ({warmup})"
    check("rank.standalone_epochs", epochs > warmup, rule, epochs)
    train = replace(config.train, epochs=epochs)
    return replace(config, train=train, examples=UniformData, distillation=Labels())


def draw_archs(config: Config) -> list[Arch]:
    """Distinct architectures; a larger number begins with those of a smaller one."""
    count, space = config.rank.standalone, config.space
    rule = f"at most the {space.num_archs()} architectures of the space"
    check("rank.standalone", count <= space.num_archs(), rule, count)
    generator = Random(config.rank.seed)
    archs: dict[Arch, None] = {}
    while len(archs) < count:
        archs[space.sample(generator)] = None
    return list(archs)


def conditions(config: Config) -> Mapping[str, object]:
    """What decides the result of training an architecture alone, as a short hash."""
    sections = {"data": asdict(config.data), "train": asdict(config.train)}
    facts: dict[str, object] = {
        f"{section}.{name}": value
        for section, values in sections.items()
        for name, value in values.items()
        if f"{section}.{name}" not in (*FREE_KEYS, *UNUSED)
    }
    facts |= {"seed": config.seed, "rank.seed": config.rank.seed, "task": repr(config.task)}
    facts["model"] = repr(config.supernet.sizes(config.space, config.task))
    digest = sha256(dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return {"digest": digest, "epochs": config.train.epochs}


def begin_alone(
    config: Config, arch: Arch, place: int, data: Dataset, device: torch.device
) -> Training:
    """Of an architecture, with a seed of its place among those drawn."""
    seed = mixed_seed(config.seed, config.rank.seed, place)
    config = replace(config, seed=seed, paths=partial(SinglePath, to_record(arch)))
    # The initial weights of its own supernet: each family's own, and no one else's.
    return Training(config, new_supernet(config).extract(arch), data, device)


def finish(training: Training, bar: Bar, stop: Sequence[int]) -> None:
    """Raises Stopped between steps as soon as `stop` has a signal."""
    while training.step < training.num_steps:
        for batch in training.epoch_batches():
            bar.advance(loss=training.train_step(batch)["loss"])
            if stop:
                raise Stopped(stop[0])
