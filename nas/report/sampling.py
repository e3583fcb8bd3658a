"""The section of the report on how paths and examples were drawn, with its figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import plotly.graph_objects as go

from nas.report.figures import BLUE, GREEN, GREY, INK, VERMILION, curve, layout, plot, thinned
from nas.report.formatting import Record, definitions, finite, number, panel, percent, section, text
from nas.report.reading import RunFiles, part

MOST_CHOICES, MOST_OPTIONS = 256, 32  # of the picture; a stranger's file may have any number

# Tints of the figures' vermilion and blue, light enough to write on.
LESS, UNIFORM, MORE = "#f2b48f", "#f0f2f5", "#85bbdf"
TICKS = {-3: "1/8", -2: "1/4", -1: "1/2", 0: "uniform", 1: "2\u00d7", 2: "4\u00d7", 3: "8\u00d7"}


@dataclass(frozen=True)
class Panel:
    """One figure: the keys of its lines, with what each is in words."""

    name: str
    title: str
    words: Mapping[str, str]
    kind: str = "train"  # of the records that have them
    marked: bool = False
    uniform: float | None = None  # the value of uniform draws, marked by a line


PANELS = (
    Panel(
        "sampling_gain",
        "expected gain over uniform",
        {
            "path_gain": "the second moment of the gradient's estimate over that of uniform paths, "
            "as expected from the paths drawn of late. Below 1 means less variance, as long as "
            "draws are weighted.",
            "data_gain": "the second moment of the examples' gradient norms over that of uniform "
            "draws, as it was in the epoch before. Below 1 means less variance, as long as draws "
            "are weighted.",
        },
        uniform=1.0,
    ),
    Panel(
        "sampling_variance",
        "measured variance ratio",
        {
            "variance_ratio": "the variance of the gradient over that of uniform paths and "
            "examples, measured at fixed weights from {draws} draws each of a path and a batch of "
            "training images. Below 1 means less variance, as long as draws are weighted; few "
            "draws make it noisy.",
        },
        kind="variance",
        marked=True,
        uniform=1.0,
    ),
    Panel(
        "sampling_ess",
        "effective share of draws",
        {
            "path_ess": "how many equally weighted paths the paths drawn of late are worth, over "
            "their number. 1 is uniform; lower means that few draws carry most of the weight.",
            "data_ess": "how many equally weighted examples an epoch's draws are worth, weighted "
            "by uniform / p, over their number. 1 is uniform.",
        },
    ),
    Panel(
        "sampling_strength",
        "strength, share",
        {
            "path_strength": "the power that expected gradient norms are raised to when paths are "
            "drawn: 0 ignores them, 1 uses them in full.",
            "data_share": "the share of the examples' probabilities that goes by their gradient "
            "norms; the rest is uniform.",
        },
    ),
    Panel(
        "sampling_least",
        "probability",
        {"least_probability": "the probability of the least likely option of any choice."},
    ),
)
COLOURS = {"path": BLUE, "data": VERMILION}  # by the first word of the key


def sampling(files: RunFiles) -> str:
    """What the samplers logged and the probabilities of options; empty for a uniform run."""
    figures, words = [], {}
    for one in PANELS:
        found = lines(files, one)
        if found:
            figures.append(plot(lines_figure(one, found), one.name))
        for key, records in found.items():
            words[f"<code>{key}</code>"] = described(files, one, key, records)
    chances = probabilities(files.paths)
    if not figures and not chances:
        return ""
    columns = "three" if len(figures) in (3, 5) else "two"
    body = definitions(words) + panel(columns, figures) if figures else ""
    return section("Sampling", body + (heat(files.paths, chances) if chances else ""))


def lines(files: RunFiles, wanted: Panel) -> dict[str, list[Record]]:
    """The records that have each of the panel's keys; keys that occur in none are left out."""
    own: list[Record] = [r for r in files.metrics if r.get("kind") == wanted.kind]
    found = {key: [r for r in own if finite(r.get(key)) is not None] for key in wanted.words}
    return {key: records for key, records in found.items() if records}


def described(files: RunFiles, one: Panel, key: str, records: Sequence[Record]) -> str:
    """What a key is and its last value, beside the median where single values are noisy."""
    draws = number(part(files.config, "train").get("variance_draws"))
    last, middle = records[-1], median(float(record[key]) for record in records)
    noisy = f" Median of {len(records):,} evaluations: {number(middle)}." if one.marked else ""
    return (
        f"{one.words[key].format(draws=draws)}{noisy} Last: {number(last[key])} at step "
        f"{number(last.get('step'))}."
    )


def lines_figure(wanted: Panel, found: Mapping[str, Sequence[Record]]) -> go.Figure:
    figure = go.Figure(layout=layout("epoch", wanted.title))
    for key, records in found.items():
        colour = COLOURS.get(key.partition("_")[0], GREEN)
        mode = "lines+markers" if wanted.marked else "lines"
        figure.add_trace(curve(thinned(records), key, key, colour, mode))
    if wanted.uniform is not None:
        figure.add_hline(
            y=wanted.uniform,
            line={"color": GREY, "dash": "dash", "width": 1},
            annotation={"text": "uniform", "font": {"color": INK, "size": 12}},
        )
    figure.update_layout(showlegend=True, height=360)
    return figure


def probabilities(record: Record) -> dict[str, dict[str, float]]:
    """The probability of each option, for the choices that have one for every option."""
    found = {}
    for choice, options in part(record, "probabilities").items():
        values = options if isinstance(options, dict) else {}
        known = {
            option: chance
            for option, value in values.items()
            if (chance := finite(value)) is not None and 0 <= chance <= 1
        }
        if known and len(known) == len(values):
            found[choice] = known
    return found


def heat(record: Record, chances: Mapping[str, Mapping[str, float]]) -> str:
    """The picture of the probabilities, under a caption."""
    shown = {
        choice: dict(list(options.items())[:MOST_OPTIONS])
        for choice, options in list(chances.items())[:MOST_CHOICES]
    }
    total = sum(map(len, chances.values()))
    cut = total - sum(map(len, shown.values()))
    caption = (
        f"The probability of each option at epoch {number(record.get('epoch'))}, a choice a row "
        "and its options from left to right. The colour is the probability over the uniform one, "
        "1 / the number of options: grey is uniform, blue is drawn more often, orange less often."
        + (f" {cut:,} of {total:,} options are not shown." if cut else "")
    )
    return (
        f'<h3>Probabilities</h3><p class="soft">{caption}</p>'
        f"{plot(heat_figure(shown, chances), 'probabilities')}"
    )


def heat_figure(
    shown: Mapping[str, Mapping[str, float]], chances: Mapping[str, Mapping[str, float]]
) -> go.Figure:
    """A row a choice, a cell an option, coloured by log2 of probability over uniform."""
    ratios = [
        [doublings(p * len(chances[name])) for p in row.values()] for name, row in shown.items()
    ]
    # A wide scale at least, so that differences by chance do not look like large ones.
    limit = max(1.0, *(abs(ratio) for row in ratios for ratio in row))
    ticks = [tick for tick in TICKS if abs(tick) <= limit]
    columns = max(map(len, ratios))
    cells: list[list[Any]] = [
        [f"{text(option)}: {percent(p)}" for option, p in row.items()] for row in shown.values()
    ]
    figure = go.Figure(layout=layout("", ""))
    figure.add_trace(
        go.Heatmap(
            x=list(range(columns)),
            y=list(map(text, shown)),
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
            colorbar={
                "tickvals": ticks,
                "ticktext": [TICKS[tick] for tick in ticks],
                "title": {"text": "of uniform"},
                "thickness": 14,
            },
        )
    )
    figure.update_layout(height=110 + 32 * max(3, len(shown)))
    figure.update_xaxes(visible=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, title=None)
    return figure


def doublings(ratio: float) -> float:
    """log2 of the ratio, within the scale of colours."""
    return max(min(TICKS), min(max(TICKS), math.log2(ratio))) if ratio > 0 else min(TICKS)


def padded(row: Sequence[Any], length: int, filler: str | None = None) -> list[Any]:
    return [*row, *[filler] * (length - len(row))]
