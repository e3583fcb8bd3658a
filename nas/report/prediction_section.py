"""The section on how well the predictors of a guided search predict."""

import plotly.graph_objects as go

from nas.report import draw, show
from nas.report.draw import BLUE, GREY, VERMILION
from nas.report.run_files import RunFiles
from nas.report.show import DASH, number, percent, text
from nas.results import SCORE, Prediction
from supernet.task import Metric

MOST_PANELS = 4
CAPTION = (
    "Predictors only propose what to evaluate; every figure that decides is measured or counted. "
    "Errors are of predictions for subnets that the predictor was not fitted to (five-fold "
    "cross-validation): mean absolute error, the same as a share of the measured value, and how "
    "well the order is predicted (1 is the true order, 0 chance). Near the bounds: subnets within "
    "10&nbsp;% of one."
)


def predictions(files: RunFiles) -> str:
    """Cross-validated errors, and predictions beside what was measured; empty without any."""
    found = files.search.predictions if files.search else {}
    if not found:
        return ""
    rows = [
        {
            "predictor of": name_of(files.metric, name),
            "kind": text(one.kind),
            "subnets": number(len(one.predicted)),
            "MAE": error(files.metric, name, one.mae),
            "MAPE": percent(one.mape),
            "Kendall's tau-b": number(one.tau),
            "near the bounds": number(one.band_size),
            "their MAE": error(files.metric, name, one.band_mae),
            "their MAPE": percent(one.band_mape),
            "their tau-b": number(one.band_tau),
        }
        for name, one in found.items()
    ]
    drawn = {name: one for name, one in found.items() if one.predicted}
    figures = [
        draw.plot(scatter_figure(files, name, one), f"predicted_{name}")
        for name, one in list(drawn.items())[:MOST_PANELS]
    ]
    body = show.paragraph(CAPTION) + show.table(rows, 2) + show.panel("two", figures)
    return show.section("Predictors", body)


def name_of(metric: Metric, name: str) -> str:
    return show.axis(metric) if name == SCORE else draw.COSTS[name]


def error(metric: Metric, name: str, value: float | None) -> str:
    """In the unit of what is predicted."""
    if name == SCORE and metric.is_fraction:
        return DASH if value is None else f"{100 * value:.2f}&nbsp;points"
    return number(value)


def scatter_figure(files: RunFiles, name: str, one: Prediction) -> go.Figure:
    """Measured against predicted values, on the diagonal if equal, and bounds on both axes."""
    bounds = draw.places(files.budgets, {name: 1.0})
    low, high = draw.limits([*one.predicted, *one.measured], bounds.values())
    line, marker = {"color": GREY, "width": 1}, {"color": BLUE, "size": 8, "opacity": 0.75}
    xs, ys = draw.thinned(one.predicted), draw.thinned(one.measured)
    label = f"{len(one.predicted):,} subnets, predicted unseen"
    hover = "predicted %{x:.4g}<br>measured %{y:.4g}"
    traces = [
        draw.trace([low, high], [low, high], "equal", mode="lines", line=line),
        draw.trace(xs, ys, label, hover, marker=marker),
    ]
    titles = f"predicted: {name_of(files.metric, name)}", "measured, in the same unit"
    form = show.tick_format(name == SCORE and files.metric.is_fraction)
    drawn = draw.figure(*titles, traces, x_format=form, y_format=form)
    for place in bounds.values():
        if low <= place <= high:
            line = {"color": VERMILION, "dash": "dash", "width": 1}
            drawn.add_vline(x=place, line=line)
            drawn.add_hline(y=place, line=line)
    drawn.update_xaxes(range=[low, high])
    return drawn.update_yaxes(range=[low, high])
