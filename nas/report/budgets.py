"""Budgets on the report: which candidates meet them, and where bounds stand on an axis."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from nas.report.figures import VERMILION
from nas.report.formatting import Record, finite, fraction, number

LOWER = "min_"  # keys of lower bounds begin with it


@dataclass(frozen=True)
class Cost:
    """A figure of merit that is better when smaller, and its key as a fraction of the largest's."""

    key: str
    of_largest: str
    title: str
    tickformat: str


# The other way around: milliseconds become places on an axis of ratios.
RATIO = Cost("latency_of_largest", "latency_ms", "latency, ratio to the largest subnet's", "")


@dataclass(frozen=True)
class Bound:
    """A bound at its place on an axis."""

    label: str
    place: float
    is_lower: bool


def meets(candidate: Record, budget: Record) -> bool:
    """Whether every bound is met; a figure that is missing was not shown to meet its bound.

    As in the search, a latency is judged by the worse end of its 95 % interval.
    """
    for name, limit in budget.items():
        value, bound = finite(candidate.get(name.removeprefix(LOWER))), finite(limit)
        if value is None or bound is None:
            return False
        value *= margin(candidate, name)
        if value < bound if name.startswith(LOWER) else value > bound:
            return False
    return True


def margin(candidate: Record, name: str) -> float:
    """The worse end of a latency's interval over its median; 1 for other figures."""
    if not name.removeprefix(LOWER).startswith("latency"):
        return 1.0
    end = "ratio_low" if name.startswith(LOWER) else "ratio_high"
    return fraction(candidate.get(end), candidate.get("ratio")) or 1.0


def sign(name: str) -> str:
    """On which side of its bound a figure must be."""
    return "\u2265" if name.startswith(LOWER) else "\u2264"


def bounds_on(cost: Cost, budget: Record, record: Record) -> list[Bound]:
    """Each bound on this cost.

    What the fractions are of is worked out from any `record`: for latency it is the table's
    reference, which the largest subnet's own measurement only comes near to.
    """
    bounds = []
    whole = fraction(record.get(cost.key), record.get(cost.of_largest))
    for key, unit in ((cost.key, 1.0), (cost.of_largest, whole)):
        for name in (key, LOWER + key):
            limit = finite(budget.get(name))
            if limit is not None and unit is not None:
                label = f"{key} {sign(name)} {number(limit)}"
                bounds.append(Bound(label, limit * unit, name.startswith(LOWER)))
    return bounds


def draw_bounds(figure: go.Figure, bounds: Sequence[Bound], costs: Sequence[float]) -> None:
    """Draws each bound as a vertical line and sets the axis to hold them and the costs.

    A bound far beyond every point would squeeze the points together: it is only named, at the edge.
    """
    ends = [bound.place for bound in bounds if bound.place <= 1.5 * max(costs)] + list(costs)
    space = 0.05 * ((max(ends) - min(ends)) or abs(max(ends)) or 1)
    left, right = min(ends) - space, max(ends) + space
    figure.update_xaxes(range=[left, right])
    figure.update_layout(margin_t=40 + 17 * len(bounds))  # the tool bar's height and the labels'
    shade_window(figure, bounds)
    for row, bound in enumerate(bounds):
        x = bound.place
        if x <= right:
            figure.add_vline(x=x, line={"color": VERMILION, "dash": "dash", "width": 1})
        # Labels stand above the plot, one row each, where no point can lie under them.
        figure.add_annotation(
            x=min(x, right),
            y=1,
            yref="paper",
            yshift=12 + 17 * row,
            text=bound.label if x <= right else f"{bound.label} \u2192",
            xanchor="left" if x < (left + right) / 2 else "right",
            showarrow=False,
            font={"color": VERMILION, "size": 12},
        )


def shade_window(figure: go.Figure, bounds: Sequence[Bound]) -> None:
    """Shades what lies between lower and upper bounds, if there are both."""
    low = max((bound.place for bound in bounds if bound.is_lower), default=None)
    high = min((bound.place for bound in bounds if not bound.is_lower), default=None)
    if low is not None and high is not None and low < high:
        figure.add_vrect(
            x0=low, x1=high, fillcolor=VERMILION, opacity=0.07, line_width=0, layer="below"
        )
