"""Do searches keep the budgets they are given, and say which one where none can be kept?

On a copy of a trained run. Random budgets that some subnet meets, since they leave a random one a
margin: each is a `nas search` and a `nas export`, and what counts is what the export measured
afresh. Random ones that no subnet meets: the search must end with exit code 3 and name the budget
and the miss. The searches share one run folder, so that later ones know what earlier ones judged.
Command: python benchmarks/search_budgets.py --run runs/demo. Last line: JSON; the overhead is the
part of a search's time that was no pass of a model, median over the searches that judged anew.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from nas.budgets import COSTS, LOWER, Bound
from nas.config.run_folder import open_run
from nas.files import read_records
from nas.hardware.device import training_device
from nas.measure.meter import open_meter
from nas.records import Costs
from nas.train.weights import load_supernet

KEYS = ("latency_of_largest", "params_of_largest", "memory_of_largest")
WINDOWS = 0.5  # of the feasible questions have a lower bound too: small subnets may win otherwise
MARGIN = (1.05, 1.5)  # of a bound to a random subnet's figure
AFTER_TRAINING = (
    "workers", "study.*", "candidates.jsonl", "latency.jsonl", "search.json", "subnet*",
)  # fmt: skip
INFEASIBLE = 3  # exit code of a search

Bounds = dict[str, float]


@dataclass(frozen=True)
class Question:
    bounds: Bounds
    broken: tuple[str, ...] = ()  # those that no subnet meets, alone or together


@dataclass(frozen=True)
class Answer:
    """What one search came to."""

    named: bool  # ended as infeasible, naming a broken budget and its miss
    overshoots: Sequence[float]  # of each budget at export, fractions; none if nothing was found
    wall_s: float
    num_new: int  # evaluations
    seconds: Mapping[str, float]  # as search.json has them


def main() -> None:
    options = parse_options()
    generator = Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = copy_trained(options.run, Path(folder, "run"))
        settings = [f"run={run}", f"search.trials={options.trials}", *options.settings]
        config, _ = open_run(settings, create=False)
        costs = measured_costs(settings, generator, options.feasible)
        questions = [feasible_question(of, generator) for of in costs["sampled"]]
        smallest, largest = costs["smallest"][0], costs["largest"][0]
        questions += [
            infeasible_question(number, smallest, largest, generator)
            for number in range(options.infeasible)
        ]
        answers = [ask(question, run, settings) for question in questions]
    worst = sorted(max(answer.overshoots) for answer in answers if answer.overshoots)
    print(f"from the nearest bound, exported subnets: {[f'{excess:+.1%}' for excess in worst]}")
    print(json.dumps(figures(questions, answers, config.target.precision)))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a trained run")
    parser.add_argument("--feasible", type=int, default=20, help="budgets that some subnet meets")
    parser.add_argument("--infeasible", type=int, default=5, help="budgets that none meets")
    parser.add_argument("--trials", type=int, default=30, help="of each search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*", help="further options of nas search and nas export")
    return parser.parse_args()


def copy_trained(source: Path, target: Path) -> Path:
    """A copy of a run as its training left it."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*AFTER_TRAINING))
    return target


def measured_costs(
    settings: Sequence[str], generator: Random, count: int
) -> dict[str, list[Costs]]:
    """Costs of `count` random subnets, the smallest and the largest, as the run measures them."""
    config, run = open_run(settings, create=False)
    training_device(config.train)
    supernet, _ = load_supernet(config, run, print)
    meter, space = open_meter(config, run, supernet), config.space
    archs = {
        "sampled": [space.sample(generator) for _ in range(count)],
        "smallest": [space.smallest()],
        "largest": [space.largest()],
    }
    costs = {name: [meter.costs(arch) for arch in group] for name, group in archs.items()}
    meter.close()
    return costs


def feasible_question(costs: Costs, generator: Random) -> Question:
    """Bounds that a subnet of these costs meets with a margin."""
    keys = generator.sample(KEYS, generator.randint(1, len(KEYS)))
    bounds = {key: costs.figure(key) * generator.uniform(*MARGIN) for key in keys}
    if generator.random() < WINDOWS:
        key = generator.choice(keys)
        bounds[LOWER + key] = costs.figure(key) / generator.uniform(*MARGIN)
    return Question(bounds)


def infeasible_question(
    number: int, smallest: Costs, largest: Costs, generator: Random
) -> Question:
    """In turn: below the smallest, above the largest, and two bounds that exclude each other."""
    key, other = generator.sample(KEYS, 2)
    if number % 3 == 0:
        bound = smallest.figure(key) * generator.uniform(0.3, 0.7)
        return Question({key: bound, other: largest.figure(other)}, (key,))
    if number % 3 == 1:
        bound = largest.figure(key) * generator.uniform(1.1, 1.5)
        return Question({LOWER + key: bound, other: 2 * largest.figure(other)}, (LOWER + key,))
    # Hardly more parameters than the smallest has: such subnets are not half as slow or as big.
    other = generator.choice([key for key in KEYS if key != "params_of_largest"])
    bounds = {"params_of_largest": 1.02 * smallest.params_of_largest, LOWER + other: 0.8}
    return Question(bounds, tuple(bounds))


def ask(question: Question, run: Path, settings: Sequence[str]) -> Answer:
    """One search, and the export of what it found."""
    num_before = len(read_records(run / "candidates.jsonl"))
    begin = time.monotonic()
    code, message = nas("search", [*settings, *budget_options(question.bounds)])
    wall_s = time.monotonic() - begin
    if code not in (0, INFEASIBLE):
        raise SystemExit(f"nas search ended with {code}: {message}")
    overshoots = [] if code else exported_overshoots(settings, run)
    answer = Answer(
        named=code == INFEASIBLE and names_the_miss(message, question),
        overshoots=overshoots,
        wall_s=wall_s,
        num_new=len(read_records(run / "candidates.jsonl")) - num_before,
        seconds=json.loads((run / "search.json").read_text())["seconds"],
    )
    print(describe(question, answer, message), flush=True)
    return answer


def nas(stage: str, options: Sequence[str]) -> tuple[int, str]:
    """Exit code of a command, and what it said on stderr."""
    command = [sys.executable, "-m", "nas", stage, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


def budget_options(bounds: Bounds) -> list[str]:
    """All of a budget: those that the run remembers must not stay."""
    keys = [prefix + cost for prefix in ("", LOWER) for cost in COSTS]
    return [f"budget.{key}={f'{bounds[key]:.5f}' if key in bounds else 'null'}" for key in keys]


def exported_overshoots(settings: Sequence[str], run: Path) -> list[float]:
    code, message = nas("export", [*settings, "target.compare=[]"])
    if code:
        raise SystemExit(f"nas export ended with {code}: {message}")
    card = json.loads((run / "subnet" / "card.json").read_text())
    return [Bound(b["key"], b["limit"]).over(b["value"]) for b in card["budgets"]]


def names_the_miss(message: str, question: Question) -> bool:
    """Whether one of the broken budgets is named with a miss, and a conflict of two as such."""
    pattern = r"budget\.(\w+)=\S+: best seen \S+, nearest subnet \S+ \(missed by ([\d.]+)%\)"
    missed = {key: float(percent) for key, percent in re.findall(pattern, message)}
    conflict = "each can be met, but not all together" in message
    named = set(missed) & set(question.broken)
    return (
        bool(named)
        and missed.keys() <= {*question.broken}
        and conflict == (len(question.broken) > 1)
    )


def describe(question: Question, answer: Answer, message: str) -> str:
    asked = ", ".join(f"{key} {bound:.4f}" for key, bound in question.bounds.items())
    found = f"{max(answer.overshoots):+.2%} from the bound" if answer.overshoots else message
    spent = ", ".join(f"{key} {time_s:.1f}" for key, time_s in answer.seconds.items())
    return f"{asked}: {found}; {answer.num_new} judged anew, {answer.wall_s:.0f} s ({spent})"


def figures(
    questions: Sequence[Question], answers: Sequence[Answer], precision: float
) -> dict[str, float]:
    feasible = [a for q, a in zip(questions, answers, strict=True) if not q.broken]
    worst = [max(answer.overshoots) for answer in feasible if answer.overshoots]
    overheads = [overhead(answer.seconds) for answer in answers if answer.num_new]
    return {
        "searches": len(feasible),
        "kept_strictly": sum(excess <= 0 for excess in worst),
        "kept_within_precision": sum(excess <= precision for excess in worst),
        "worst_overshoot_percent": round(100 * max([0.0, *worst]), 3),
        "infeasible_named": sum(
            a.named for q, a in zip(questions, answers, strict=True) if q.broken
        ),
        "overhead_percent": round(100 * statistics.median(overheads), 2) if overheads else 0.0,
    }


def overhead(seconds: Mapping[str, float]) -> float:
    return 1 - (seconds["scores"] + seconds["costs"]) / seconds["total"]


if __name__ == "__main__":
    main()
