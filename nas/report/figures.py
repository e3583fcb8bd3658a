"""The report's plotly figures: Pareto fronts and training curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.io import to_html

from nas.report.formatting import (
    Record,
    describe_arch,
    finite,
    fraction,
    number,
    percent,
    span,
    text,
    top1_interval,
)

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, VERMILION, GREEN, AMBER, SKY, PURPLE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#e69f00",
    "#56b4e9",
    "#cc79a7",
)
INK, GREY, PALE = "#1f2933", "#9aa5b1", "#e4e7eb"

MARKS = {  # the named subnets: colour, symbol, size in pixels
    "largest": (INK, "diamond", 12),
    "smallest": (INK, "triangle-down", 12),
    "chosen": (VERMILION, "star", 17),
}

MOST_POINTS = 2000  # of one trace; more only makes the page slow


@dataclass(frozen=True)
class Cost:
    """A figure of merit that is better when smaller, and its key as a fraction of the largest's."""

    key: str
    of_largest: str
    title: str
    tickformat: str


def meets(candidate: Record, budget: Record) -> bool:
    """Whether every bound is met; a figure that is missing was not shown to meet its bound.

    As in the search, a latency is judged by the upper end of its 95 % interval.
    """
    margin = fraction(candidate.get("ratio_high"), candidate.get("ratio")) or 1.0
    for name, limit in budget.items():
        value, bound = finite(candidate.get(name)), finite(limit)
        if value is None or bound is None:
            return False
        if value * (margin if name.startswith("latency") else 1.0) > bound:
            return False
    return True


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


def bounds_on(cost: Cost, budget: Record, record: Record) -> list[tuple[str, float]]:
    """Label and place on the axis of each bound on this cost.

    What the fractions are of is worked out from any `record`: for latency it is the table's
    reference, which the largest subnet's own measurement only comes near to.
    """
    bounds = []
    limit = finite(budget.get(cost.key))
    if limit is not None:
        bounds.append((f"{cost.key} \u2264 {number(limit)}", limit))
    limit = finite(budget.get(cost.of_largest))
    whole = fraction(record.get(cost.key), record.get(cost.of_largest))
    if limit is not None and whole is not None:
        bounds.append((f"{cost.of_largest} \u2264 {number(limit)}", limit * whole))
    return bounds


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
        f"first judged as trial {number(record.get('trial'))} of {text(record.get('study'))}, "
        f"supernet at step {number(record.get('step'))}",
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
    met = [record for record in drawn if meets(record, budget)]
    broken = [record for record in drawn if not meets(record, budget)]
    if broken:
        figure.add_trace(points(broken, cost, "breaks a budget", GREY, "circle-open"))
        figure.add_trace(front(drawn, cost, "unbounded front", GREY, "dot"))
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
    if interval is None:
        return None
    low, high = interval
    top1 = float(record["top1"])
    return {
        "array": [high - top1],
        "arrayminus": [top1 - low],
        "color": colour,
        "thickness": 1,
        "width": 4,
    }


def draw_bounds(
    figure: go.Figure, bounds: Sequence[tuple[str, float]], costs: Sequence[float]
) -> None:
    """Draws each bound as a vertical line and sets the axis to hold them and the costs.

    A bound far beyond every point would squeeze the points together: it is only named, at the edge.
    """
    ends = [x for _, x in bounds if x <= 1.5 * max(costs)] + list(costs)
    margin = 0.05 * ((max(ends) - min(ends)) or abs(max(ends)) or 1)
    left, right = min(ends) - margin, max(ends) + margin
    figure.update_xaxes(range=[left, right])
    figure.update_layout(margin_t=40 + 17 * len(bounds))  # the tool bar's height and the labels'
    for row, (label, x) in enumerate(bounds):
        if x <= right:
            figure.add_vline(x=x, line={"color": VERMILION, "dash": "dash", "width": 1})
        # Labels stand above the plot, one row each, where no point can lie under them.
        figure.add_annotation(
            x=min(x, right),
            y=1,
            yref="paper",
            yshift=12 + 17 * row,
            text=label if x <= right else f"{label} \u2192",
            xanchor="left" if x < (left + right) / 2 else "right",
            showarrow=False,
            font={"color": VERMILION, "size": 12},
        )


def curve_figure(records: Sequence[Record], key: str, title: str) -> go.Figure:
    """A figure of the training records over epochs."""
    figure = go.Figure(layout=layout("epoch", title))
    kept = [record for record in records if finite(record.get(key)) is not None]
    figure.add_trace(curve(thinned(kept), key, title, BLUE, "lines"))
    figure.update_layout(showlegend=False)
    return figure


def thinned(records: Sequence[Record]) -> Sequence[Record]:
    """Evenly spaced records, no more than a figure can show."""
    return records[:: max(1, math.ceil(len(records) / MOST_POINTS))]


def probe_figure(records: Sequence[Record]) -> go.Figure:
    """top-1 of every probe subnet over epochs."""
    figure = go.Figure(layout=layout("epoch", "val top-1"))
    colours = (BLUE, VERMILION, GREEN, AMBER, PURPLE, SKY, INK, GREY)
    for index, probe in enumerate(dict.fromkeys(str(record.get("probe")) for record in records)):
        own = [record for record in records if str(record.get("probe")) == probe]
        colour = colours[index % len(colours)]
        figure.add_trace(curve(own, "top1", text(probe), colour, "lines+markers"))
    figure.update_layout(showlegend=True)
    figure.update_yaxes(tickformat=".0%")
    return figure


def curve(records: Sequence[Record], key: str, name: str, colour: str, mode: str) -> go.Scatter:
    return go.Scatter(
        x=[finite(record.get("epoch")) for record in records],
        y=[finite(record.get(key)) for record in records],
        customdata=[number(record.get("step")) for record in records],
        mode=mode,
        name=name,
        line={"color": colour, "width": 1.5},
        marker={"size": 5},
        hovertemplate=f"{name} %{{y}}<br>epoch %{{x:.2f}}, step %{{customdata}}<extra></extra>",
    )


def layout(x_title: str, y_title: str) -> go.Layout:
    """The look that all figures share."""
    axis = {"gridcolor": PALE, "linecolor": GREY, "zeroline": False, "automargin": True}
    return go.Layout(
        template="none",
        font={"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 13, "color": INK},
        xaxis={**axis, "title": {"text": x_title, "standoff": 8}},
        yaxis={**axis, "title": {"text": y_title, "standoff": 8}},
        margin={"l": 10, "r": 16, "t": 48, "b": 10},
        legend={
            "orientation": "h",
            "font": {"size": 12},
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "x": 0,
            "xref": "container",
        },
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": INK}},
        height=430,
    )


def plot(figure: go.Figure, name: str) -> str:
    """The figure as HTML for a page that holds plotly.js already; `name` is its element's id."""
    return to_html(
        figure,
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_height=f"{figure.layout.height}px",
        config={
            "responsive": True,
            "displaylogo": False,
            "modeBarButtonsToRemove": ["select2d", "lasso2d"],
        },
    )
