"""Is a subnet of a supernet as good as the same network alone, and better than what else one does?

CIFAR-10 (18,000 training images, 2,000 val, 2,000 test of 32x32), experiment=cifar10_small. A
supernet is trained, searched for half of the largest's latency, and the subnet found is fine-tuned
for a tenth of the steps. Beside it, with the same recipe: five subnets and seven more trained alone
for as many steps as the supernet; the plain ViT scaled uniformly to the same latency; and NVIDIA's
FastNAS (the largest trained, its MLPs pruned to the same latency, fine-tuned) in as many minutes
altogether as the supernet, its search and its fine-tuning took. Choices are made on val, all scores
are of test. What was trained is kept in the work folder and not trained again; what was killed
begins anew.
FastNAS needs its package, in a folder of its own since it pins others (leave it out: --no-fastnas):
    pip install --no-deps --target modelopt nvidia-modelopt==0.47.0 pulp regex torchprofile==0.0.4
Command: PYTHONPATH=.:modelopt python benchmarks/inherited.py --seeds 0. Last line: JSON.
"""

import argparse
import contextlib
import copy
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from scipy.stats import kendalltau
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from benchmarks.cifar10 import PACKED, unpack
from nas.config.config import Config
from nas.config.run_folder import open_run
from nas.data.batches import Dataset, Split, load
from nas.evaluate import evaluate
from nas.files import write_atomic
from nas.hardware.timing import Effort, summarise, time_until_precise
from nas.train.training import Training
from nas.train.weights import load_supernet, new_supernet
from search_spaces.space import Arch, to_record
from supernet.losses import Labels
from supernet.sampling.paths import SinglePath

NUM_RANKED, SUBNET_SEED = 12, 7
CPU = torch.device("cpu")
EFFORT = Effort(warmup=3, passes=30, precision=0.01, time_limit_s=15)


@dataclass(frozen=True)
class Bench:
    """What one seed's comparison needs."""

    config: Config
    data: Dataset
    work: Path
    batch: torch.Tensor

    def latency(self, model: nn.Module, largest: nn.Module) -> float:
        """Of a batch, over the largest's."""
        calls = [partial(one.eval(), self.batch) for one in (model, largest)]
        with torch.inference_mode():
            rounds = time_until_precise(calls, EFFORT, device=CPU)
        return summarise(rounds.of(0), rounds.of(1)).ratio

    def score(self, model: nn.Module, split: Split = "test") -> float:
        return evaluate(model.eval(), self.data, split).value


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    folder = unpack(options.cifar10, options.work / "cifar10", 2000)
    found = [one_seed(options, folder, seed) for seed in options.seeds]
    means = {key: round(fmean(one[key] for one in found), 3) for key in found[0]}
    print(json.dumps(means))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-fastnas", action="store_true")
    parser.add_argument("--cifar10", type=Path, default=PACKED, help="cifar10_jpeg.npz")
    parser.add_argument("--work", type=Path, default=Path("runs/inherited"))
    parser.add_argument("settings", nargs="*", help="further options of nas train")
    return parser.parse_args()


def one_seed(options: argparse.Namespace, folder: Path, seed: int) -> dict[str, float]:
    work = options.work / str(seed)
    run = work / "supernet"
    work.mkdir(parents=True, exist_ok=True)
    settings = [
        "experiment=cifar10_small",
        "data=image_folder",
        f"data.root={folder}",
        "data.num_classes=10",
        "data.img_size=32",
        "data.mean=[0.4914,0.4822,0.4465]",
        "data.std=[0.2470,0.2435,0.2616]",
        "data.loader=resident",
        "data.workers=0",
        "data.shift=4",
        "data.mixup=0",
        "data.cutmix=0",
        f"train.threads={options.threads}",
        f"target.threads={options.threads}",
        f"seed={seed}",
        *options.settings,
    ]
    minutes = {
        "train": known(work / "train.json", partial(timed, "train", run, settings)),
        "search": known(work / "search.json", partial(timed, "search", run, [])),
        "finetune": known(work / "finetune.json", partial(timed, "finetune", run, [])),
    }
    total = sum(minutes.values())
    config, _ = open_run([f"run={run}"], create=False)
    data = load(config.data, config.task, seed=config.seed, device=CPU)
    batch = next(iter(data.eval_batches("val", config.target.batch_size))).inputs[0]
    bench = Bench(config, data, work, batch)
    supernet, _ = load_supernet(config, run, print)
    answer = json.loads((run / "search.json").read_text())
    chosen = config.space.from_record(answer["chosen"]["arch"])
    archs = {
        "smallest": config.space.smallest(),
        "median": median(config, answer),
        "largest": config.space.largest(),
        "chosen": chosen,
        "second": second(config, answer, chosen),
    }
    generator = Random(SUBNET_SEED)
    drawn = {f"drawn_{i}": config.space.sample(generator) for i in range(NUM_RANKED - len(archs))}
    rows = {}
    for name, arch in {**archs, **drawn}.items():
        inherited = bench.score(supernet.extract(arch))
        alone = known(work / f"alone_{name}.json", partial(alone_of, bench, arch))
        rows[name] = {"inherited": inherited, **alone}
        print(seed, name, json.dumps(rows[name]), flush=True)
    largest = supernet.extract(archs["largest"])
    ratio = bench.latency(supernet.extract(chosen), largest)
    uniform = known(work / "uniform.json", partial(uniform_of, bench, ratio, largest))
    finetuned, _ = load_supernet(config, run / "finetuned", print)
    tuned = bench.score(finetuned.extract(chosen))
    gaps = {name: 100 * (row["alone"] - row["inherited"]) for name, row in rows.items()}
    found = {
        "gap_mean": fmean(gaps[name] for name in archs),
        "gap_largest": gaps["largest"],
        "searched_minus_uniform": 100 * (rows["chosen"]["inherited"] - uniform["test"]),
        "finetuned_minus_uniform": 100 * (tuned - uniform["test"]),
        "tau": float(
            kendalltau(*([row[way] for row in rows.values()] for way in ("inherited", "alone")))[0]
        ),
        "latency": ratio,
        "uniform_latency": uniform["latency"],
        "minutes": total,
        "minutes_of_five_alone": sum(rows[name]["minutes"] for name in archs),
    }
    if not options.no_fastnas:
        make = partial(fastnas_of, bench, ratio, total, largest)
        pruned = known(work / "fastnas.json", make)
        found |= {
            "finetuned_minus_fastnas": 100 * (tuned - pruned["test"]),
            "fastnas_latency": pruned["latency"],
            "fastnas_minutes": pruned["minutes"],
        }
    print(seed, "minutes", json.dumps(minutes), "uniform", json.dumps(uniform), flush=True)
    return found


def timed(stage: str, run: Path, settings: list[str]) -> float:
    """Minutes of a command, as a user waits for it."""
    if stage == "train":
        shutil.rmtree(run, ignore_errors=True)
    begin = time.monotonic()
    command = [sys.executable, "-m", "nas", stage, f"run={run}", *settings]
    with (run.parent / f"{stage}.log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)
    return (time.monotonic() - begin) / 60


def known(path: Path, make: Callable[[], Any]) -> Any:
    """What a file holds, made and written where there is none."""
    if not path.exists():
        write_atomic(path, json.dumps(make()))
    return json.loads(path.read_text())


def median(config: Config, answer: dict[str, Any]) -> Arch:
    """The judged subnet in the middle by latency."""
    judged = sorted(answer["candidates"], key=lambda one: one["costs"]["measurement"]["ratio"])
    return config.space.from_record(judged[len(judged) // 2]["arch"])


def second(config: Config, answer: dict[str, Any], chosen: Arch) -> Arch:
    """The finalist after the chosen one."""
    found = [config.space.from_record(one["arch"]) for one in answer["finalists"]]
    return next(arch for arch in found if arch != chosen)


def alone_of(bench: Bench, arch: Arch) -> dict[str, float]:
    """The same network trained alone, in eval mode after as many steps as the supernet."""
    model = new_supernet(bench.config).extract(arch)
    begin = time.monotonic()
    trained = train(bench, model, bench.config.train.epochs)
    return {"alone": bench.score(trained), "minutes": (time.monotonic() - begin) / 60}


def train(bench: Bench, model: nn.Module, epochs: int, lr: float = 0.0) -> nn.Module:
    """The averaged weights of a plain model after the recipe of the supernet."""
    settings = bench.config.train
    warmup = settings.warmup_epochs * epochs // settings.epochs
    own = replace(settings, epochs=epochs, lr=lr or settings.lr, warmup_epochs=warmup)
    record = to_record(bench.config.space.largest())  # of no effect: a plain model has one path
    config = replace(
        bench.config, train=own, paths=partial(SinglePath, record), distillation=Labels()
    )
    training = Training(config, model, bench.data, CPU)
    while training.step < training.num_steps:
        for batch in training.epoch_batches():
            training.train_step(batch)
    return training.ema.module


def uniform_of(bench: Bench, ratio: float, largest: nn.Module) -> dict[str, float]:
    """The plain ViT whose width and depth shrink together, the slowest within the latency."""
    sizes = [(width, depth) for width in range(32, 129, 32) for depth in range(1, 6)]
    times = {size: bench.latency(vit(bench, *size), largest) for size in sizes}
    # Scaled as one would: the depth falls with the width.
    even = [size for size in sizes if abs(size[0] / 128 - size[1] / 5) <= 0.25]
    size = max((s for s in even if times[s] <= ratio * 1.02), key=times.__getitem__)
    begin = time.monotonic()
    model = train(bench, vit(bench, *size), bench.config.train.epochs)
    return {
        "width": size[0],
        "depth": size[1],
        "latency": times[size],
        "test": bench.score(model),
        "minutes": (time.monotonic() - begin) / 60,
    }


def vit(bench: Bench, width: int, depth: int) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.config.seed)
        return VisionTransformer(
            img_size=32,
            patch_size=4,
            num_classes=10,
            embed_dim=width,
            depth=depth,
            num_heads=width // 32,
            class_token=False,
            global_pool="avg",
            weight_init="jax",
        )


def fastnas_of(bench: Bench, ratio: float, minutes: float, largest: nn.Module) -> dict[str, float]:
    """The largest trained for two thirds of the time, pruned, and fine-tuned for the rest.

    FastNAS cannot be told a latency here: it is told the FLOPs with which it just keeps the one.
    Attempts with others are not charged to it, and what it found of each width is kept for all.
    """
    import modelopt.torch.prune as mtp  # type: ignore[import-not-found]

    begin = time.monotonic()
    epoch = bench.data.num_train // bench.config.data.batch_size
    pace = seconds_a_step(bench) * epoch / 60  # minutes an epoch
    model = new_supernet(bench.config).extract(bench.config.space.largest())
    trained = train(bench, model, max(1, round(minutes * 2 / 3 / pace)))
    loader = [b.inputs[0] for b in bench.data.eval_batches("val", 500)][:2]
    spent = (time.monotonic() - begin) / 60

    def prune(share: int) -> nn.Module:
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            pruned, _ = mtp.prune(
                copy.deepcopy(trained),
                mode="fastnas",
                constraints={"flops": f"{share}%"},
                dummy_input=bench.batch[:1],
                config={
                    "data_loader": loader,
                    "score_func": partial(bench.score, split="val"),
                    "checkpoint": str(bench.work / "fastnas.pth"),
                },
            )
        return pruned

    begin = time.monotonic()
    pruned = prune(round(100 * ratio))
    spent += (time.monotonic() - begin) / 60
    for share in range(round(100 * ratio) - 3, 35, -3):  # attention, which it keeps, is a third
        if bench.latency(pruned, largest) <= ratio * 1.02:
            break
        pruned = prune(share)
    begin = time.monotonic()
    epochs = max(1, round((minutes - spent) / pace / bench.latency(pruned, largest)))
    tuned = train(bench, pruned, epochs, bench.config.train.lr / 2)
    return {
        "test": bench.score(tuned),
        "before": bench.score(trained),
        "latency": bench.latency(tuned, largest),
        "minutes": spent + (time.monotonic() - begin) / 60,
    }


def seconds_a_step(bench: Bench, steps: int = 20) -> float:
    """Of training the largest alone."""
    model = new_supernet(bench.config).extract(bench.config.space.largest())
    record = to_record(bench.config.space.largest())
    config = replace(bench.config, paths=partial(SinglePath, record), distillation=Labels())
    training = Training(config, model, bench.data, CPU)
    batches = training.epoch_batches()
    training.train_step(next(batches))
    begin = time.monotonic()
    for _ in range(steps):
        training.train_step(next(batches))
    return (time.monotonic() - begin) / steps


if __name__ == "__main__":
    main()
