"""The section on scores against costs: every candidate of the search, and its fronts."""

from collections.abc import Sequence

import plotly.graph_objects as go

from nas.records import Candidate, pareto_front, too_few_examples
from nas.report import draw, show
from nas.report.draw import BLUE, GREY, INK, VERMILION
from nas.report.run_files import RunFiles
from nas.report.show import INTERVAL, number, text
from search_spaces.space import Arch

TITLE = "Pareto front"
NAMED = {  # subnets: colour, symbol, size in pixels
    "largest": (INK, "diamond", 12),
    "smallest": (INK, "triangle-down", 12),
    "chosen": (VERMILION, "star", 17),
}
AXES = {  # costs, with the format of their ticks, and the same relative to the largest subnet's
    "latency_ms": (",~r", "latency_of_largest"),
    "params": ("~s", "params_of_largest"),
}

Candidates = Sequence[Candidate[Arch]]


def pareto(files: RunFiles) -> str:
    """Every candidate of the search against what it costs."""
    judged, search = files.judged, files.search
    if not judged:
        sentence = f"No candidates were evaluated yet: {files.command('search')} evaluates them."
        return show.absent(TITLE, sentence)
    whole = [one.score.num_examples for one in judged if one.score.complete]
    met, partial = sum(map(files.meets, judged)), len(judged) - len(whole)
    bounds = ", ".join(map(show.bound, files.budgets))
    few = too_few_examples(pareto_front([one for one in judged if files.meets(one)]))
    caption = show.paragraph(
        f"{len(judged):,} architectures were evaluated so far, smallest and largest among them.",
        search and f"The last search has {search.num_trials:,} trials.",
        f"Budgets: {bounds or 'none'}; {met:,} candidates meet all of them, a latency by the worse "
        f"end of its {INTERVAL}.",
        f"Score: {files.metric.words} on {show.distinct(one.score.split for one in judged)}, "
        f"{show.distinct(whole)} examples, supernet at step "
        f"{show.distinct(one.conditions.step for one in judged)}.",
        partial
        and f"Evaluated on the first of these examples alone: {partial:,}; that sufficed to see "
        "that another is better at no more cost. Their score is uncertain: they are on no front.",
        files.card and f"Latency measured on {text(files.card.describe())}.",
        "Bars on the named subnets are 95&nbsp;% intervals: smaller differences may be chance. "
        "Hover over a point for its architecture and all figures.",
        few and text(few),
        files.num_others
        and f"{files.num_others:,} of other weights, another target or an older format are not "
        "shown.",
    )
    figures = [draw.plot(pareto_figure(files, cost), cost) for cost in AXES]
    return show.section(TITLE, caption + show.panel("two", figures))


def pareto_figure(files: RunFiles, cost: str) -> go.Figure:
    """Scores against a cost: every candidate, the fronts, the budgets' bounds, named subnets."""
    whole = [one for one in files.judged if one.score.complete]
    partial = [one for one in files.judged if not one.score.complete]
    met = [one for one in whole if files.meets(one)]
    broken = [one for one in whole if not files.meets(one)]
    traces = []
    if partial:
        traces.append(marks(files, partial, cost, "part of val only", GREY, "diamond-open"))
    if broken:
        traces.append(marks(files, broken, cost, "breaks a budget", GREY, "circle-open"))
        traces.append(front(whole, cost, "unbounded front", GREY, "dot"))
    name = "meets budgets" if files.budgets else "candidate"
    traces.append(marks(files, met, cost, name, BLUE, "circle"))
    traces.append(front(met, cost, "Pareto front", BLUE, "solid"))
    for name, (colour, symbol, size) in NAMED.items():
        if one := files.named.get(name):
            bar = draw.error_bars([one.score.value], [(one.score.low, one.score.high)], colour)
            trace = marks(files, [one], cost, name, colour, symbol)
            traces.append(trace.update(marker_size=size, marker_opacity=1, error_y=bar))
    batch = f" of {files.card.batch_size}" if files.card and cost == "latency_ms" else ""
    titles = draw.COSTS[cost] + batch, show.axis(files.metric)
    form, (x_format, relative) = show.tick_format(files.metric.is_fraction), AXES[cost]
    drawn = draw.figure(*titles, traces, height=480, x_format=x_format, y_format=form)
    costs = [one.costs for one in (*files.judged, *files.named.values())]
    units = {cost: 1.0, relative: costs[0].figure(cost) / costs[0].figure(relative)}
    bounds = draw.places(files.budgets, units)
    return draw.with_bounds(drawn, bounds, [one.figure(cost) for one in costs])


def marks(
    files: RunFiles, candidates: Candidates, cost: str, name: str, colour: str, symbol: str
) -> go.Scatter:
    xs = [one.costs.figure(cost) for one in candidates]
    ys = [one.score.value for one in candidates]
    title = f"<b>{name}</b><br>" if name in NAMED else ""
    told = [title + hover(files, one) for one in candidates]
    look = {"color": colour, "symbol": symbol, "size": 8, "opacity": 0.75}
    return draw.trace(xs, ys, name, "%{hovertext}", hovertext=told, marker=look)


def front(candidates: Candidates, cost: str, name: str, colour: str, dash: str) -> go.Scatter:
    """The part of the Pareto front that no other point of this plane dominates."""
    drawn: list[Candidate[Arch]] = []
    ranked = pareto_front(candidates)
    for one in sorted(ranked, key=lambda one: (one.costs.figure(cost), -one.score.worth)):
        if not drawn or one.score.worth > drawn[-1].score.worth:
            drawn.append(one)
    xs, ys = [one.costs.figure(cost) for one in drawn], [one.score.value for one in drawn]
    look = {"color": colour, "shape": "hv", "dash": dash, "width": 1.5}
    return draw.trace(xs, ys, name, mode="lines", line=look)


def hover(files: RunFiles, one: Candidate[Arch]) -> str:
    """All figures of a candidate, one a line."""
    score, costs, asker = one.score, one.costs, one.asked_by
    known, counts = costs.measurement, costs.counts
    lines = [
        show.arch(files.space, one.arch, "<br>"),
        f"<b>{text(score.split)} {files.metric.words} {files.metric.text(score.value)}</b>, "
        + show.evidence(score),
        f"latency {number(known.latency_ms, 'ms')}, {show.ratio(known)} of largest",
        f"stored parameters {number(counts.params)}, {number(costs.params_of_largest)} of largest",
        f"factorised {number(counts.stored_factorised)}, merged {number(counts.stored_merged)}, "
        f"resident {number(counts.resident)}",
        f"memory {number(known.memory_mib, 'MiB')}, {number(costs.memory_of_largest)} of largest",
        f"FLOPs {number(known.flops)} an example",
        f"trial {number(asker.trial)} of {text(asker.study)}, proposed by {text(asker.origin)}, "
        f"supernet at step {number(one.conditions.step)}",
    ]
    return "<br>".join(lines)
