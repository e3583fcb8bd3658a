"""Stage 3: search subnets under budgets. Writes the study, candidates.jsonl and search.json."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from nas.config.config import Config
from nas.exits import Infeasible, stop_signals
from nas.files import write_atomic
from nas.hardware.device import training_device
from nas.measure.feasibility import print_feasibility, three_subnets
from nas.records import Asker, Candidate, Finalist, to_json
from nas.results import Prediction, SearchResult, Seconds
from nas.search.answer import show_answer
from nas.search.evaluator import Evaluator
from nas.search.finalists import choose, verify
from nas.search.history import History
from nas.search.proposals import Proposals
from nas.search.storage import open_storage
from nas.search.study import open_study, reclaim, study_name, worker_name, worker_slot
from nas.search.trials import Trials, adopt_known, learn_from
from nas.seeds import derive_seed
from nas.train.weights import check_supernet, load_data, load_supernet
from search_spaces.space import Arch, to_record
from supernet.task import Metric


def search(config: Config, run: Path, console: Console) -> None:
    """Runs trials until the study has `search.trials` of them, then chooses a subnet.

    Raises Infeasible if no subnet meets the budgets, and Stopped after SIGINT or SIGTERM.
    """
    begin = time.monotonic()
    check_supernet(config)
    say = partial(console.print, markup=False, soft_wrap=True)
    supernet, step = load_supernet(config, run, say)
    storage = open_storage(config, run)
    device = training_device(config.train)
    data = load_data(config, run, device)
    evaluator = Evaluator(config, run, supernet, data, device, step)
    with closing(evaluator.meter):
        ends = show_feasibility(config, evaluator, console)
        name = study_name(config, run, evaluator.conditions)
        with worker_slot(run) as slot, stop_signals() as stop:
            study = open_study(config, storage, name, slot)
            reclaim(study, run, slot, say)
            history = History(study, storage, config.space)
            learn_from(history, evaluator)
            adopt_known(config, history, run, evaluator)
            # Another question, method or start of this run must not begin with the same draws.
            num_drawn = len(evaluator.known) + len(study.get_trials(deepcopy=False))
            seed = derive_seed(config.seed, slot, num_drawn)
            proposals = Proposals(config, history, evaluator, seed)
            worker = worker_name(run, slot)
            trials = Trials(config, history, evaluator, proposals, worker, begin, stop)
            extremes = ends["smallest"].costs, ends["largest"].costs
            if not config.budget.out_of_reach(*extremes):
                trials.run(console)
            chosen, finalists = choose(config.search, evaluator, say)
            result = conclude(config, trials, chosen, finalists)
            write_result(run, result)
            if chosen is None:
                raise Infeasible(nearest_miss(result))
            show_answer(result, config.space, console)
            if config.search.verify:
                verified = verify(config.search, evaluator, chosen, stop, say)
                write_result(run, replace(result, verified=tuple(verified)))


def write_result(run: Path, result: SearchResult[Arch]) -> None:
    write_atomic(run / "search.json", json.dumps(to_json(result), indent=2))


def show_feasibility(
    config: Config, evaluator: Evaluator, console: Console
) -> dict[str, Candidate[Arch]]:
    """Prints what the space spans and which budgets it can meet; the smallest and the largest."""
    archs = three_subnets(config, evaluator.meter)
    ends = {
        name: evaluator.judge(archs[name], Asker(None, None, name, None), whole=True)
        for name in ("smallest", "largest")
    }
    costs = {
        "smallest": ends["smallest"].costs,
        "median": evaluator.meter.costs(archs["median"]),
        "largest": ends["largest"].costs,
    }
    print_feasibility(config, evaluator.meter, costs, console)
    return ends


def conclude(
    config: Config,
    trials: Trials,
    chosen: Candidate[Arch] | None,
    finalists: Sequence[Finalist[Arch]],
) -> SearchResult[Arch]:
    """The question, the answer, and all that was judged."""
    history, evaluator, space = trials.history, trials.evaluator, config.space
    learn_from(history, evaluator)
    candidates = numbered(evaluator.candidates(), history)
    by_arch = {candidate.arch: candidate for candidate in candidates}
    predictions = trials.proposals.cross_validated()
    return SearchResult(
        objective=config.search.objective,
        strategy=config.search.strategy,
        budget=config.budget.record(),
        study=history.study.study_name,
        conditions=evaluator.conditions,
        card=evaluator.meter.card,
        chosen=by_arch[chosen.arch] if chosen else None,
        smallest=by_arch[space.smallest()],
        largest=by_arch[space.largest()],
        candidates=tuple(candidates),
        finalists=tuple(finalists),
        verified=(),
        num_trials=history.num_finished,
        num_known=history.num_known,
        ended_by=trials.ended_by,
        reference_drift=evaluator.meter.drift(),
        predictions=in_units(predictions, by_arch[space.largest()].score.metric),
        seconds=Seconds(
            total=round(time.monotonic() - trials.begin, 2),
            scores=round(evaluator.scores_s, 2),
            costs=round(evaluator.meter.passes_s, 2),
            proposals=round(trials.proposing_s, 2),
        ),
    )


def numbered(candidates: Sequence[Candidate[Arch]], history: History) -> list[Candidate[Arch]]:
    """The candidates with the trial that `pick` knows each by: the study's first one, or None.

    What an earlier study judged first bears the number of a trial of that study.
    """
    study = history.study.study_name
    return [
        replace(c, asked_by=replace(c.asked_by, study=study, trial=history.numbers.get(c.arch)))
        for c in candidates
    ]


def in_units(predictions: Mapping[str, Prediction], metric: Metric) -> dict[str, Prediction]:
    """Predictions of the score are of its worth; here they are values of the metric."""
    found = dict(predictions)
    if "score" in found:
        found["score"] = replace(
            found["score"],
            predicted=tuple(map(metric.worth, found["score"].predicted)),
            measured=tuple(map(metric.worth, found["score"].measured)),
        )
    return found


def nearest_miss(result: SearchResult[Arch]) -> str:
    """Which budgets fail, and the candidate that comes closest to meeting all of them."""
    place, words = result.budgets.nearest_miss([c.costs for c in result.candidates])
    arch = json.dumps(to_record(result.candidates[place].arch))
    return f"no subnet meets the budgets. {words}. The nearest is {arch}"
