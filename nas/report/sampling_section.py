"""The section on how paths and examples were drawn."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

import plotly.graph_objects as go

from nas.report import draw, show
from nas.report.draw import BLUE, GREEN, GREY, INK, VERMILION
from nas.report.run_files import Logged, Probabilities, RunFiles
from nas.report.show import number, percent, text

# Tints of the figures' vermilion and blue, light enough to write on.
LESS, UNIFORM, MORE = "#f2b48f", "#f0f2f5", "#85bbdf"
TICKS = {-3: "1/8", -2: "1/4", -1: "1/2", 0: "uniform", 1: "2\u00d7", 2: "4\u00d7", 3: "8\u00d7"}

FIGURES = {  # their titles, and the keys of their lines
    "sampling_gain": ("expected gain over uniform", ("path_gain", "data_gain")),
    "sampling_variance": ("measured variance ratio", ("variance_ratio",)),
    "sampling_ess": ("effective share of draws", ("path_ess", "data_ess")),
    "sampling_strength": ("strength, share", ("path_strength", "data_share")),
    "sampling_least": ("probability", ("least_probability",)),
}
VARIANCE = "variance_ratio"  # is measured at evaluations, the others at training steps
TO_UNIFORM = ("sampling_gain", "sampling_variance")  # where 1 is uniform draws
LESS_VARIANCE = "Below 1 means less variance, as long as draws are weighted."
WORDS = {
    "path_gain": "the second moment of the gradient's estimate over that of uniform paths, as "
    f"expected from the paths drawn of late. {LESS_VARIANCE}",
    "data_gain": "the second moment of the examples' gradient norms over that of uniform draws, "
    f"as it was in the epoch before. {LESS_VARIANCE}",
    VARIANCE: "the variance of the gradient over that of uniform paths and examples, measured at "
    f"fixed weights from a few draws (train.variance_draws), which makes it noisy. {LESS_VARIANCE}",
    "path_ess": "how many equally weighted paths the paths drawn of late are worth, over their "
    "number. 1 is uniform; lower means that few draws carry most of the weight.",
    "data_ess": "how many equally weighted examples an epoch's draws are worth, weighted by "
    "uniform / p, over their number. 1 is uniform.",
    "path_strength": "the power that expected gradient norms are raised to when paths are drawn: 0 "
    "ignores them, 1 uses them in full.",
    "data_share": "the share of the examples' probabilities that goes by their gradient norms; the "
    "rest is uniform.",
    "least_probability": "the probability of the least likely option of any choice.",
}
COLOURS = {"path": BLUE, "data": VERMILION}  # by the first word of the key


def sampling(files: RunFiles) -> str:
    """What the samplers logged and the probabilities of options; empty for a uniform run."""
    figures, words = [], dict[str, str]()
    for name, (title, keys) in FIGURES.items():
        kinds = {key: "variance" if key == VARIANCE else "train" for key in keys}
        found = {key: lines for key, kind in kinds.items() if (lines := files.lines(kind, key))}
        if found:
            figures.append(draw.plot(lines_figure(title, found, name in TO_UNIFORM), name))
        words |= {show.code(key): described(key, lines) for key, lines in found.items()}
    heat = heat_map(files.probabilities) if files.probabilities else ""
    if not figures and not heat:
        return ""
    columns = "three" if len(figures) in (3, 5) else "two"
    curves = show.definitions(words) + show.panel(columns, figures) if figures else ""
    return show.section("Sampling", curves + heat)


def described(key: str, lines: Sequence[Logged]) -> str:
    """What a key is and its last value, beside the median where single values are noisy."""
    middle = median(line.figures[key] for line in lines)
    noisy = f" Median of {len(lines):,}: {number(middle)}." if key == VARIANCE else ""
    last = lines[-1]
    return f"{WORDS[key]}{noisy} Last: {number(last.figures[key])} at step {number(last.step)}."


def lines_figure(title: str, found: Mapping[str, Sequence[Logged]], to_uniform: bool) -> go.Figure:
    traces = []
    for key, lines in found.items():
        colour = COLOURS.get(key.partition("_")[0], GREEN)
        mode = "lines+markers" if key == VARIANCE else "lines"
        traces.append(draw.curve(lines, key, key, colour, mode))
    drawn = draw.figure("epoch", title, traces, height=360)
    if to_uniform:
        look = {"color": GREY, "dash": "dash", "width": 1}
        label = {"text": "uniform", "font": {"color": INK, "size": 12}}
        drawn.add_hline(y=1, line=look, annotation=label)
    return drawn.update_layout(showlegend=True)


def heat_map(known: Probabilities) -> str:
    """A row a choice, a cell an option, coloured by log2 of probability over uniform."""
    caption = (
        f"The probability of each option at epoch {number(known.epoch)}, a choice a row "
        "and its options from left to right. The colour is the probability over the uniform one, "
        "1 / the number of options: grey is uniform, blue is drawn more often, orange less often."
    )
    rows = known.probabilities
    ratios = [[doublings(p * len(row)) for p in row.values()] for row in rows.values()]
    # A wide scale at least, so that differences by chance do not look like large ones.
    limit = max(1.0, *(abs(ratio) for row in ratios for ratio in row))
    ticks = [tick for tick in TICKS if abs(tick) <= limit]
    columns = max(map(len, ratios))
    cells = [[f"{text(name)}: {percent(p)}" for name, p in row.items()] for row in rows.values()]
    bar = {"tickvals": ticks, "ticktext": [TICKS[tick] for tick in ticks], "thickness": 14}
    trace = go.Heatmap(
        x=list(range(columns)),
        y=list(map(text, rows)),
        z=[padded(row, columns) for row in ratios],
        text=[padded(row, columns, "") for row in cells],
        texttemplate="%{text}",
        hovertemplate="%{y}<br>%{text}<extra></extra>",
        hoverongaps=False,
        colorscale=[[0, LESS], [0.5, UNIFORM], [1, MORE]],
        zmin=-limit,
        zmax=limit,
        xgap=3,
        ygap=3,
        colorbar={**bar, "title": {"text": "of uniform"}},
    )
    drawn = draw.figure("", "", [trace], height=110 + 32 * max(3, len(rows)))
    drawn.update_xaxes(visible=False)
    drawn.update_yaxes(showgrid=False)
    figure = draw.plot(draw.named_rows(drawn), "probabilities")
    return f"<h3>Probabilities</h3>{show.paragraph(caption)}{figure}"


def doublings(ratio: float) -> float:
    """log2 of the ratio, within the scale of colours."""
    return max(min(TICKS), min(max(TICKS), math.log2(ratio))) if ratio > 0 else min(TICKS)


def padded(row: Sequence[object], length: int, filler: str | None = None) -> list[object]:
    return [*row, *[filler] * (length - len(row))]
