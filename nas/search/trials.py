"""The trials of one worker of a study: asked, judged and told until a limit is reached."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from nas.config.config import Config
from nas.exits import Stopped
from nas.records import Asker, Candidate, to_json
from nas.search.evaluator import Evaluator
from nas.search.history import History
from nas.search.proposals import Proposals
from nas.search.study import Adopted, adopt, ask, suggest
from nas.search.surrogate import OBJECTIVES
from nas.tracking import progress
from search_spaces.space import Arch


@dataclass
class Trials:
    """Asks, judges and tells, one worker of a study.

    What a trial takes besides passes of models and fits of predictors does not grow with what is
    known: only what is new is read and counted.
    """

    config: Config
    history: History
    evaluator: Evaluator
    proposals: Proposals
    worker: str
    begin: float  # of the command, by the monotonic clock
    stop: Sequence[int]  # signals that have come
    ended_by: str = "nothing to do"
    proposing_s: float = 0.0

    def run(self, console: Console) -> None:
        """Goes on until one of the limits of `search` is reached; raises Stopped for a signal."""
        learn_from(self.history, self.evaluator)
        total, done = self.config.search.trials, self.history.num_counted
        with progress(console, "search", total=total, done=min(done, total)) as bar:
            while not (ended_by := self.limit(done)):
                candidate = self.run_trial()
                if candidate is None:
                    ended_by = "no architecture is left"
                    break
                learn_from(self.history, self.evaluator)
                before, done = done, self.history.num_counted
                score = candidate.score
                last = {f"last_{score.metric.name}": score.value}
                bar.advance(min(done, total) - before, **last)
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
        if settings.patience and self.history.num_since_best >= settings.patience:
            return "search.patience"
        return ""

    def run_trial(self) -> Candidate[Arch] | None:
        """One trial; None if there is nothing left to propose."""
        begin = time.perf_counter()
        proposal = self.proposals.next()
        if proposal is None:
            return None
        # Looked up right before, since fitting predictors may have taken long.
        learn_from(self.history, self.evaluator)
        has_waiting = self.worker in self.history.waiting
        trial = ask(self.history.study, self.worker, *proposal, has_waiting=has_waiting)
        arch = suggest(trial, self.config.space)
        self.proposing_s += time.perf_counter() - begin
        asked_by = Asker(
            study=self.history.study.study_name,
            trial=trial.number,
            origin=trial.user_attrs["origin"],
            method=method(self.config),
        )
        candidate = self.evaluator.judge(arch, asked_by)
        # For workers that have another run folder.
        trial.set_user_attr("candidate", to_json(candidate))
        for key, excess in self.config.budget.violations(candidate.costs).items():
            trial.set_constraint(key, excess)
        self.history.study.tell(trial, objectives(self.config, candidate))
        return candidate


def learn_from(history: History, evaluator: Evaluator) -> None:
    """Takes over what the workers of a study have judged since, in whatever run folder."""
    for trial in history.update():
        if "candidate" in trial.user_attrs:
            evaluator.learn(trial.user_attrs["candidate"], f"trial {trial.number} of the study")
    evaluator.read()


def adopt_known(config: Config, history: History, run: Path, evaluator: Evaluator) -> None:
    """Makes trials of what the same method had judged for other questions.

    What other methods judged is known as well and not judged again; as trials it would make a
    method look as good as the others.
    """
    space = config.space
    records = [
        Adopted(
            params=space.encode(candidate.arch),
            values=objectives(config, candidate),
            constraints=config.budget.violations(candidate.costs),
        )
        for candidate in evaluator.candidates()
        if candidate.asked_by.method == method(config)
        and candidate.arch not in history.numbers
        and candidate.arch not in history.running
    ]
    adopt(history.study, run, records, space.choices())


def method(config: Config) -> str:
    """What proposes: comparisons of methods are fair if none begins with another's trials."""
    sampler = str(config.search.sampler["_target_"]).rpartition(".")[2]
    return f"{config.search.strategy} {sampler}"


def objectives(config: Config, candidate: Candidate[Arch]) -> list[float]:
    """Values of a trial: the score's worth, and the costs that are to be low."""
    costs = OBJECTIVES[config.search.objective]
    return [candidate.score.worth, *(candidate.costs.figure(cost) for cost in costs)]
