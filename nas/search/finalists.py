"""The end of a search: finalists measured side by side, the choice, and its verification."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from nas.config.sections import SearchConfig
from nas.exits import Stopped
from nas.records import Candidate, Finalist, preference
from nas.search.evaluator import Evaluator
from search_spaces.space import Arch

Say = Callable[[str], None]


def choose(
    settings: SearchConfig, evaluator: Evaluator, say: Say
) -> tuple[Candidate[Arch] | None, list[Finalist[Arch]]]:
    """The best candidate that still meets the budgets when measured afresh, and all measured so.

    The best few take turns in one session more. Whoever misses a budget by all its sessions
    together is out, and the next few follow.
    """
    measured: list[Finalist[Arch]] = []
    while True:
        tried = [finalist.arch for finalist in measured]
        ranked = [c for c in ranking(settings, evaluator) if c.arch not in tried]
        best = ranked[: settings.finalists]
        if not best:
            return None, measured
        measured += measure_again(evaluator, best)
        known = [evaluator.refreshed(candidate) for candidate in best]
        standing = [c for c in known if evaluator.budgets.admit(c.costs)]
        if standing:
            return min(standing, key=preference), measured
        say(f"the {len(best)} best subnets missed a budget when measured again; others follow")


def ranking(settings: SearchConfig, evaluator: Evaluator) -> list[Candidate[Arch]]:
    """Candidates within the budgets, the best first.

    Whoever might belong to the finalists is known well enough to say: evaluated on the whole split,
    and measured more where a bound lies within the latency's interval.
    """
    while True:
        candidates = evaluator.candidates()
        within = [c for c in candidates if evaluator.budgets.admit(c.costs)]
        ranked = sorted((c for c in within if c.score.complete), key=preference)
        finalists = ranked[: settings.finalists]
        enough = len(finalists) == settings.finalists
        cutoff = finalists[-1].score.worth if enough else -math.inf
        unsure = [c for c in candidates if c.score.may_reach(cutoff) and is_unsure(evaluator, c)]
        if not unsure:
            return ranked
        best = min(unsure, key=preference)
        evaluator.judge(best.arch, best.asked_by, whole=True)


def is_unsure(evaluator: Evaluator, candidate: Candidate[Arch]) -> bool:
    """Whether more evaluation or measuring would tell if a candidate is within the budgets."""
    costs, budgets = candidate.costs, evaluator.budgets
    broken = {key for key, excess in budgets.violations(costs).items() if excess > 0}
    if not broken:
        return not candidate.score.complete
    return evaluator.meter.can_improve(costs) and broken <= set(budgets.straddled(costs))


def measure_again(
    evaluator: Evaluator, candidates: Sequence[Candidate[Arch]]
) -> list[Finalist[Arch]]:
    """The candidates by one fresh session alone, where the meter can have one."""
    sessions = evaluator.meter.side_by_side([candidate.arch for candidate in candidates])
    found = []
    for candidate, again in zip(candidates, sessions, strict=True):
        fresh = replace(candidate.costs, measurement=again)
        finalist = Finalist(
            arch=candidate.arch,
            score=candidate.score,
            searched_ratio=candidate.costs.measurement.ratio,
            again=again,
            met=all(bound.is_met(fresh) for bound in evaluator.budgets),
        )
        found.append(finalist)
    return found


def verify(
    settings: SearchConfig,
    evaluator: Evaluator,
    chosen: Candidate[Arch],
    stop: Sequence[int],
    say: Say,
) -> list[Finalist[Arch]]:
    """Measures the chosen subnet `search.verify` times more, after a pause each."""
    found = []
    for number in range(1, settings.verify + 1):
        wait(settings.verify_pause_s, stop)
        (finalist,) = measure_again(evaluator, [chosen])
        found.append(finalist)
        again = finalist.again
        say(
            f"verify {number}: ratio {again.ratio:.4f} [{again.ratio_low:.4f}, "
            f"{again.ratio_high:.4f}], {again.ratio / finalist.searched_ratio - 1:+.1%} from the "
            f"search's; budgets {'met' if finalist.met else 'MISSED'}"
        )
    return found


def wait(pause_s: float, stop: Sequence[int]) -> None:
    """Raises Stopped as soon as a signal has come."""
    deadline = time.monotonic() + pause_s
    while not stop and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))
    if stop:
        raise Stopped(stop[0])
