"""Stage 3: search subnets under budgets. Writes the study, candidates.jsonl and search.json."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import TrialState
from rich.console import Console

from nas.config.config import Config
from nas.data.batches import load
from nas.exits import Infeasible, Stopped, stop_signals
from nas.files import write_atomic
from nas.hardware.device import training_device
from nas.measure.feasibility import nearest_miss, print_feasibility, three_subnets
from nas.measure.meter import out_of_reach, violations
from nas.search.evaluator import Candidate, Judge, arch_key, front, within
from nas.search.finalists import candidate_table, choose, describe_choice, verify
from nas.search.predictors import CrossValidation
from nas.search.proposals import Proposals
from nas.search.storage import open_storage
from nas.search.study import (
    Adopted,
    adopt,
    ask,
    open_study,
    reclaim,
    study_name,
    worker_name,
    worker_slot,
)
from nas.seeds import derive_seed
from nas.tracking import progress
from nas.train.weights import load_supernet

OBJECTIVES = ("top1", "latency_of_largest", "params")


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
    ends = show_feasibility(config, judge, console)
    name = study_name(config, run, {"budget": bounds, **judge.conditions})
    with worker_slot(run) as slot, stop_signals() as stop:
        study = open_study(config, storage, name, slot)
        reclaim(study, run, slot, say)
        judge.learn(judged_elsewhere(study))
        adopt_known(config, study, run, judge)
        seed = derive_seed(config.seed, slot, len(study.get_trials(deepcopy=False)))
        proposals = Proposals(config, study, judge, seed)
        trials = Trials(config, study, judge, proposals, worker_name(run, slot), begin, stop)
        if not out_of_reach(ends["smallest"], ends["largest"], bounds):
            trials.run(console)
        chosen, finalists = choose(config, judge, say)
        record = conclude(config, study, judge, trials, chosen, begin)
        record["finalists"] = finalists
        write_atomic(run / "search.json", json.dumps(record, indent=2))
        if chosen is None:
            raise Infeasible(nearest_miss(record["candidates"], bounds))
        show_answer(record, judge, console)
        if config.search.verify:
            record["verified"] = verify(config, judge, chosen, stop, say)
            write_atomic(run / "search.json", json.dumps(record, indent=2))
    judge.meter.close()


def conclude(
    config: Config,
    study: Study,
    judge: Judge,
    trials: "Trials",
    chosen: Candidate | None,
    begin: float,
) -> dict[str, Any]:
    """What search.json holds: the question, the answer, and all that was judged."""
    space = config.space
    candidates = numbered(judge.candidates(), study, space)
    by_arch = {arch_key(candidate["arch"]): candidate for candidate in candidates}
    ends = {"smallest": asdict(space.smallest()), "largest": asdict(space.largest())}
    return {
        "objective": config.search.objective,
        "strategy": config.search.strategy,
        "budget": config.budget.bounds(),
        "study": study.study_name,
        "chosen": chosen and {**chosen, **by_arch[arch_key(chosen["arch"])]},
        **{name: by_arch[arch_key(arch)] for name, arch in ends.items()},
        "verified": [],
        "num_trials": num_finished(study),
        "num_known": num_finished(study, origin="known"),
        "num_evaluated": len(candidates),
        "ended_by": trials.ended_by,
        "reference_drift": judge.meter.table.drift(),
        **predictor_records(trials.proposals.cross_validated()),
        "seconds": seconds(begin, judge, trials),
        "card": judge.meter.card.record(),
        "candidates": candidates,
        **judge.conditions,
    }


def show_answer(record: dict[str, Any], judge: Judge, console: Console) -> None:
    """Prints the front, the chosen subnet beside the largest, and how it was judged."""
    front_of = front(within(record["candidates"], record["budget"]))
    console.print(candidate_table("Pareto front on val, within the budgets", front_of))
    pair = [record["chosen"], record["largest"]]
    console.print(candidate_table("chosen, and the largest", pair))
    words = describe_choice(record, judge.meter.card, judge.data.num_examples("val"))
    console.print(words, markup=False, soft_wrap=True)


def show_feasibility(config: Config, judge: Judge, console: Console) -> dict[str, Candidate]:
    """Prints what the space spans and which budgets it can meet; the smallest and the largest."""
    archs, bounds = three_subnets(config, judge.supernet), config.budget.bounds()
    ends = {
        key: judge.judge(
            archs[key], bounds, whole=True, study=None, trial=None, origin=key, method=None
        )
        for key in ("smallest", "largest")
    }
    costs = {"smallest": ends["smallest"], "largest": ends["largest"]}
    if not judge.meter.elsewhere:
        median = judge.meter.costs(archs["median"]).record()
        costs = {"smallest": ends["smallest"], "median": median, "largest": ends["largest"]}
    print_feasibility(config, judge.meter, costs, console)
    return ends


class Trials:
    """Asks, judges and tells, one worker of a study."""

    def __init__(
        self,
        config: Config,
        study: Study,
        judge: Judge,
        proposals: Proposals,
        worker: str,
        begin: float,
        stop: Sequence[int],
    ) -> None:
        self.config, self.study, self.judge = config, study, judge
        self.worker, self.begin, self.stop = worker, begin, stop
        self.bounds = config.budget.bounds()
        self.proposals = proposals
        self.ended_by = "nothing to do"
        self.proposing_s = 0.0

    def run(self, console: Console) -> None:
        """Goes on until one of the limits of `search` is reached; raises Stopped for a signal."""
        total, done = self.config.search.trials, self.num_counted()
        with progress(console, "search", total=total, done=min(done, total)) as bar:
            while not (ended_by := self.limit(done)):
                self.judge.learn(judged_elsewhere(self.study))
                candidate = self.run_trial()
                if candidate is None:
                    ended_by = "no architecture is left"
                    break
                before, done = done, self.num_counted()
                bar.advance(min(done, total) - before, last_top1=candidate["top1"])
                if self.stop:
                    raise Stopped(self.stop[0])
        self.ended_by = ended_by

    def limit(self, done: int) -> str:
        """The limit that was reached, empty for none."""
        settings = self.config.search
        if done >= settings.trials:
            return "search.trials"
        if settings.hours and time.monotonic() - self.begin >= 3600 * settings.hours:
            return "search.hours"
        if settings.patience and self.num_since_best() >= settings.patience:
            return "search.patience"
        return ""

    def run_trial(self) -> Candidate | None:
        """One trial; None if there is nothing left to propose."""
        begin = time.perf_counter()
        proposal = self.proposals.next()
        if proposal is None:
            return None
        trial = ask(self.study, self.worker, *proposal)
        space = self.config.space
        values = {
            name: trial.suggest_categorical(name, options)
            for name, options in space.choices().items()
        }
        self.proposing_s += time.perf_counter() - begin
        candidate = self.judge.judge(
            space.decode(values),
            self.bounds,
            study=self.study.study_name,
            trial=trial.number,
            origin=trial.user_attrs["origin"],
            method=method(self.config),
        )
        # For workers that have another run folder.
        trial.set_user_attr("candidate", candidate)
        for key, excess in violations(candidate, self.bounds).items():
            trial.set_constraint(key, excess)
        self.study.tell(trial, objectives(self.config, candidate))
        return candidate

    def num_counted(self) -> int:
        """Finished trials; those that an earlier question left count if they answer this one."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        known = [trial for trial in trials if trial.user_attrs.get("origin") == "known"]
        answered = any(all(x <= 0 for x in trial.constraints.values()) for trial in known)
        return len(trials) if answered else len(trials) - len(known)

    def num_since_best(self) -> int:
        """Finished trials since the best one within the budgets, by its first objective."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        feasible = [t for t in trials if all(x <= 0 for x in t.constraints.values())]
        best = max(feasible, key=lambda trial: (trial.values[0], -trial.number), default=None)
        own = [trial for trial in trials if trial.user_attrs.get("origin") != "known"]
        return 0 if best is None else sum(trial.number > best.number for trial in own)


def adopt_known(config: Config, study: Study, run: Path, judge: Judge) -> None:
    """Makes trials of what the same method had judged for other questions.

    What other methods judged is known as well and not judged again; as trials it would make a
    method look as good as the others.
    """
    space, bounds = config.space, config.budget.bounds()
    mine = {
        space.decode(trial.params)
        for trial in study.get_trials(deepcopy=False)
        if trial.params.keys() == space.choices().keys()
    }
    records = []
    for candidate in judge.candidates():
        arch = space.from_record(candidate["arch"])
        if arch not in mine and candidate["method"] == method(config):
            values, constraints = objectives(config, candidate), violations(candidate, bounds)
            records.append(Adopted(space.encode(arch), values, constraints))
    adopt(study, run, records, space.choices())


def judged_elsewhere(study: Study) -> list[Candidate]:
    """What the workers of a study have judged, in whatever run folder."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    records = [trial.user_attrs.get("candidate") for trial in trials]
    return [record for record in records if record is not None]


def method(config: Config) -> str:
    """What proposes: comparisons of methods are fair if none begins with another's trials."""
    sampler = str(config.search.sampler["_target_"]).rpartition(".")[2]
    return f"{config.search.strategy} {sampler}"


def objectives(config: Config, candidate: Candidate) -> list[float]:
    names = OBJECTIVES if config.search.objective == "pareto" else OBJECTIVES[:1]
    return [candidate[name] for name in names]


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


def predictor_records(found: Mapping[str, CrossValidation]) -> dict[str, Any]:
    """The predictors' errors, undefined ones as null, and what they foretold unseen."""
    errors = {name: asdict(cross.error) for name, cross in found.items()}
    return {
        "predictors": {
            name: {k: None if v != v else v for k, v in error.items()}  # nan differs from itself
            for name, error in errors.items()
        },
        "predictions": {
            name: {"predicted": cross.predicted.tolist(), "measured": cross.measured.tolist()}
            for name, cross in found.items()
        },
    }


def num_finished(study: Study, origin: str | None = None) -> int:
    """Finished trials, of one origin or of all."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sum(origin in (None, trial.user_attrs.get("origin")) for trial in trials)


def seconds(begin: float, judge: Judge, trials: Trials) -> dict[str, float]:
    """Where this process spent its time; what is not passes of a model is overhead.

    Costs are timed passes and those whose memory is measured.
    """
    spent = {
        "total": time.monotonic() - begin,
        "accuracy": judge.accuracy_s,
        "costs": judge.meter.passes_s,
        "proposals": trials.proposing_s,
    }
    return {key: round(value, 2) for key, value in spent.items()}
