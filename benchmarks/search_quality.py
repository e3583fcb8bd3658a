"""How good are the cells that a search finds within budgets, after 50, 100 and 200 evaluations?

NAS-Bench-201's table says how accurate each of 15,625 cells is: CIFAR-10's validation column, which
the search sees and by which its result is ranked. Parameters are counted as `nas measure` counts
them. Latency comes from a model, stated below, of a device on which branches of a node overlap;
what a search sees of it is noisy, and like the real search it judges by the upper end of the
interval, so that nothing it returns breaks the budget. A method's figure is the share of feasible
cells, in percent, that are more accurate than the best one that it found; an evaluation is that of
a cell that was not evaluated before.
Command: python benchmarks/search_quality.py --jobs 2. Last line: JSON, of the worst budget the
median over the seeds.
"""

import argparse
import csv
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random

# Before numpy is imported: every process has one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import optuna
import torch
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from torch import Generator

from nas.budgets import Budgets
from nas.search.acquisition import Acquisition, Known
from nas.search.surrogate import Pool, enumerated
from search_spaces.cell import CellArch, CellSpace
from supernet.families.cell import CellSizes, CellSupernet
from supernet.parameter_counts import count

TABLE = Path(__file__).parents[2] / "shared" / "data" / "nasbench201" / "accuracy_200_epochs.csv"
SPACE = CellSpace()
MARKS = (50, 100, 200)  # evaluations
MOST_TRIALS = 20 * MARKS[-1]  # of a sampler that asks for the same cells again and again
START = 20  # random cells, before guidance
ROUND = 5  # evaluations from one fit of the predictors to the next

# Bounds on parameters, and on latency as a fraction of the largest cell's.
BUDGETS: dict[str, Budgets] = {
    "params": Budgets.of({"params": 350_000}),
    "latency": Budgets.of({"latency_of_largest": 0.45}),
    "both": Budgets.of({"params": 500_000, "latency_of_largest": 0.6}),
    "tight": Budgets.of({"params": 200_000, "latency_of_largest": 0.35}),
    "window": Budgets.of({"min_params": 300_000, "params": 600_000, "latency_of_largest": 0.55}),
}

# The latency model, in units of a 3x3 convolution: an operation costs more on some edges; of what
# enters a node, all but the most expensive is partly hidden behind it; dead edges are free.
OPERATION_COST = {"skip_connect": 0.05, "avg_pool_3x3": 0.3, "nor_conv_1x1": 0.4, "nor_conv_3x3": 1}
EDGE_FACTOR = {(1, 0): 1.0, (2, 0): 0.9, (2, 1): 1.1, (3, 0): 0.8, (3, 1): 1.0, (3, 2): 1.2}
HIDDEN = 0.4
REST = 0.8  # of the network, outside the cells
NOISE, LIMIT = 0.005, 0.01  # standard deviation of a measurement, and where it is cut off


@dataclass(frozen=True)
class Oracle:
    """What is true of each cell."""

    accuracy: Mapping[CellArch, float]
    params: Mapping[CellArch, int]
    latency: Mapping[CellArch, float]

    def exact(self, arch: CellArch) -> dict[str, float]:
        return {"params": self.params[arch]}

    def true_costs(self, arch: CellArch) -> dict[str, float]:
        return {**self.exact(arch), "latency_of_largest": self.latency[arch]}

    def measured_costs(self, arch: CellArch, seed: int) -> dict[str, float]:
        """With the upper end of the interval that this seed's measurement of the cell has."""
        noise = Random(f"{seed} {arch}").gauss(0, NOISE)
        measured = self.latency[arch] * (1 + min(max(noise, -LIMIT), LIMIT))
        return {**self.exact(arch), "latency_of_largest": measured / (1 - LIMIT)}


class Search:
    """The evaluations of one search, in order, and the best feasible accuracy after each."""

    def __init__(self, oracle: Oracle, budgets: Budgets, seed: int) -> None:
        self.oracle, self.budgets, self.seed = oracle, budgets, seed
        self.known: dict[CellArch, Known[CellArch]] = {}
        self.best: list[CellArch | None] = []

    def judge(self, arch: CellArch) -> Known[CellArch]:
        if arch not in self.known:
            costs = self.oracle.measured_costs(arch, self.seed)
            judged = Known(arch, self.oracle.accuracy[arch], costs)
            self.known[arch] = judged
            best = self.best[-1] if self.best else None
            if self.budgets.total_excess(costs) == 0 and (
                best is None or judged.worth > self.oracle.accuracy[best]
            ):
                best = arch
            self.best.append(best)
        return self.known[arch]

    @property
    def num_judged(self) -> int:
        return len(self.known)


def main() -> None:
    options = parse_options()
    if not options.table.exists():
        raise SystemExit(f"--table must be NAS-Bench-201's accuracies, a csv, got {options.table}")
    jobs = [
        (method, budget, seed)
        for place, seed in enumerate(options.seeds)
        for method in options.methods
        for budget in BUDGETS
        if method != "gp" or place < options.gp_seeds
    ]
    results = {}
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.jobs, initializer=quiet) as pool:
        for job, result in zip(jobs, pool.imap(partial(run_one, options.table), jobs), strict=True):
            results[job] = result
            print(*job, *(f"{percent:.3f}" for percent in result.percent), file=sys.stderr)
    print(json.dumps({method: report(method, results) for method in options.methods}))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(20)))
    parser.add_argument("--gp-seeds", type=int, default=3, help="of the seeds, the first for gp")
    parser.add_argument("--jobs", type=int, default=2, help="processes, each of one thread")
    parser.add_argument("--table", type=Path, default=TABLE, help="true accuracies, csv")
    return parser.parse_args()


def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Result:
    percent: tuple[float, ...]  # of feasible cells that are better, after each of MARKS
    seconds: float


def run_one(table: Path, job: tuple[str, str, int]) -> Result:
    method, budget, seed = job
    oracle, budgets = load_oracle(table), BUDGETS[budget]
    search = Search(oracle, budgets, seed)
    begin = time.perf_counter()
    METHODS[method](search)
    seconds = time.perf_counter() - begin
    feasible = [
        oracle.accuracy[arch]
        for arch in oracle.accuracy
        if budgets.total_excess(oracle.true_costs(arch)) == 0
    ]
    percent = []
    for mark in MARKS:
        best = search.best[min(mark, search.num_judged) - 1]
        if best is not None:
            assert budgets.total_excess(oracle.true_costs(best)) == 0, f"{best} breaks a budget"
        found = -1.0 if best is None else oracle.accuracy[best]
        percent.append(100 * sum(other > found for other in feasible) / len(feasible))
    return Result(tuple(percent), seconds)


@cache
def load_oracle(table: Path) -> Oracle:
    with table.open(newline="") as file:
        accuracy = {
            SPACE.from_text(row["arch"]): float(row["cifar10_valid"])
            for row in csv.DictReader(file)
        }
    costs = {arch: latency(arch) for arch in accuracy}
    largest = costs[SPACE.largest()]
    return Oracle(
        accuracy=accuracy,
        params=count_all(accuracy),
        latency={arch: cost / largest for arch, cost in costs.items()},
    )


def latency(arch: CellArch) -> float:
    entering: dict[int, list[float]] = {}
    for (target, source), operation in arch.live_edges().items():
        cost = OPERATION_COST[operation] * EDGE_FACTOR[target, source]
        entering.setdefault(target, []).append(cost)
    return REST + sum(
        (1 - HIDDEN) * sum(costs) + HIDDEN * max(costs) for costs in entering.values()
    )


def count_all(archs: Mapping[CellArch, float]) -> dict[CellArch, int]:
    """Counted once for each number of live convolutions of either size, which decide it."""
    sizes = CellSizes(
        in_chans=3, num_classes=10, channels=SPACE.channels, num_cells=SPACE.num_cells
    )
    supernet = CellSupernet(SPACE, sizes, {}, generator=Generator())
    counted: dict[tuple[int, ...], int] = {}
    params = {}
    for arch in archs:
        live = list(arch.live_edges().values())
        kind = live.count("nor_conv_1x1"), live.count("nor_conv_3x3")
        if kind not in counted:
            counted[kind] = count(supernet, arch).params
        params[arch] = counted[kind]
    return params


def guided(search: Search) -> None:
    """As `nas search` proposes: random draws first, then by predictors."""
    generator = Random(search.seed)
    acquisition = Acquisition(
        SPACE,
        search.budgets,
        exact=search.oracle.exact,
        refit_every=ROUND,
        everything=all_cells(),
    )
    for arch in acquisition.start(START, generator):
        search.judge(arch)
    while search.num_judged < MARKS[-1]:
        known = list(search.known.values())
        for arch in acquisition.propose(known, (), generator, count=ROUND):
            search.judge(arch)


@cache
def all_cells() -> Pool[CellArch]:
    return enumerated(SPACE)


def at_random(search: Search) -> None:
    """Uniform draws, without repeats, among the cells whose countable budgets are met."""
    cells = list(search.oracle.accuracy)
    Random(search.seed).shuffle(cells)
    for arch in cells:
        if search.num_judged == MARKS[-1]:
            return
        if search.budgets.total_excess(search.oracle.exact(arch)) == 0:
            search.judge(arch)


def direct(make: Callable[[int], BaseSampler], search: Search) -> None:
    """A sampler of Optuna on the evaluations themselves, the budgets as constraints."""
    study = optuna.create_study(direction="maximize", sampler=make(search.seed))
    choices = SPACE.choices()
    for _ in range(MOST_TRIALS):
        if search.num_judged == MARKS[-1]:
            return
        trial = study.ask()
        values = {
            name: str(trial.suggest_categorical(name, options)) for name, options in choices.items()
        }
        judged = search.judge(SPACE.decode(values))
        for bound in search.budgets:
            trial.set_constraint(bound.key, bound.over(judged.figures[bound.cost]))
        study.tell(trial, judged.worth)


METHODS: dict[str, Callable[[Search], None]] = {
    "guided": guided,
    "tpe": partial(direct, lambda seed: TPESampler(seed=seed)),
    "nsga2": partial(direct, lambda seed: NSGAIISampler(seed=seed)),
    "gp": partial(direct, lambda seed: GPSampler(seed=seed)),
    "random": at_random,
}


def report(method: str, results: Mapping[tuple[str, str, int], Result]) -> dict[str, float]:
    """Prints a row per budget; the worst median of each mark."""
    worst = dict.fromkeys(map(str, MARKS), 0.0)
    for budget in BUDGETS:
        found = [r for (m, b, _), r in results.items() if (m, b) == (method, budget)]
        cells = []
        for place, mark in enumerate(MARKS):
            percents = [result.percent[place] for result in found]
            median = statistics.median(percents)
            worst[str(mark)] = max(worst[str(mark)], round(median, 4))
            cells.append(f"{mark}: {median:7.3f} (worst seed {max(percents):7.3f})")
        seconds = statistics.median(result.seconds for result in found)
        print(f"{method:8}{budget:9}{len(found):3} seeds  {'  '.join(cells)}  {seconds:6.1f} s")
    return worst


if __name__ == "__main__":
    main()
