"""Is a subnet of a supernet as good as the same network alone, and better than what else one does?

CIFAR-10 (18,000 training images, 2,000 val, 4,000 test of 32x32), experiment=cifar10_small. A
supernet is trained, searched for half of the largest's latency, and the subnet found is fine-tuned
for a tenth of the steps. Beside it, with the same recipe: five subnets and seven more trained alone
for as many steps as the supernet; the plain ViT scaled uniformly to the same latency; and NVIDIA's
FastNAS (the largest trained, its MLPs pruned to the same latency, fine-tuned) in as many minutes
altogether as the supernet, its search and its fine-tuning took. Gaps are inherited less alone.
Choices are made on val, all scores are of test. All run on one thread, and minutes are of its CPU
time, so that seeds can run side by side. What was trained is kept in the work folder and not
trained again; what was killed begins anew.
FastNAS needs its package, in a folder of its own since it pins others (leave it out: --no-fastnas):
    pip install --no-deps --target modelopt nvidia-modelopt==0.47.0 pulp regex torchprofile==0.0.4
Command: PYTHONPATH=.:modelopt python benchmarks/inherited.py --seeds 0. Last line: JSON.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, cast

import torch
from scipy.stats import kendalltau
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from benchmarks.alone import CPU, Bench, train
from benchmarks.cifar10 import PACKED, SETTINGS, unpack
from benchmarks.fastnas import fastnas_of
from benchmarks.kept import kept
from nas.config.config import Config
from nas.config.run_folder import open_run
from nas.data.batches import load
from nas.train.weights import load_supernet, new_supernet
from search_spaces.space import Arch
from search_spaces.vit import ViTSpace
from supernet.supernet import Supernet

NUM_RANKED, SUBNET_SEED = 12, 7


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    folder = unpack(options.cifar10, options.work / "cifar10", 2000)
    found = [one_seed(options, folder, seed) for seed in options.seeds]
    means = {key: round(fmean(one[key] for one in found), 3) for key in found[0]}
    print(json.dumps(means))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--no-fastnas", action="store_true")
    parser.add_argument("--cifar10", type=Path, default=PACKED, help="cifar10_jpeg.npz")
    parser.add_argument("--work", type=Path, default=Path("runs/inherited"))
    parser.add_argument("settings", nargs="*", help="further options of nas train")
    return parser.parse_args()


def one_seed(options: argparse.Namespace, folder: Path, seed: int) -> dict[str, float]:
    """The figures of one seed, points of test top-1."""
    work = options.work / str(seed)
    work.mkdir(parents=True, exist_ok=True)
    run, minutes = pipeline(options, folder, seed, work)
    config, _ = open_run([f"run={run}"], create=False)
    data = load(config.data, config.task, seed=config.seed, device=CPU)
    batch = next(iter(data.eval_batches("val", config.target.batch_size))).inputs[0]
    bench = Bench(config, data, work, batch)
    supernet, _ = load_supernet(config, run, print)
    named = subnets(config, json.loads((run / "search.json").read_text()))
    rows = compare(bench, supernet, named)
    largest = supernet.extract(named["largest"])
    ratio = bench.latency(supernet.extract(named["chosen"]), largest)
    uniform = kept(work / "uniform.json", partial(uniform_of, bench, ratio, largest))
    finetuned, _ = load_supernet(config, run / "finetuned", print)
    tuned = bench.score(finetuned.extract(named["chosen"]))
    found = figures(rows, list(named), uniform["test"], tuned)
    found |= {"latency": ratio, "uniform_latency": uniform["latency"], "minutes": minutes}
    if not options.no_fastnas:
        make = partial(fastnas_of, bench, ratio, minutes, largest)
        pruned = kept(work / "fastnas.json", make)
        found["finetuned_minus_fastnas"] = 100 * (tuned - pruned["test"])
        found |= {f"fastnas_{key}": pruned[key] for key in ("latency", "minutes")}
    print(seed, json.dumps(found), flush=True)
    return found


def pipeline(
    options: argparse.Namespace, folder: Path, seed: int, work: Path
) -> tuple[Path, float]:
    """The run folder of the supernet, and the CPU minutes of its three commands together."""
    run = work / "supernet"
    threads = [f"{key}.threads=1" for key in ("train", "target")]
    settings = [*SETTINGS, f"data.root={folder}", *threads, f"seed={seed}", *options.settings]
    stages = {"train": settings, "search": [], "finetune": []}
    minutes = {
        stage: kept(work / f"{stage}.json", partial(timed, stage, run, own))
        for stage, own in stages.items()
    }
    print(seed, "minutes", json.dumps(minutes), flush=True)
    return run, sum(minutes.values())


def subnets(config: Config, answer: dict[str, Any]) -> dict[str, Arch]:
    """The five that the gap is of."""
    chosen = config.space.from_record(answer["chosen"]["arch"])
    return {
        "smallest": config.space.smallest(),
        "median": median(config, answer),
        "largest": config.space.largest(),
        "chosen": chosen,
        "second": second(config, answer, chosen),
    }


def compare(
    bench: Bench, supernet: Supernet[Arch], named: dict[str, Arch]
) -> dict[str, dict[str, float]]:
    """Scores inherited and alone, and minutes alone, of these and of others drawn at random."""
    generator, space, rows = Random(SUBNET_SEED), bench.config.space, {}
    drawn = {f"drawn_{i}": space.sample(generator) for i in range(NUM_RANKED - len(named))}
    for name, arch in {**named, **drawn}.items():
        inherited = bench.score(supernet.extract(arch))
        alone = kept(bench.work / f"alone_{name}.json", partial(alone_of, bench, arch))
        rows[name] = {"inherited": inherited, **alone}
        print(name, json.dumps(rows[name]), flush=True)
    return rows


def figures(
    rows: dict[str, dict[str, float]], named: list[str], uniform: float, tuned: float
) -> dict[str, float]:
    gaps = {name: 100 * (row["inherited"] - row["alone"]) for name, row in rows.items()}
    ways = ([row[way] for row in rows.values()] for way in ("inherited", "alone"))
    return {
        "gap_mean": fmean(gaps[name] for name in named),
        "gap_largest": gaps["largest"],
        "searched_minus_uniform": 100 * (rows["chosen"]["inherited"] - uniform),
        "finetuned_minus_uniform": 100 * (tuned - uniform),
        "tau": float(kendalltau(*ways)[0]),
        "minutes_of_five_alone": sum(rows[name]["minutes"] for name in named),
    }


def timed(stage: str, run: Path, settings: list[str]) -> float:
    """CPU minutes of a command."""
    if stage == "train":
        shutil.rmtree(run, ignore_errors=True)
    begin = of_children()
    command = [sys.executable, "-m", "nas", stage, f"run={run}", *settings]
    with (run.parent / f"{stage}.log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)
    return (of_children() - begin) / 60


def of_children() -> float:
    """CPU seconds of all ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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
    begin = time.process_time()
    trained = train(bench, model, bench.config.train.epochs)
    return {"alone": bench.score(trained), "minutes": (time.process_time() - begin) / 60}


def uniform_of(bench: Bench, ratio: float, largest: nn.Module) -> dict[str, float]:
    """The plain ViT whose width and depth shrink together, the slowest within the latency."""
    space = cast(ViTSpace, bench.config.space)
    width, depth = max(space.embed_dim), max(space.depth)
    sizes = [(w, d) for w in range(32, width + 1, 32) for d in range(1, depth + 1)]
    # Scaled as one would: the depth falls with the width.
    even = [size for size in sizes if abs(size[0] / width - size[1] / depth) <= 0.25]
    times = {size: bench.latency(vit(bench, *size), largest) for size in even}
    size = max((s for s in even if times[s] <= ratio * 1.02), key=times.__getitem__)
    begin = time.process_time()
    model = train(bench, vit(bench, *size), bench.config.train.epochs)
    return {
        "width": size[0],
        "depth": size[1],
        "latency": times[size],
        "test": bench.score(model),
        "minutes": (time.process_time() - begin) / 60,
    }


def vit(bench: Bench, width: int, depth: int) -> VisionTransformer:
    space = cast(ViTSpace, bench.config.space)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.config.seed)
        return VisionTransformer(
            img_size=32,
            patch_size=space.patch_size,
            num_classes=10,
            embed_dim=width,
            depth=depth,
            num_heads=width // space.head_dim,
            class_token=False,
            global_pool="avg",
            weight_init="jax",
        )


if __name__ == "__main__":
    main()
