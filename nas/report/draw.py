"""What the report's plotly figures share: their look, traces, and the bounds on an axis."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import plotly.graph_objects as go
from plotly.io import to_html

from nas.budgets import Bound, Budgets
from nas.report import show
from nas.report.run_files import Logged

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
AMBER, SKY, PURPLE = "#e69f00", "#56b4e9", "#cc79a7"
INK, GREY, PALE = "#1f2933", "#9aa5b1", "#e4e7eb"

COSTS = {  # of axes: in words, with units
    "latency_ms": "latency, ms a batch",
    "latency_of_largest": "latency, ratio to the largest subnet's",
    "params": "stored parameters, factorised or merged",
    "params_of_largest": "stored parameters, ratio to the largest subnet's",
    "memory_mib": "peak memory, MiB a batch",
    "memory_of_largest": "peak memory, ratio to the largest subnet's",
}
MOST_POINTS = 2000  # of one trace; more only makes the page slow

T = TypeVar("T")


def figure(
    x_title: str,
    y_title: str,
    traces: Iterable[object],
    *,
    height: int = 430,
    x_format: str = "",
    y_format: str = "",
) -> go.Figure:
    """The traces with the look that all figures share."""
    axis = {"gridcolor": PALE, "linecolor": GREY, "zeroline": False, "automargin": True}
    x = {"title": {"text": x_title, "standoff": 8}, "tickformat": x_format}
    y = {"title": {"text": y_title, "standoff": 8}, "tickformat": y_format}
    below = {"yanchor": "bottom", "y": 0, "yref": "container", "x": 0, "xref": "container"}
    look = go.Layout(
        template="none",
        font={"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 13, "color": INK},
        xaxis=axis | x,
        yaxis=axis | y,
        margin={"l": 10, "r": 16, "t": 48, "b": 10},
        legend={"orientation": "h", "font": {"size": 12}, **below},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": INK}},
        height=height,
    )
    return go.Figure(data=list(traces), layout=look)


def named_rows(drawn: go.Figure) -> go.Figure:
    """The figure with names on its vertical axis, from the top."""
    return drawn.update_yaxes(type="category", autorange="reversed", title=None)


def trace(
    xs: Iterable[object], ys: Iterable[object], name: str, hover: str = "", **look: object
) -> go.Scatter:
    """Markers, unless the look, in plotly's names, says otherwise; the mouse passes over it where
    `hover` is empty."""
    told = {"hovertemplate": f"{hover}<extra></extra>"} if hover else {"hoverinfo": "skip"}
    return go.Scatter(x=list(xs), y=list(ys), name=name, **{"mode": "markers", **look}, **told)


def curve(
    lines: Sequence[Logged], key: str, name: str, colour: str, mode: str = "lines"
) -> go.Scatter:
    """A figure of lines of metrics.jsonl over epochs."""
    drawn = thinned(lines)
    hover = f"{name} %{{y}}<br>epoch %{{x:.2f}}, step %{{customdata}}"
    xs, ys = [one.epoch for one in drawn], [one.figures[key] for one in drawn]
    steps = [show.number(one.step) for one in drawn]
    look = {"line_color": colour, "line_width": 1.5, "marker_size": 5}
    return trace(xs, ys, name, hover, mode=mode, customdata=steps, **look)


def bar(values: Sequence[float], names: Sequence[str], hover: str) -> go.Bar:
    """Horizontal ones."""
    hover = f"{hover}<extra></extra>"
    return go.Bar(x=list(values), y=list(names), orientation="h", hovertemplate=hover)


def error_bars(
    values: Sequence[float], ends: Sequence[tuple[float, float]], colour: str
) -> dict[str, object]:
    """Intervals around the values as plotly draws them."""
    above = [high - value for value, (_, high) in zip(values, ends, strict=True)]
    below = [value - low for value, (low, _) in zip(values, ends, strict=True)]
    return {"array": above, "arrayminus": below, "color": colour, "thickness": 1.2, "width": 4}


def thinned(values: Sequence[T]) -> Sequence[T]:
    """Evenly spaced ones, no more than a figure can show."""
    return values[:: max(1, math.ceil(len(values) / MOST_POINTS))]


def places(budgets: Budgets, units: Mapping[str, float]) -> dict[Bound, float]:
    """Where bounds stand on an axis; `units` are of the costs that it may show, on its scale."""
    return {bound: bound.limit * units[bound.cost] for bound in budgets if bound.cost in units}


def with_bounds(drawn: go.Figure, bounds: dict[Bound, float], costs: Sequence[float]) -> go.Figure:
    """The figure with each bound as a vertical line, and an axis that holds them and the costs.

    A bound far beyond every point would squeeze the points together: it is only named, at the edge.
    """
    left, right = limits(costs, bounds.values())
    drawn.update_xaxes(range=[left, right])
    drawn.update_layout(margin_t=40 + 17 * len(bounds))  # the tool bar's height and the labels'
    low = max((place for bound, place in bounds.items() if bound.is_lower), default=math.inf)
    high = min((place for bound, place in bounds.items() if not bound.is_lower), default=-math.inf)
    if low < high:  # a window
        shade = {"fillcolor": VERMILION, "opacity": 0.07, "line_width": 0, "layer": "below"}
        drawn.add_vrect(x0=low, x1=high, **shade)
    for row, (bound, x) in enumerate(bounds.items()):
        label = show.bound(bound)
        if x <= right:
            drawn.add_vline(x=x, line={"color": VERMILION, "dash": "dash", "width": 1})
        # Labels stand above the plot, one row each, where no point can lie under them.
        drawn.add_annotation(
            x=min(x, right),
            y=1,
            yref="paper",
            yshift=12 + 17 * row,
            text=label if x <= right else f"{label} \u2192",
            xanchor="left" if x < (left + right) / 2 else "right",
            showarrow=False,
            font={"color": VERMILION, "size": 12},
        )
    return drawn


def limits(values: Sequence[float], bounds: Iterable[float]) -> tuple[float, float]:
    """Of an axis: all values, and bounds that are not far beyond them."""
    ends = [*values, *(bound for bound in bounds if bound <= 1.5 * max(values))]
    space = 0.05 * ((max(ends) - min(ends)) or abs(max(ends)) or 1)
    return min(ends) - space, max(ends) + space


def plot(drawn: go.Figure, name: str) -> str:
    """The figure as HTML for a page that holds plotly.js already; `name` is its element's id."""
    buttons = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
    return to_html(
        drawn,
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_height=f"{drawn.layout.height}px",
        config={"responsive": True, **buttons},
    )
