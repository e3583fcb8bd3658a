"""The section of the report on accuracy against costs, with its fronts."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from nas.report.budgets import LOWER, Cost, bounds_on, draw_bounds, meets, sign
from nas.report.figures import BLUE, GREY, INK, VERMILION, error_bars, layout, plot
from nas.report.formatting import (
    Record,
    absent,
    describe_arch,
    distinct,
    finite,
    listed,
    number,
    panel,
    percent,
    section,
    span,
    text,
    top1_interval,
)
from nas.report.reading import RunFiles, is_partial

MARKS = {  # the named subnets: colour, symbol, size in pixels
    "largest": (INK, "diamond", 12),
    "smallest": (INK, "triangle-down", 12),
    "chosen": (VERMILION, "star", 17),
}


def pareto(files: RunFiles) -> str:
    """Every candidate of the search against what it costs."""
    judged = files.judged()
    if not judged:
        sentence = f"No candidates were evaluated yet: {files.command('search')} evaluates them."
        return section("Pareto front", absent(sentence))
    batch = number(files.device(judged[-1].get("digest")).get("batch_size"))
    costs = [
        Cost("latency_ms", "latency_of_largest", f"latency, ms a batch of {batch}", ",~r"),
        Cost("params", "params_of_largest", "stored parameters, factorised or merged", "~s"),
    ]
    panels = [
        plot(pareto_figure(judged, files.named(), files.budget(), cost), cost.key) for cost in costs
    ]
    return section("Pareto front", candidates_caption(files, costs) + panel("two", panels))


def candidates_caption(files: RunFiles, costs: Sequence[Cost]) -> str:
    """How many candidates, on which split and device, and what the marks mean."""
    judged, budget = files.judged(), files.budget()
    met = sum(meets(record, budget) for record in judged)
    undrawn = {cost.key: len(judged) - len(drawable(judged, cost)) for cost in costs}
    bounds = ", ".join(
        f"{text(name.removeprefix(LOWER))} {sign(name)} {number(limit)}"
        for name, limit in budget.items()
    )
    num_partial = sum(map(is_partial, judged))
    wholes = [candidate for candidate in judged if not is_partial(candidate)]
    others = files.num_others()
    sentences = [
        f"{len(judged):,} architectures were evaluated so far, smallest and largest among them; "
        f"the last search has {number(files.search.get('num_trials'))} trials.",
        f"Budgets: {bounds}; {met:,} candidates meet all of them, a latency by the worse end of "
        "its 95&nbsp;% interval."
        if bounds
        else "No budget was set.",
        f"Accuracy: top-1 on {listed(distinct(c.get('split') for c in judged))}, "
        f"{listed(distinct(c.get('num_examples') for c in wholes))} examples, supernet at step "
        f"{listed(distinct(c.get('step') for c in judged))}.",
        f"Evaluated on the first of these examples alone: {num_partial:,}; that sufficed to see "
        "that another is better at no more cost. Their accuracy is uncertain: they are on no front."
        if num_partial
        else "",
        f"Latency measured on {describe_card(files.device(judged[-1].get('digest')))}.",
        "Bars on the named subnets are 95&nbsp;% intervals: smaller differences may be chance. "
        "Hover over a point for its architecture and all figures.",
        *(f"{count:,} without {key} are not drawn." for key, count in undrawn.items() if count),
        f"{others:,} of other weights or another target are not shown." if others else "",
    ]
    return f'<p class="soft">{" ".join(filter(None, sentences))}</p>'


def pareto_front(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Indices, by rising cost, of the points that no other point dominates.

    A point dominates another if it costs no more and scores no less, and differs.
    """
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -scores[i])):
        last = front[-1] if front else None
        same = last is not None and (costs[last], scores[last]) == (costs[index], scores[index])
        if last is None or same or scores[index] > scores[last]:
            front.append(index)
    return front


def hover(record: Record, name: str = "") -> str:
    """All figures of a candidate, one a line."""
    interval = top1_interval(record)
    arch = record.get("arch")
    fields = arch.items() if isinstance(arch, dict) else ()
    lines = [
        f"<b>{text(name)}</b>" if name else "",
        *(describe_arch({key: value}) for key, value in fields),
        f"<b>{text(record.get('split'))} top-1 {percent(record.get('top1'))}</b> of "
        f"{number(record.get('num_examples'))} examples"
        + (f", 95 % interval {span(*interval, 100, 1)} %" if interval else ""),
        f"latency {number(record.get('latency_ms'), 'ms')}, "
        f"{number(record.get('latency_of_largest'))} of largest, 95 % interval "
        f"{span(record.get('ratio_low'), record.get('ratio_high'))}",
        f"stored parameters {number(record.get('params'))}, "
        f"{number(record.get('params_of_largest'))} of largest",
        f"factorised {number(record.get('stored_factorised'))}, "
        f"merged {number(record.get('stored_merged'))}, "
        f"resident {number(record.get('resident'))}",
        f"memory {number(record.get('memory_mib'), 'MiB')}, "
        f"{number(record.get('memory_of_largest'))} of largest",
        f"FLOPs {number(record.get('flops'))} an image",
        f"trial {number(record.get('trial'))} of {text(record.get('study'))}, proposed by "
        f"{text(record.get('origin'))}, supernet at step {number(record.get('step'))}",
    ]
    return "<br>".join(line for line in lines if line)


def drawable(records: Sequence[Record], cost: Cost) -> list[Record]:
    """The records that have both coordinates."""
    return [
        record
        for record in records
        if finite(record.get(cost.key)) is not None and finite(record.get("top1")) is not None
    ]


def pareto_figure(
    candidates: Sequence[Record], named: Mapping[str, Record], budget: Record, cost: Cost
) -> go.Figure:
    """top-1 against a cost: every candidate, the fronts, the budget's bounds, the named subnets."""
    figure = go.Figure(layout=layout(cost.title, "val top-1"))
    drawn = drawable(candidates, cost)
    whole = [record for record in drawn if not is_partial(record)]
    partial = [record for record in drawn if is_partial(record)]
    met = [record for record in whole if meets(record, budget)]
    broken = [record for record in whole if not meets(record, budget)]
    if partial:
        figure.add_trace(points(partial, cost, "part of val only", GREY, "diamond-open"))
    if broken:
        figure.add_trace(points(broken, cost, "breaks a budget", GREY, "circle-open"))
        figure.add_trace(front(whole, cost, "unbounded front", GREY, "dot"))
    figure.add_trace(points(met, cost, "meets budgets" if budget else "candidate", BLUE))
    figure.add_trace(front(met, cost, "Pareto front", BLUE, "solid"))
    for name, (colour, symbol, size) in MARKS.items():
        for record in drawable([named[name]] if name in named else [], cost):
            trace = points([record], cost, name, colour, symbol)
            trace.update(marker_size=size, marker_opacity=1, error_y=error_bar(record, colour))
            figure.add_trace(trace)
    shown = [*drawn, *drawable(list(named.values()), cost)]
    if shown:
        costs = [float(record[cost.key]) for record in shown]
        draw_bounds(figure, bounds_on(cost, budget, shown[0]), costs)
    figure.update_layout(height=480)
    figure.update_xaxes(tickformat=cost.tickformat)
    figure.update_yaxes(tickformat=".1%")
    return figure


def points(
    records: Sequence[Record], cost: Cost, name: str, colour: str, symbol: str = "circle"
) -> go.Scatter:
    return go.Scatter(
        x=[float(record[cost.key]) for record in records],
        y=[float(record["top1"]) for record in records],
        mode="markers",
        name=name,
        marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.75},
        hovertext=[hover(record, name if name in MARKS else "") for record in records],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def front(records: Sequence[Record], cost: Cost, name: str, colour: str, dash: str) -> go.Scatter:
    costs = [float(record[cost.key]) for record in records]
    scores = [float(record["top1"]) for record in records]
    chosen = pareto_front(costs, scores)
    return go.Scatter(
        x=[costs[index] for index in chosen],
        y=[scores[index] for index in chosen],
        mode="lines",
        name=name,
        line={"color": colour, "shape": "hv", "dash": dash, "width": 1.5},
        hoverinfo="skip",
    )


def error_bar(record: Record, colour: str) -> dict[str, object] | None:
    """The top-1's 95 % interval as plotly draws it."""
    interval = top1_interval(record)
    return error_bars([float(record["top1"])], [interval], colour) if interval else None


def describe_card(card: Record) -> str:
    """A device's card in one line."""
    facts = [text(card.get(key)) for key in ("device", "dtype", "runtime")]
    return (
        f"{text(card.get('name'))} ({', '.join(facts)}, CPU threads {number(card.get('threads'))}, "
        f"torch {text(card.get('torch_version'))})"
    )
