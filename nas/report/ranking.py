"""The section of the report on how well the supernet ranks architectures, with its figure."""

from collections.abc import Sequence

import plotly.graph_objects as go

from nas.report.figures import BLUE, GREY, INK, SKY, layout, plot, thinned
from nas.report.formatting import (
    DASH,
    Record,
    describe_arch,
    finite,
    listed,
    number,
    percent,
    section,
    table,
    text,
)
from nas.report.reading import RunFiles, part

FIGURES = {  # of rank.json, in words
    "tau": "Kendall's tau-b",
    "sparse_tau": "the same, true scores rounded to 0.1&nbsp;%",
    "spearman": "Spearman's correlation",
    "top_decile_tau": "Kendall's tau-b among the best tenth",
    "precision_5": "share of the predicted best 5&nbsp;% that are truly so",
    "precision_10": "share of the predicted best 10&nbsp;% that are truly so",
    "best_true_rank": "best true rank among the 10 predicted best; 1 is the best",
}


def ranking(files: RunFiles) -> str:
    """Predicted scores against true ones and the figures of rank; empty where nothing is ranked."""
    record = files.rank
    if not record:
        return ""
    points = scored(record)
    drawn = thinned(points)
    figure = plot(scatter_figure(record, drawn), "ranking") if drawn else ""
    below = f'<p class="soft">{figures_caption(record)}</p>{figure_table(record)}'
    return section(
        "Ranking",
        f'<p class="soft">{points_caption(record, len(points), len(drawn))}</p>{figure}{below}',
    )


def scored(record: Record) -> list[Record]:
    """The architectures with a true score and the mean of the predicted ones."""
    archs = record.get("archs")
    found: list[Record] = []
    for arch in archs if isinstance(archs, list) else ():
        scores = predicted(arch) if isinstance(arch, dict) else []
        if scores and finite(arch.get("true")) is not None:
            found.append({**arch, "mean": sum(scores) / len(scores)})
    return found


def predicted(arch: Record) -> list[float]:
    """The predicted score by checkpoint; empty unless all of them are numbers."""
    values = arch.get("predicted")
    known = [finite(value) for value in values] if isinstance(values, list) else []
    return [value for value in known if value is not None] if None not in known else []


def checkpoints(record: Record) -> list[Record]:
    values = record.get("checkpoints")
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []


def score_words(record: Record) -> str:
    kinds = {"top1": "top-1", "loss": "negated loss"}
    return kinds.get(str(part(record, "settings").get("score")), "score")


def points_caption(record: Record, num_points: int, num_drawn: int) -> str:
    """Where the true and the predicted scores come from."""
    settings = part(record, "settings")
    steps = listed([one.get("step") for one in checkpoints(record)])
    images, batch = number(record.get("num_examples")), number(record.get("batch_size"))
    sentences = [
        f"{number(record.get('num_archs'))} architectures.",
        f"True score: {text(record.get('truth'))}.",
        f"Predicted score: {score_words(record)} on {images} val images of the subnet with the "
        f"supernet's {text(settings.get('weights'))} weights, the mean over "
        f"{len(checkpoints(record))} checkpoints (step {steps}); batch norms, if any, with "
        f"{text(settings.get('batch_norm'))} statistics, batches of {batch}.",
        f"{num_drawn:,} of {num_points:,} are drawn." if num_drawn < num_points else "",
        "Hover over a point for its architecture.",
    ]
    return " ".join(filter(None, sentences))


def scatter_figure(record: Record, points: Sequence[Record]) -> go.Figure:
    """True against predicted scores, coloured by parameters."""
    title = f"predicted: {score_words(record)} of the supernet's subnet"
    figure = go.Figure(layout=layout(title, "true score"))
    sized = [point for point in points if finite(point.get("params")) is not None]
    others = [point for point in points if finite(point.get("params")) is None]
    if sized:
        colours = {
            "color": [finite(point["params"]) for point in sized],
            "colorscale": [[0, SKY], [0.5, BLUE], [1, INK]],
            "colorbar": {"title": {"text": "parameters"}, "tickformat": "~s", "thickness": 14},
        }
        figure.add_trace(marks(record, sized, "architecture", colours))
    if others:
        figure.add_trace(marks(record, others, "parameters unknown", {"color": GREY}))
    figure.update_layout(showlegend=False, height=480)
    if part(record, "settings").get("score") == "top1":
        figure.update_xaxes(tickformat=".1%")
    figure.update_yaxes(tickformat=".1%")
    return figure


def marks(
    record: Record, points: Sequence[Record], name: str, colours: dict[str, object]
) -> go.Scatter:
    return go.Scatter(
        x=[point["mean"] for point in points],
        y=[finite(point["true"]) for point in points],
        mode="markers",
        name=name,
        marker={"size": 9, "opacity": 0.85, "line": {"color": "white", "width": 0.5}, **colours},
        hovertext=[hover(record, point) for point in points],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def hover(record: Record, point: Record) -> str:
    form = percent if part(record, "settings").get("score") == "top1" else number
    scores = ", ".join(map(form, predicted(point)))
    lines = [
        describe_arch(point.get("arch")),
        f"true {percent(point.get('true'))}",
        f"predicted {form(point['mean'])}, by checkpoint {scores}",
        f"parameters {number(point.get('params'))}",
        f"FLOPs {number(point.get('flops'))} an image",
    ]
    return "<br>".join(lines)


def figures_caption(record: Record) -> str:
    resamples = number(part(record, "settings").get("resamples"))
    return (
        "How well each score ranks the architectures: 1 is the true order, 0 what chance gives to "
        "tau and correlation. Parameters and FLOPs rank without any training: a supernet is worth "
        "its cost if it ranks better. Supernet: the mean over the checkpoints, and as its spread "
        "the standard deviation between them. 95&nbsp;% intervals are over "
        f"{resamples} draws of as many architectures with replacement."
    )


def figure_table(record: Record) -> str:
    """A figure a row; the supernet's value, interval and spread, then those of sizes."""
    baselines = part(record, "baselines")
    interval = "95&nbsp;% interval"
    head = ["figure", "supernet", interval, "spread", "parameters", interval, "FLOPs", interval]
    rows = []
    for name, words in FIGURES.items():
        digits = 1 if name == "best_true_rank" else 3
        own = part(part(record, "supernet"), name)
        params, flops = (part(part(baselines, key), name) for key in ("params", "flops"))
        cells = [
            *estimate(own, digits),
            fixed(own.get("sd"), digits),
            *estimate(params, digits),
            *estimate(flops, digits),
        ]
        rows.append((name == "tau", [words, *cells]))
    return table(head, rows, 1)


def estimate(found: Record, digits: int) -> list[str]:
    """The value and its interval."""
    low, high = (fixed(found.get(end), digits) for end in ("low", "high"))
    interval = DASH if DASH in (low, high) else f"[{low}, {high}]"
    return [fixed(found.get("value"), digits), interval]


def fixed(value: object, digits: int) -> str:
    known = finite(value)
    return DASH if known is None else f"{known:.{digits}f}"
