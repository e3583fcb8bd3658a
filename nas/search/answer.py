"""The answer of a search on the console: the front, the choice, and how it was judged."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from nas.records import Candidate, pareto_front, too_few_examples
from nas.results import SearchResult
from search_spaces.space import Arch, Space, to_record


def show_answer(result: SearchResult[Arch], space: Space[Arch], console: Console) -> None:
    """Prints the front, the chosen subnet beside the largest, and how it was judged."""
    within = [c for c in result.candidates if result.budgets.admit(c.costs)]
    front, chosen = pareto_front(within), result.chosen
    assert chosen is not None
    if front:  # another worker's session may have widened the interval of the only one
        console.print(candidate_table("Pareto front on val, within the budgets", front, space))
        if few := too_few_examples(front):
            console.print(few, markup=False, soft_wrap=True)
    console.print(candidate_table("chosen, and the largest", [chosen, result.largest], space))
    console.print(describe_choice(result, chosen), markup=False, soft_wrap=True)


def describe_choice(result: SearchResult[Arch], chosen: Candidate[Arch]) -> str:
    """The last lines of a search: the chosen subnet and how it was judged."""
    score, known, spent = chosen.score, chosen.costs.measurement, result.seconds
    again = next(f.again for f in result.finalists if f.arch == chosen.arch)
    afresh = (
        "measured on another machine, not again"
        if again == known
        else f"side by side with the other finalists {again.ratio:.4f} "
        f"[{again.ratio_low:.4f}, {again.ratio_high:.4f}]"
    )
    lines = [
        f"chosen: {json.dumps(to_record(chosen.arch))}",
        f"{score.split} {score.metric.words} {score.metric.text(score.value)} of "
        f"{score.num_examples} examples; latency of the largest {known.ratio:.4f} "
        f"[{known.ratio_low:.4f}, {known.ratio_high:.4f}], {known.num_passes} paired passes in "
        f"{known.num_sessions} sessions; {afresh}; {known.latency_ms:.3f} ms a batch of "
        f"{result.card.batch_size}",
    ]
    for bound in result.budgets:
        value, margin = bound.text(chosen.costs.figure(bound.cost)), -bound.excess(chosen.costs)
        limit = f"{bound.sign} {bound.text(bound.limit)}"
        lines.append(f"budget.{bound.key}: {value} {limit}, margin {margin:.1%}")
    lines.append(
        f"{result.num_trials} trials, {result.num_known} of them answered before; "
        f"{len(result.candidates)} architectures evaluated so far; ended by {result.ended_by}; "
        f"{spent.total:.0f} s, of which scores {spent.scores:.0f} s, passes for latency and "
        f"memory {spent.costs:.0f} s; the reference's milliseconds ranged over "
        f"{result.reference_drift:.1%}; on {result.card.describe()}"
    )
    return "\n".join(lines)


def candidate_table(title: str, candidates: Sequence[Candidate[Arch]], space: Space[Arch]) -> Table:
    """One row a candidate, of which there is at least one."""
    table, metric = Table(title=title), candidates[0].score.metric
    archs = [space.describe(candidate.arch) for candidate in candidates]
    columns = ("trial", f"val {metric.words}", "latency of largest", "latency ms", "stored params")
    for column in (*columns, *archs[0]):
        table.add_column(column, justify="right", overflow="fold")
    for candidate, arch in zip(candidates, archs, strict=True):
        trial, costs = candidate.asked_by.trial, candidate.costs
        table.add_row(
            "-" if trial is None else str(trial),
            metric.text(candidate.score.value),
            f"{costs.measurement.ratio:.3f}",
            f"{costs.measurement.latency_ms:.3f}",
            f"{costs.counts.params:,}",
            *arch.values(),
        )
    return table
