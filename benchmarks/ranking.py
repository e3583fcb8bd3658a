"""Does importance sampling make a supernet rank architectures better?

NAS-Bench-201 supernets on CIFAR-10 images, trained with uniform paths and examples, with PA&DA as
published, and with ours, at equal gradient steps; each with seeds 0, 1 and 2. Kendall's tau-b with
the benchmark's test accuracies over the cells of ranking_cells.txt, drawn at random once (from all
but 500 others, on which the settings were chosen, with another seed), by the val top-1 of the
averaged weights at the end of training. Resumable: what is done in the work folder
is kept.
Command: python benchmarks/ranking.py --size small. Last line: JSON.
"""

import argparse
import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.cifar10 import PACKED, unpack

ROOT = Path(__file__).parents[1]
CELLS = Path(__file__).with_name("ranking_cells.txt")
TABLE = ROOT.parent / "shared" / "data" / "nasbench201" / "accuracy_200_epochs.csv"
METHODS = {
    "uniform": ("paths=uniform", "examples=uniform"),
    "published": ("paths=published", "examples=published"),
    "ours": ("paths=emphasis", "examples=importance"),
}
SEEDS = (0, 1, 2)
SIZES = {
    "small": (
        "space.channels=8",
        "space.num_cells=1",
        "data.img_size=8",
        "data.shift=1",
        "data.batch_size=64",
        "data.val_fraction=0.05",
        "train.lr=0.2",
        "train.precision=fp32",
        "train.epochs=20",
    ),
    "full": ("data.shift=4", "data.val_fraction=0.05"),
}
COMMON = (
    "experiment=nasbench201",
    "data=image_folder",
    "data.num_classes=10",
    "data.img_size=32",
    "data.loader=resident",
    "data.mixup=0",
    "data.cutmix=0",
    "train.snapshots=1",
    "train.eval_every=20",
    "train.log_every=200",
    "train.checkpoint_every=2000",
)


def main() -> None:
    options = parse_options()
    work = options.work / options.size
    unpack(options.cifar10, work / "cifar10", 5000)
    table = select_cells(options.table, work / "cells.csv")
    jobs = [(method, seed) for seed in options.seeds for method in options.methods]
    with ThreadPoolExecutor(options.workers) as pool:
        ranked = dict(
            zip(jobs, pool.map(lambda job: run_one(options, work, table, *job), jobs), strict=True)
        )
    found: dict[str, Any] = {
        method: [round(tau_of(ranked[method, seed]), 4) for seed in options.seeds]
        for method in options.methods
    }
    found["params"] = round(next(iter(ranked.values()))["baselines"]["params"]["tau"]["value"], 4)
    print(json.dumps(found))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--workers", type=int, default=2, help="trainings at the same time")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cifar10", type=Path, default=PACKED, help="cifar10_jpeg.npz")
    parser.add_argument("--table", type=Path, default=TABLE, help="true accuracies, csv")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "ranking")
    return parser.parse_args()


def select_cells(table: Path, path: Path) -> Path:
    """The rows of the table for the cells of the committed list, as a table of their own."""
    if not table.exists():
        raise SystemExit(f"--table must be a csv of true accuracies, got {table}")
    cells = CELLS.read_text().split()
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = {row["arch"]: row for row in reader}
        with path.open("w", newline="") as selected:
            writer = csv.DictWriter(selected, reader.fieldnames or [])
            writer.writeheader()
            writer.writerows(rows[cell] for cell in cells)
    return path


def run_one(
    options: argparse.Namespace, work: Path, table: Path, method: str, seed: int
) -> dict[str, Any]:
    """Trains and ranks one supernet, or goes on with it; the record of its ranking."""
    run = work / f"{method}_{seed}"
    settings = (
        *COMMON,
        f"data.root={work / 'cifar10'}",
        *SIZES[options.size],
        *METHODS[method],
        f"seed={seed}",
        f"train.device={options.device}",
        f"train.threads={options.threads}",
    )
    with (work / f"{run.name}.log").open("a") as log:
        call(log, "train", f"run={run}", *settings)
        call(log, "rank", f"run={run}", f"rank.table={table}")
    record: dict[str, Any] = json.loads((run / "rank.json").read_text())
    print(f"{run.name}: tau {tau_of(record):.4f}", flush=True)
    return record


def call(log: Any, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "nas", *arguments], stdout=log, stderr=log, check=True)


def tau_of(record: dict[str, Any]) -> float:
    return float(record["supernet"]["tau"]["value"])


if __name__ == "__main__":
    main()
