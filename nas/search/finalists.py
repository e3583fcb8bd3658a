"""The last word of a search: finalists measured side by side, the choice, and its verification."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from nas.config.config import Config
from nas.config.sections import MIN
from nas.exits import Stopped
from nas.hardware.device import DeviceCard
from nas.measure.meter import MOST_SESSIONS, excess, figure, is_met, straddled, violations
from nas.search.evaluator import Candidate, Judge, is_complete, may_exceed, preference, within
from search_spaces.cell import CellArch

Say = Callable[[str], None]


def choose(config: Config, judge: Judge, say: Say) -> tuple[Candidate | None, list[dict[str, Any]]]:
    """The best candidate that still meets the budgets when measured afresh, and all measured so.

    The best few take turns in one session more. Whoever misses a budget by all its sessions
    together is out, and the next few follow.
    """
    bounds = config.budget.bounds()
    measured: list[dict[str, Any]] = []
    while True:
        tried = [record["arch"] for record in measured]
        ranked = [c for c in ranking(config, judge, bounds) if c["arch"] not in tried]
        finalists = ranked[: config.search.finalists]
        if not finalists:
            return None, measured
        if judge.meter.elsewhere:  # nothing can be measured again
            return finalists[0], []
        fresh = measure_again(config, judge, finalists)
        measured += [final_record(*pair, bounds) for pair in zip(finalists, fresh, strict=True)]
        known = zip(finalists, measured[-len(finalists) :], strict=True)
        standing = within(
            [{**judge.meter.refreshed(before), "measured_again": again} for before, again in known],
            bounds,
        )
        if standing:
            return min(standing, key=preference), measured
        say(f"the {len(finalists)} best subnets missed a budget when measured again; others follow")


def ranking(config: Config, judge: Judge, bounds: Mapping[str, float]) -> list[Candidate]:
    """Candidates within the budgets, the best first.

    Whoever might belong to the finalists is known well enough to say: evaluated on the whole split,
    and measured more where a bound lies within the latency's interval.
    """
    while True:
        candidates = judge.candidates()
        ranked = sorted(filter(is_complete, within(candidates, bounds)), key=preference)
        finalists = ranked[: config.search.finalists]
        enough = len(finalists) == config.search.finalists
        cutoff = finalists[-1]["top1"] if enough else 0.0
        unsure = [c for c in candidates if may_exceed(c, cutoff) and is_unsure(judge, c, bounds)]
        if not unsure:
            return ranked
        best = min(unsure, key=preference)
        asked_by = {key: best[key] for key in ("study", "trial", "origin", "method")}
        judge.judge(config.space.from_record(best["arch"]), bounds, whole=True, **asked_by)


def is_unsure(judge: Judge, candidate: Candidate, bounds: Mapping[str, float]) -> bool:
    """Whether more evaluation or measuring would tell if a candidate is within the budgets."""
    broken = {key for key, excess in violations(candidate, bounds).items() if excess > 0}
    if not broken:
        return not is_complete(candidate)
    measurable = not judge.meter.elsewhere and candidate["num_sessions"] < MOST_SESSIONS
    return measurable and broken <= set(straddled(candidate, bounds))


def measure_again(
    config: Config, judge: Judge, finalists: Sequence[Candidate]
) -> list[dict[str, Any]]:
    """The candidates with the figures of one fresh session alone."""
    archs = [config.space.from_record(candidate["arch"]) for candidate in finalists]
    sessions = judge.meter.side_by_side(archs)
    pairs = zip(finalists, sessions, strict=True)
    return [judge.meter.with_session(candidate, session) for candidate, session in pairs]


def final_record(
    before: Candidate, again: Mapping[str, Any], bounds: Mapping[str, float]
) -> dict[str, Any]:
    keys = ("ratio", "ratio_low", "ratio_high", "latency_ms", "num_passes")
    return {
        "arch": before["arch"],
        "top1": before["top1"],
        "searched_ratio": before["ratio"],
        **{key: again[key] for key in keys},
        "met": all(is_met(again, key, bound) for key, bound in bounds.items()),
    }


def verify(
    config: Config, judge: Judge, chosen: Candidate, stop: Sequence[int], say: Say
) -> list[dict[str, Any]]:
    """Measures the chosen subnet `search.verify` times more, after a pause each."""
    bounds, found = config.budget.bounds(), []
    for number in range(1, config.search.verify + 1):
        wait(config.search.verify_pause_s, stop)
        (again,) = measure_again(config, judge, [chosen])
        found.append(final_record(chosen, again, bounds))
        say(
            f"verify {number}: ratio {again['ratio']:.4f} [{again['ratio_low']:.4f}, "
            f"{again['ratio_high']:.4f}], {again['ratio'] / chosen['ratio'] - 1:+.1%} from the "
            f"search's; budgets {'met' if found[-1]['met'] else 'MISSED'}"
        )
    return found


def wait(pause_s: float, stop: Sequence[int]) -> None:
    """Raises Stopped as soon as a signal has come."""
    deadline = time.monotonic() + pause_s
    while not stop and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))
    if stop:
        raise Stopped(stop[0])


def describe_choice(record: Mapping[str, Any], card: DeviceCard, num_examples: int) -> str:
    """The last lines of a search: the chosen subnet and how it was judged."""
    chosen, spent = record["chosen"], record["seconds"]
    again = chosen.get("measured_again")
    afresh = (
        f"side by side with the other finalists {again['ratio']:.4f} "
        f"[{again['ratio_low']:.4f}, {again['ratio_high']:.4f}]"
        if again
        else "measured on another machine, not again"
    )
    lines = [
        f"chosen: {json.dumps(chosen['arch'])}",
        f"val top-1 {chosen['top1']:.4f} of {num_examples} images; latency of the largest "
        f"{chosen['ratio']:.4f} [{chosen['ratio_low']:.4f}, {chosen['ratio_high']:.4f}], "
        f"{chosen['num_passes']} paired passes in {chosen['num_sessions']} sessions; {afresh}; "
        f"{chosen['latency_ms']:.3f} ms a batch of {card.batch_size}",
    ]
    for key, bound in record["budget"].items():
        value, margin = chosen[key.removeprefix(MIN)], -excess(chosen, key, bound, worse=True)
        sign = ">=" if key.startswith(MIN) else "<="
        lines.append(
            f"budget.{key}: {figure(key, value)} {sign} {figure(key, bound)}, margin {margin:.1%}"
        )
    lines.append(
        f"{record['num_trials']} trials, {record['num_known']} of them answered before; "
        f"{record['num_evaluated']} architectures evaluated so far; ended by {record['ended_by']}; "
        f"{spent['total']:.0f} s, of which accuracy {spent['accuracy']:.0f} s, passes for latency "
        f"and memory {spent['costs']:.0f} s; the reference's milliseconds ranged over "
        f"{record['reference_drift']:.1%}; on {card.describe()}"
    )
    return "\n".join(lines)


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
