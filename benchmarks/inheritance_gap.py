"""Where the accuracy goes between a subnet trained alone and the same one with inherited weights.

Six subnets, the largest and the smallest are trained alone once; then a supernet for each variant
of the training gives them their weights, after as many batches. The gap is val top-1 (2,000 images)
inherited less alone, in points, the mean over the six; tau is Kendall's, of the eight. What was
trained is kept in the work folder, and not trained again.
Data: cluttered_digits (12,000 training images of 24x24 pixels, the space digits in patches of 4:
half an hour on one core for three variants), or cifar10 (18,000 of 32x32, the space vit_small in
patches of 4: two hours). Minutes are of one thread's CPU time.
Command: python benchmarks/inheritance_gap.py --variants together shared labels. Last line: JSON.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, cast

import torch
from scipy.stats import kendalltau

from benchmarks.cifar10 import PACKED, SETTINGS, unpack
from benchmarks.kept import kept
from nas.config.config import Config, parse
from nas.config.run_folder import compose_config, merge_overrides
from nas.data.batches import Dataset, load
from nas.evaluate import evaluate
from nas.train.training import Training
from nas.train.weights import new_supernet
from search_spaces.space import Arch, Space, to_record
from supernet.losses import Labels
from supernet.sampling.paths import SinglePath

NUM_SUBNETS, SUBNET_SEED = 6, 7
CPU = torch.device("cpu")
COMMON = (
    "data.loader=resident",
    "data.workers=0",
    "train.epochs=8",
    "train.warmup_epochs=1",
    "train.precision=fp32",
    "distillation=in_place",
)
DATA = {
    "cluttered_digits": ("data=cluttered_digits", "space.patch_size=4", "train.lr=2e-3"),
    "cifar10": (*SETTINGS, "space.patch_size=4"),
}
TOGETHER = ("train.update=step", "train.batches=shared")  # as it was at first
SHARED = ("train.batches=shared",)
LABELS = ("distillation=none",)
VARIANTS: dict[str, tuple[str, ...]] = {
    "together": TOGETHER,
    "together_own_weights": (*TOGETHER, "source=own"),
    "together_labels": (*TOGETHER, *LABELS),
    # Adam sees no scale of a gradient, only the clipping does: the paths' sum, clipped at 1
    "together_sum": (*TOGETHER, "train.clip_grad=0.25"),
    "together_lr_half": (*TOGETHER, "train.lr=@0.5"),
    "together_lr_2": (*TOGETHER, "train.lr=@2"),
    "together_lr_4": (*TOGETHER, "train.lr=@4"),
    "together_ema_0.999": (*TOGETHER, "train.ema_decay=0.999"),
    "together_epochs_2": (*TOGETHER, "train.epochs=16"),
    "single": ("paths=uniform", *LABELS),
    "shared": SHARED,
    "shared_labels": (*SHARED, *LABELS),
    "shared_largest_first": (*SHARED, "paths.largest_first=0.25"),
    "default": (),
    "labels": LABELS,
    "labels_together": (*LABELS, "train.update=step"),
    "labels_largest_first": (*LABELS, "paths.largest_first=0.25"),
    "labels_own_weights": (*LABELS, "source=own"),
    "labels_fewer_options": (*LABELS, "space.rank=[8]", "space.num_atoms=[3]"),
    "labels_lr_half": (*LABELS, "train.lr=@0.5"),
    "labels_lr_2": (*LABELS, "train.lr=@2"),
    "labels_unclipped": (*LABELS, "train.clip_grad=0"),
    "labels_ema_0.999": (*LABELS, "train.ema_decay=0.999"),
    "labels_random_1": (*LABELS, "paths.num_random=1"),
    "labels_epochs_2": (*LABELS, "train.epochs=16"),
    "labels_epochs_4": (*LABELS, "train.epochs=32"),
}


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    work = options.work / f"{options.data}_{options.seed}"
    work.mkdir(parents=True, exist_ok=True)
    common = [*DATA[options.data], *COMMON, f"seed={options.seed}"]
    if options.data == "cifar10":
        common.append(f"data.root={unpack(options.cifar10, options.work / 'cifar10', 2000)}")
    config = parse(compose_config(common))
    data = load(config.data, config.task, seed=config.seed, device=CPU)
    archs = subnets(config.space)
    alone = {
        name: kept(work / f"alone_{name}.json", partial(train_alone, config, data, arch))
        for name, arch in archs.items()
    }
    print("alone", {name: round(one["top1"], 4) for name, one in alone.items()}, flush=True)
    found = {}
    for variant in options.variants:
        own = [times(config.train.lr, override) for override in VARIANTS[variant]]
        train = partial(train_all, parse(compose_config(merge_overrides(common, own))), data, archs)
        found[variant] = gaps(alone, kept(work / f"supernet_{variant}.json", train))
        print(variant, json.dumps(found[variant]), flush=True)
    print(json.dumps(found))


def times(lr: float, override: str) -> str:
    """An override whose value may be a factor of the learning rate: @2."""
    key, at, factor = override.partition("@")
    return f"{key}{lr * float(factor)}" if at else override


def gaps(alone: dict[str, Any], inherited: dict[str, Any]) -> dict[str, float]:
    """In points of top-1, and Kendall's tau of the two orders."""
    ways = [[alone[name]["top1"] for name in alone], [inherited["top1"][name] for name in alone]]
    gap = {name: 100 * (b - a) for name, a, b in zip(alone, *ways, strict=True)}
    return {
        "gap_mean": round(fmean(gap[name] for name in gap if name.isdecimal()), 2),
        "gap_largest": round(gap["largest"], 2),
        "gap_smallest": round(gap["smallest"], 2),
        "tau": round(float(kendalltau(*ways)[0]), 2),
        "minutes": round(inherited["seconds"] / 60, 1),
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--data", choices=list(DATA), default="cluttered_digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cifar10", type=Path, default=PACKED, help="cifar10_jpeg.npz")
    parser.add_argument("--work", type=Path, default=Path("runs/inheritance_gap"))
    return parser.parse_args()


def subnets(space: Space[Arch]) -> dict[str, Arch]:
    """The ends of the space, and some drawn from it, by number."""
    generator = Random(SUBNET_SEED)
    drawn = {str(number): space.sample(generator) for number in range(NUM_SUBNETS)}
    return {"smallest": space.smallest(), "largest": space.largest(), **drawn}


def train_alone(config: Config, data: Dataset, arch: Arch) -> dict[str, float]:
    paths = partial(SinglePath, to_record(arch))
    config = replace(config, paths=paths, distillation=Labels())
    begin = time.process_time()
    training = finish(Training(config, new_supernet(config).extract(arch), data, CPU))
    seconds = time.process_time() - begin
    return {"top1": evaluate(training.ema.module.eval(), data, "val").value, "seconds": seconds}


def train_all(config: Config, data: Dataset, archs: dict[str, Arch]) -> dict[str, Any]:
    begin = time.process_time()
    training = finish(Training(config, new_supernet(config), data, CPU))
    seconds = time.process_time() - begin
    plain = {
        name: training.ema.module.extract(known_to(config, arch)) for name, arch in archs.items()
    }
    return {
        "top1": {name: evaluate(model, data, "val").value for name, model in plain.items()},
        "seconds": seconds,
    }


def known_to(config: Config, arch: Arch) -> Arch:
    """The same sizes with the sharing that the space has, else with the most of it."""
    record, choices = to_record(arch), config.space.choices()
    atoms, ranks = choices["num_atoms"], choices["blocks.0.rank"]

    def known(value: object, options: tuple[object, ...]) -> object:
        return value if value in options else options[-1]

    record["num_atoms"] = known(record["num_atoms"], atoms)
    record["rank"] = [known(rank, ranks) for rank in cast(list[int], record["rank"])]
    return config.space.from_record(record)


def finish(training: Training) -> Training:
    while training.step < training.num_steps:
        for batch in training.epoch_batches():
            training.train_step(batch)
    return training


if __name__ == "__main__":
    main()
