"""Stage 3: search subnets under budgets. Writes the study, candidates.jsonl and search.json."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from optuna.study import Study
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from nas.config import Config
from nas.costs import CostMeter, figure, out_of_reach, violations
from nas.data import ImageData, load
from nas.device import training_device
from nas.evaluate import calibrated, evaluate
from nas.files import append_record, locked, read_records, write_atomic
from nas.outcomes import Infeasible, Stopped
from nas.signals import stop_signals
from nas.study import (
    ask,
    conditions,
    open_storage,
    open_study,
    reclaim,
    study_name,
    worker_name,
    worker_slot,
)
from nas.tracking import progress
from nas.weights import load_supernet
from search_spaces.cell import CellArch
from supernet.supernet import Supernet

Candidate = dict[str, Any]  # a line of candidates.jsonl
OBJECTIVES = ("top1", "latency_of_largest", "params")


class Judge:
    """Accuracy on val and costs of architectures; what was judged once is not judged again."""

    def __init__(
        self,
        config: Config,
        run: Path,
        supernet: Supernet,
        data: ImageData,
        device: torch.device,
        step: int,
    ) -> None:
        self.path = run / "candidates.jsonl"
        self.batch_size = config.data.batch_size
        self.supernet = supernet
        self.data = data
        self.device = device
        self.meter = CostMeter(config, run, supernet)
        # Verdicts of other weights or another target say nothing here.
        self.conditions = conditions(step, supernet, self.meter.card)

    def candidates(self) -> list[Candidate]:
        """Everything judged under these conditions, by any process, once an architecture."""
        found: dict[str, Candidate] = {}
        for record in read_records(self.path):
            if self.conditions.items() <= record.items():
                found.setdefault(arch_key(record["arch"]), record)
        return list(found.values())

    def judge(self, arch: Any, study: str | None = None, trial: int | None = None) -> Candidate:
        """Known or new; a new one is recorded with the study and the trial that asked for it."""
        key = arch_key(asdict(arch))
        for candidate in self.candidates():
            if arch_key(candidate["arch"]) == key:
                return candidate
        # Beside other workers' accuracy passes, but never beside a timed one.
        with locked(self.meter.owner, blocking=True, shared=True):
            plain = self.supernet.extract(arch).to(self.device)
            accuracy = evaluate(calibrated(plain, self.data, self.batch_size), self.data, "val")
        candidate = {
            "arch": asdict(arch),
            "study": study,
            "trial": trial,
            **asdict(accuracy),
            **self.meter.costs(arch).record(),
            **self.conditions,
        }
        append_record(self.path, candidate)
        return candidate


def search(config: Config, run: Path, console: Console) -> None:
    """Runs trials until the study has `search.trials` of them, then chooses a subnet.

    Raises Infeasible if no subnet meets the budgets, and Stopped after SIGINT or SIGTERM.
    """
    begin = time.monotonic()
    say = partial(console.print, markup=False, soft_wrap=True)
    supernet, step = load_supernet(config, run, say)
    storage = open_storage(config, run)
    device = training_device(config.train)
    data = load(config.data, seed=config.seed, device=device)
    judge = Judge(config, run, supernet, data, device, step)
    bounds = config.budget.bounds()
    smallest, _ = judge.judge(config.space.smallest()), judge.judge(config.space.largest())
    name = study_name(config, run, {"budget": bounds, **judge.conditions})
    with worker_slot(run) as slot, stop_signals() as stop:
        study = open_study(config, storage, name, slot)
        reclaim(study, run, slot, say)
        if not out_of_reach(smallest, bounds):
            run_trials(config, study, judge, worker_name(run, slot), stop, console)
    candidates = numbered(judge.candidates(), study, config.space)
    record = conclude(config, judge, study, candidates)
    record["seconds"] = round(time.monotonic() - begin, 1)
    write_atomic(run / "search.json", json.dumps(record, indent=2))
    if record["chosen"] is None:
        raise Infeasible(nearest_miss(candidates, bounds))
    front_of = front(within(candidates, bounds))
    console.print(candidate_table("Pareto front on val, within the budgets", front_of))
    console.print(candidate_table("chosen, and the largest", [record["chosen"], record["largest"]]))
    say(
        f"{record['num_trials']} trials, {len(candidates)} architectures judged so far, "
        f"{record['seconds']} s; top-1 is of {data.num_examples('val')} val images, "
        f"latency on {judge.meter.card.describe()}"
    )


def conclude(
    config: Config, judge: Judge, study: Study, candidates: Sequence[Candidate]
) -> dict[str, Any]:
    """What search.json holds: the question, the chosen subnet or none, and two to compare with."""
    space, bounds = config.space, config.budget.bounds()
    by_arch = {arch_key(candidate["arch"]): candidate for candidate in candidates}
    return {
        "objective": config.search.objective,
        "budget": bounds,
        "study": study.study_name,
        "chosen": min(within(candidates, bounds), key=preference, default=None),
        "smallest": by_arch[arch_key(asdict(space.smallest()))],
        "largest": by_arch[arch_key(asdict(space.largest()))],
        "num_trials": num_finished(study),
        "num_evaluated": len(candidates),
        **judge.conditions,
    }


def within(candidates: Sequence[Candidate], bounds: Mapping[str, float]) -> list[Candidate]:
    """Those that meet every bound."""
    return [c for c in candidates if max(violations(c, bounds).values(), default=0) <= 0]


def numbered(candidates: Sequence[Candidate], study: Study, space: Any) -> list[Candidate]:
    """The candidates with the trial that `pick` knows each by: the study's first one, or None.

    What an earlier study judged first bears the number of a trial of that study.
    """
    numbers: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        numbers.setdefault(arch_key(asdict(space.decode(trial.params))), trial.number)
    return [
        {**c, "study": study.study_name, "trial": numbers.get(arch_key(c["arch"]))}
        for c in candidates
    ]


def run_trials(
    config: Config,
    study: Study,
    judge: Judge,
    worker: str,
    stop: Sequence[int],
    console: Console,
) -> None:
    """Asks, judges and tells, until the study has its trials or a signal arrives."""
    total = config.search.trials
    done = num_finished(study)
    with progress(console, "search", total=total, done=min(done, total)) as bar:
        while done < total:
            candidate = run_trial(config, study, judge, worker)
            before, done = done, num_finished(study)
            bar.advance(min(done, total) - before, last_top1=candidate["top1"])
            if stop:
                raise Stopped(stop[0])


def run_trial(config: Config, study: Study, judge: Judge, worker: str) -> Candidate:
    trial = ask(study, worker)
    choices = config.space.choices()
    values = {name: trial.suggest_categorical(name, options) for name, options in choices.items()}
    candidate = judge.judge(config.space.decode(values), study.study_name, trial.number)
    for key, excess in violations(candidate, config.budget.bounds()).items():
        trial.set_constraint(key, excess)
    objectives = OBJECTIVES if config.search.objective == "pareto" else OBJECTIVES[:1]
    study.tell(trial, [candidate[name] for name in objectives])
    return candidate


def num_finished(study: Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def arch_key(record: Mapping[str, Any]) -> str:
    """Equal for an architecture and its JSON record."""
    return json.dumps(record, sort_keys=True)


def preference(candidate: Candidate) -> tuple[float, ...]:
    """Ascending from the best: accuracy first, then what costs less."""
    return (-candidate["top1"], candidate["latency_of_largest"], candidate["params"])


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other equals or betters in accuracy, latency and parameters, best first."""
    points = [(preference(candidate), candidate) for candidate in candidates]
    best = [
        candidate
        for point, candidate in points
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for other, _ in points
        )
    ]
    return sorted(best, key=preference)


def nearest_miss(candidates: Sequence[Candidate], bounds: Mapping[str, float]) -> str:
    """Which budgets fail, and the candidate that comes closest to meeting all of them."""
    excesses = [violations(candidate, bounds) for candidate in candidates]
    nearest = min(range(len(candidates)), key=lambda index: max(excesses[index].values()))
    best = {key: min(excess[key] for excess in excesses) for key in bounds}
    broken = []
    for key, bound in bounds.items():
        if excesses[nearest][key] > 0:
            seen, near = ((1 + e) * bound for e in (best[key], excesses[nearest][key]))
            broken.append(
                f"budget.{key}={figure(key, bound)}: best seen {figure(key, seen)}, "
                f"nearest subnet {figure(key, near)} ({excesses[nearest][key]:+.1%})"
            )
    notes = ["each can be met, but not all together"] if max(best.values()) <= 0 else []
    if any(key.startswith("latency") for key in bounds):
        notes.append("a latency is the upper end of its 95 % interval")
    arch = json.dumps(candidates[nearest]["arch"])
    return f"no subnet meets the budgets. {'; '.join(broken + notes)}. The nearest is {arch}"


def candidate_table(title: str, candidates: Sequence[Candidate]) -> Table:
    table = Table(title=title)
    archs = [arch_columns(candidate["arch"]) for candidate in candidates]
    columns = ("trial", "val top-1", "latency of largest", "latency ms", "stored params")
    for column in (*columns, *(archs[0] if archs else ())):
        table.add_column(column, justify="right", overflow="fold")
    for candidate, arch in zip(candidates, archs, strict=True):
        table.add_row(
            "-" if candidate["trial"] is None else str(candidate["trial"]),
            f"{candidate['top1']:.4f}",
            f"{candidate['latency_of_largest']:.3f}",
            f"{candidate['latency_ms']:.3f}",
            f"{candidate['params']:,}",
            *arch.values(),
        )
    return table


def arch_columns(arch: Mapping[str, Any]) -> dict[str, str]:
    """An architecture's record by the columns of a table."""
    if "operations" in arch:
        return {"cell": str(CellArch(tuple(arch["operations"])))}
    per_block = {"heads": "num_heads", "mlp_ratio": "mlp_ratio", "rank": "rank"}
    return {
        "depth": str(len(arch["num_heads"])),
        "embed_dim": str(arch["embed_dim"]),
        **{name: " ".join(f"{x:g}" for x in arch[key]) for name, key in per_block.items()},
        "atoms": str(arch["num_atoms"]),
    }
