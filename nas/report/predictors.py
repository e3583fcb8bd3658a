"""The section of the report on how well predictors of a guided search foretell."""

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from nas.report.budgets import Bound, Cost, bounds_on
from nas.report.figures import BLUE, GREY, VERMILION, layout, plot, thinned
from nas.report.formatting import DASH, Record, finite, number, panel, percent, section, table, text
from nas.report.reading import RunFiles, part

UNITS = {  # of what is predicted: words, unit
    "accuracy": ("val top-1", ""),
    "latency_of_largest": ("latency, ratio to the largest subnet's", ""),
    "latency_ms": ("latency, ms a batch", "ms"),
    "params": ("stored parameters", ""),
    "params_of_largest": ("stored parameters, ratio to the largest subnet's", ""),
    "memory_mib": ("peak memory, MiB a batch", "MiB"),
    "memory_of_largest": ("peak memory, ratio to the largest subnet's", ""),
}
MOST_PANELS = 4


class Pair(NamedTuple):
    predicted: float
    measured: float


def predictors(files: RunFiles) -> str:
    """Cross-validated errors, and predictions beside what was measured; empty without any."""
    errors = part(files.search, "predictors")
    rows = [
        (name == "accuracy", error_row(name, part(errors, name)))
        for name in errors
        if part(errors, name)
    ]
    drawn = {
        name: found
        for name in UNITS
        if (found := pairs(part(part(files.search, "predictions"), name)))
    }
    if not rows and not drawn:
        return ""
    head = (
        "predictor of,kind,subnets,MAE,MAPE,Kendall's tau-b,subnets near the bounds,MAE,MAPE,"
        "Kendall's tau-b"
    )
    body = table(head.split(","), rows, 2) if rows else ""
    figures = [
        plot(scatter_figure(files, name, found), f"predicted_{name}")
        for name, found in list(drawn.items())[:MOST_PANELS]
    ]
    caption = f'<p class="soft">{CAPTION}</p>'
    return section("Predictors", caption + body + (panel("two", figures) if figures else ""))


CAPTION = (
    "Predictors only propose what to evaluate; every figure that decides is measured or counted. "
    "Errors are of predictions for subnets that the predictor was not fitted to (five-fold "
    "cross-validation): mean absolute error, the same as a share of the measured value, and how "
    "well the order is foretold (1 is the true order, 0 chance). Near the bounds: subnets within "
    "10&nbsp;% of one."
)


def error_row(name: str, error: Record) -> list[str]:
    return [
        described(name),
        text(error.get("kind")),
        number(error.get("num_known")),
        *figures(name, error, ""),
        number(error.get("band_size")),
        *figures(name, error, "band_"),
    ]


def figures(name: str, error: Record, prefix: str) -> list[str]:
    """MAE in the unit of what is predicted, MAPE and tau."""
    mae, tau = error.get(f"{prefix}mae"), finite(error.get(f"{prefix}tau"))
    return [
        points(mae) if name == "accuracy" else number(mae, UNITS.get(name, ("", ""))[1]),
        percent(error.get(f"{prefix}mape")),
        DASH if tau is None else f"{tau:.3f}",
    ]


def points(value: object) -> str:
    """A difference of accuracies."""
    known = finite(value)
    return DASH if known is None else f"{100 * known:.2f}&nbsp;points"


def described(name: str) -> str:
    words = UNITS.get(name, ("", ""))[0]
    return words or f"<code>{text(name)}</code>"


def pairs(record: Record) -> list[Pair]:
    """Predicted and measured values where both are known; empty unless as many of each."""
    predicted, measured = record.get("predicted"), record.get("measured")
    if not isinstance(predicted, list) or not isinstance(measured, list):
        return []
    if len(predicted) != len(measured):
        return []
    values = [(finite(a), finite(b)) for a, b in zip(predicted, measured, strict=True)]
    return [Pair(a, b) for a, b in values if a is not None and b is not None]


def scatter_figure(files: RunFiles, name: str, found: Sequence[Pair]) -> go.Figure:
    """Measured against predicted values, on the diagonal if equal, and bounds on both axes."""
    words = UNITS[name][0]
    figure = go.Figure(layout=layout(f"predicted: {words}", "measured, in the same unit"))
    bounds = [] if name == "accuracy" else bounds_of(files, name)
    low, high = limits(found, bounds)
    figure.add_trace(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            name="equal",
            line={"color": GREY, "width": 1},
            hoverinfo="skip",
        )
    )
    drawn = thinned(found)
    figure.add_trace(
        go.Scatter(
            x=[pair.predicted for pair in drawn],
            y=[pair.measured for pair in drawn],
            mode="markers",
            name=f"{len(found):,} subnets, predicted unseen",
            marker={"color": BLUE, "size": 8, "opacity": 0.75},
            hovertemplate="predicted %{x:.4g}<br>measured %{y:.4g}<extra></extra>",
        )
    )
    for bound in bounds:
        if low <= bound.place <= high:
            line = {"color": VERMILION, "dash": "dash", "width": 1}
            figure.add_vline(x=bound.place, line=line)
            figure.add_hline(y=bound.place, line=line)
    form = ".1%" if name == "accuracy" else "~g" if "of_largest" in name else ",~s"
    figure.update_xaxes(range=[low, high], tickformat=form)
    figure.update_yaxes(range=[low, high], tickformat=form)
    return figure


def bounds_of(files: RunFiles, name: str) -> list[Bound]:
    return bounds_on(Cost(name, "", "", ""), files.budget(), {})


def limits(found: Sequence[Pair], bounds: Sequence[Bound]) -> tuple[float, float]:
    """Of both axes: all values, and bounds that are not far beyond them."""
    values = [value for pair in found for value in pair]
    near = [bound.place for bound in bounds if bound.place <= 1.5 * max(values)]
    low, high = min([*values, *near]), max([*values, *near])
    space = 0.05 * ((high - low) or abs(high) or 1)
    return low - space, high + space
