"""The look that the report's plotly figures share, and curves over epochs."""

import math
from collections.abc import Sequence
from typing import TypeVar

import plotly.graph_objects as go
from plotly.io import to_html

from nas.report.formatting import Record, finite, number, text

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

T = TypeVar("T")

MOST_POINTS = 2000  # of one trace; more only makes the page slow


def curve_figure(records: Sequence[Record], key: str, title: str) -> go.Figure:
    """A figure of the training records over epochs."""
    figure = go.Figure(layout=layout("epoch", title))
    kept = [record for record in records if finite(record.get(key)) is not None]
    figure.add_trace(curve(thinned(kept), key, title, BLUE, "lines"))
    figure.update_layout(showlegend=False)
    return figure


def thinned(records: Sequence[T]) -> Sequence[T]:
    """Evenly spaced ones, no more than a figure can show."""
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


def error_bars(
    values: Sequence[float], ends: Sequence[tuple[float, float]], colour: str
) -> dict[str, object]:
    """Intervals around the values as plotly draws them."""
    return {
        "array": [high - value for value, (_, high) in zip(values, ends, strict=True)],
        "arrayminus": [value - low for value, (low, _) in zip(values, ends, strict=True)],
        "color": colour,
        "thickness": 1.2,
        "width": 4,
    }


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
