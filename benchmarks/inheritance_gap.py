"""Where the accuracy goes between a subnet trained alone and the same one with inherited weights.

CIFAR-10 (18,000 training images, 2,000 val), the ViT space vit_small, batch 64, 8 epochs. Six
subnets, the largest and the smallest are trained alone once; then a supernet for each variant of
the training gives them their weights. The gap is val top-1 alone less inherited, in points, the
mean over the six (one seed: its error over val images is about 0.5 point). Everything that was
trained is kept in the work folder, and not trained again.
Command: python benchmarks/inheritance_gap.py --img-size 16 --variants base path. Last line: JSON.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch

from benchmarks.cifar10 import PACKED, unpack
from nas.config.config import Config, parse
from nas.config.run_folder import compose_config
from nas.data.batches import Dataset, load
from nas.evaluate import evaluate
from nas.files import write_atomic
from nas.train.training import Training
from nas.train.weights import new_supernet
from search_spaces.space import Arch, to_record
from supernet.losses import Labels
from supernet.sampling.paths import SinglePath

NUM_SUBNETS, SUBNET_SEED = 6, 7
COMMON = (
    "experiment=cifar10_small",
    "data=image_folder",
    "data.num_classes=10",
    "data.mean=[0.4914,0.4822,0.4465]",
    "data.std=[0.2470,0.2435,0.2616]",
    "data.loader=resident",
    "data.workers=0",
    "train.lr=1e-3",
    "train.epochs=8",
    "train.warmup_epochs=1",
    "train.precision=fp32",
    "train.update=step",
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "base": (),
    "own": ("source=own",),
    "single": ("paths=uniform", "distillation=none"),
    "labels": ("distillation=none",),
    "teacher_alone": ("distillation.hard_weight=0",),
    "sum": ("train.clip_grad=0.25",),  # Adam sees no scale, only the clipping does
    "no_clip": ("train.clip_grad=0",),
    "lr_0.5": ("train.lr=5e-4",),
    "lr_2": ("train.lr=2e-3",),
    "lr_4": ("train.lr=4e-3",),
    "ema_0.9": ("train.ema_decay=0.9",),
    "ema_0.999": ("train.ema_decay=0.999",),
    "epochs_2": ("train.epochs=16",),
    "epochs_4": ("train.epochs=32",),
    "largest_first": ("paths.largest_first=0.25",),
    "fewer": (
        "space.embed_dim=[64,128]",
        "space.depth=[2,5]",
        "space.num_heads=[2,4]",
        "space.mlp_ratio=[1,4]",
        "space.rank=[0,8]",
        "space.num_atoms=[2,3]",
    ),
    "path": ("train.update=path",),
    "path_labels": ("train.update=path", "distillation=none"),
    "path_own": ("train.update=path", "source=own"),
    "path_lr_2": ("train.update=path", "train.lr=2e-3"),
    "path_largest_first": ("train.update=path", "paths.largest_first=0.25"),
}


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    work = options.work / f"{options.img_size}_{options.seed}"
    work.mkdir(parents=True, exist_ok=True)
    folder = unpack(options.cifar10, options.work / "cifar10", 2000)
    common = (
        *COMMON,
        f"data.root={folder}",
        f"data.img_size={options.img_size}",
        f"data.shift={options.img_size // 8}",
        f"seed={options.seed}",
    )
    config = parse(compose_config(common))
    data = load(config.data, config.task, seed=config.seed, device=torch.device("cpu"))
    archs = subnets(config)
    alone = {
        name: known(work / f"alone_{name}.json", partial(train_alone, config, data, arch))
        for name, arch in archs.items()
    }
    found = {}
    for variant in options.variants:
        own = parse(compose_config([*common, *VARIANTS[variant]]))
        train = partial(train_all, own, data, archs)
        inherited = known(work / f"supernet_{variant}.json", train)
        gaps = {name: 100 * (alone[name]["top1"] - inherited["top1"][name]) for name in alone}
        drawn = [gap for name, gap in gaps.items() if name.isdecimal()]
        found[variant] = {
            "gap_mean": round(fmean(drawn), 2),
            "gap_largest": round(gaps["largest"], 2),
            "gap_smallest": round(gaps["smallest"], 2),
            "minutes": round(inherited["seconds"] / 60, 1),
        }
        print(variant, json.dumps(found[variant]), flush=True)
    print(json.dumps(found))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--img-size", type=int, choices=(16, 32), default=32, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cifar10", type=Path, default=PACKED, help="cifar10_jpeg.npz")
    parser.add_argument("--work", type=Path, default=Path("runs/inheritance_gap"))
    return parser.parse_args()


def subnets(config: Config) -> dict[str, Arch]:
    """Drawn from the space that all variants have, by number, and its ends."""
    small = parse(compose_config([*COMMON, *VARIANTS["fewer"], "data.root=none"])).space
    generator = Random(SUBNET_SEED)
    drawn = [small.sample(generator) for _ in range(NUM_SUBNETS)]
    space = config.space
    named = {"smallest": space.smallest(), "largest": space.largest()}
    return named | {str(number): arch for number, arch in enumerate(drawn)}


def known(path: Path, make: Any) -> dict[str, Any]:
    """What a file holds, made and written where there is none."""
    if not path.exists():
        write_atomic(path, json.dumps(make()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def train_alone(config: Config, data: Dataset, arch: Arch) -> dict[str, float]:
    paths = partial(SinglePath, to_record(arch))
    config = replace(config, paths=paths, distillation=Labels())
    begin = time.monotonic()
    training = finish(Training(config, new_supernet(config).extract(arch), data, cpu()))
    seconds = time.monotonic() - begin
    return {"top1": evaluate(training.ema.module.eval(), data, "val").value, "seconds": seconds}


def train_all(config: Config, data: Dataset, archs: dict[str, Arch]) -> dict[str, Any]:
    begin = time.monotonic()
    training = finish(Training(config, new_supernet(config), data, cpu()))
    seconds = time.monotonic() - begin
    plain = {
        name: training.ema.module.extract(known_to(config, arch)) for name, arch in archs.items()
    }
    return {
        "top1": {name: evaluate(model, data, "val").value for name, model in plain.items()},
        "seconds": seconds,
    }


def known_to(config: Config, arch: Arch) -> Arch:
    """The same sizes with the sharing that the space has; source=own has no atoms and no rank."""
    record = to_record(arch)
    if max(config.space.choices()["num_atoms"]) == 0:
        record |= {"num_atoms": 0, "rank": [0] * len(record["rank"])}  # type: ignore[arg-type]
    return config.space.from_record(record)


def finish(training: Training) -> Training:
    while training.step < training.num_steps:
        for batch in training.epoch_batches():
            training.train_step(batch)
    return training


def cpu() -> torch.device:
    return torch.device("cpu")


if __name__ == "__main__":
    main()
