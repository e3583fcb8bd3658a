"""The section on how well the supernet ranks architectures."""

from collections.abc import Sequence
from statistics import fmean

import plotly.graph_objects as go

from nas.report import draw, show
from nas.report.draw import BLUE, INK, SKY
from nas.report.run_files import RunFiles
from nas.report.show import DASH, number, percent, text
from nas.results import Estimate, Ranked, RankResult
from search_spaces.space import Arch, Space

FIGURES = {  # of rank.json, in words
    "tau": "Kendall's tau-b",
    "sparse_tau": "the same, true scores rounded to 0.1&nbsp;%",
    "spearman": "Spearman's correlation",
    "top_decile_tau": "Kendall's tau-b among the best tenth",
    "precision_5": "share of the predicted best 5&nbsp;% that are truly so",
    "precision_10": "share of the predicted best 10&nbsp;% that are truly so",
    "best_true_rank": "best true rank among the 10 predicted best; 1 is the best",
}
UNDEFINED = Estimate(None, None, None)


def ranking(files: RunFiles) -> str:
    """Predicted scores against true ones and the figures of rank; empty where nothing is ranked."""
    found = files.rank
    if not found:
        return ""
    drawn, total, settings = draw.thinned(found.archs), len(found.archs), found.settings
    above = show.paragraph(
        f"{total:,} architectures. True score: {text(found.truth)}.",
        f"Predicted score: {text(found.predicted)} on {number(found.num_examples)} val examples "
        f"of the subnet with the supernet's {text(settings.get('weights'))} weights, the mean over "
        f"{len(found.steps)} checkpoints (step {text(found.steps)}); batch norms, if any, with "
        f"{text(settings.get('batch_norm'))} statistics, batches of {number(found.batch_size)}.",
        len(drawn) < total and f"{len(drawn):,} of {total:,} are drawn.",
        "Hover over a point for its architecture.",
    )
    below = show.paragraph(
        "How well each score ranks the architectures: 1 is the true order, 0 what chance gives to "
        "tau and correlation. Parameters and FLOPs rank without any training: a supernet is worth "
        "its cost if it ranks better. Supernet: the mean over the checkpoints, and as its spread "
        "the standard deviation between them. In brackets 95&nbsp;% intervals, over "
        f"{text(settings.get('resamples'))} draws of as many architectures with replacement."
    )
    figure = draw.plot(scatter_figure(files.space, found, drawn), "ranking")
    return show.section("Ranking", above + figure + below + figure_table(found))


def scatter_figure(
    space: Space[Arch], found: RankResult[Arch], archs: Sequence[Ranked[Arch]]
) -> go.Figure:
    """True against predicted scores, coloured by parameters."""
    means = [fmean(one.predicted) for one in archs]
    told = [hover(space, found, one) for one in archs]
    marker = {
        "size": 9,
        "opacity": 0.85,
        "color": [one.params for one in archs],
        "colorscale": [[0, SKY], [0.5, BLUE], [1, INK]],
        "colorbar": {"title": {"text": "parameters"}, "tickformat": "~s", "thickness": 14},
    }
    look = {"marker": marker, "hovertext": told}
    trace = draw.trace(means, [one.true for one in archs], "architecture", "%{hovertext}", **look)
    drawn = draw.figure(
        f"predicted: {text(found.predicted)} of the supernet's subnet",
        "true score",
        [trace],
        height=480,
        x_format=show.tick_format(found.predicted_is_fraction),
        y_format=show.tick_format(found.truth_is_fraction),
    )
    return drawn.update_layout(showlegend=False)


def hover(space: Space[Arch], found: RankResult[Arch], one: Ranked[Arch]) -> str:
    form = percent if found.predicted_is_fraction else number
    true = percent(one.true) if found.truth_is_fraction else number(one.true)
    scores = f"{form(fmean(one.predicted))}, by checkpoint {', '.join(map(form, one.predicted))}"
    sizes = f"parameters {number(one.params)}<br>FLOPs {number(one.flops)} an example"
    return f"{show.arch(space, one.arch)}<br>true {true}<br>predicted {scores}<br>{sizes}"


def figure_table(found: RankResult[Arch]) -> str:
    """A figure a row, of the supernet and of sizes."""
    rows = []
    for name, words in FIGURES.items():
        digits = 1 if name == "best_true_rank" else 3
        own = found.supernet.get(name, UNDEFINED)
        row = {
            "figure": show.role(words) if name == "tau" else words,
            "supernet": estimate(own, digits),
            "spread": DASH if own.sd is None else f"{own.sd:.{digits}f}",
        }
        for head, key in (("parameters", "params"), ("FLOPs", "flops")):
            row[head] = estimate(found.baselines.get(key, {}).get(name, UNDEFINED), digits)
        rows.append(row)
    return show.table(rows, 1)


def estimate(found: Estimate, digits: int) -> str:
    """The value and its interval."""
    if found.value is None or found.low is None or found.high is None:
        return DASH
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
