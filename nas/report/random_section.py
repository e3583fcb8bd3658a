"""The section that holds a search against random draws of as many subnets."""

from collections.abc import Sequence
from itertools import accumulate
from math import comb, inf

import plotly.graph_objects as go

from nas.report import draw, show
from nas.report.draw import BLUE, GREY, INK
from nas.report.run_files import RunFiles
from supernet.task import Metric

TITLE = "Against random search"
NONE = -inf  # the worth of what breaks a budget
ENDS = ("smallest", "largest")  # judged before every search, whatever it proposes


def against_random(files: RunFiles) -> str:
    """The best score within the budgets over evaluated subnets, beside random search's."""
    proposed = [one for one in files.judged if one.asked_by.origin not in ENDS]
    met = [one for one in proposed if files.meets(one)]
    if not met:
        sentence = "No proposed subnet meets the budgets: there is no best one to follow."
        return show.absent(TITLE, sentence) if proposed else ""
    metric, best = files.metric, max(met, key=lambda one: one.score.worth).score
    worths = [one.score.worth if files.meets(one) else NONE for one in proposed]
    pairs = zip(proposed, worths, strict=True)
    draws = [worth for one, worth in pairs if one.asked_by.origin == "start"]
    expected = expected_best(draws)
    own = (None, files.search and files.search.study)
    adopted = files.search and sum(one.asked_by.study not in own for one in files.known)
    words = show.paragraph(
        f"The best of {len(proposed):,} evaluated subnets has {metric.text(best.value)} "
        f"on val ({show.evidence(best)}: smaller differences may be chance).",
        random_words(metric, draws, expected),
        adopted
        and f"{adopted:,} were known from earlier searches with other budgets and come first.",
        "The smallest and the largest subnet, which every search evaluates, are not counted.",
    )
    figure = progress_figure(metric, list(accumulate(worths, max)), expected)
    return show.section(TITLE, words + draw.plot(figure, "progress"))


def expected_best(worths: Sequence[float]) -> list[float]:
    """The best of n of the m draws without replacement, for n from 1 to m, in expectation over
    which ones they are, where any of them meets the budgets; `NONE` where none ever does.

    The i-th best is the best of n if it is among them and the n - 1 others are among the m - i
    below it: C(m - i, n - 1) of C(m, n) subsets.
    """
    known = sorted((worth for worth in worths if worth != NONE), reverse=True)
    num_draws, found = len(worths), []
    for n in range(1, num_draws + 1):
        ways = [comb(num_draws - i, n - 1) for i in range(1, len(known) + 1)]
        shares = [way / sum(ways) for way in ways]
        best = sum(share * worth for share, worth in zip(shares, known, strict=True))
        found.append(best if known else NONE)
    return found


def progress_figure(metric: Metric, found: Sequence[float], expected: Sequence[float]) -> go.Figure:
    """Steps of the search, the expectation of random draws, and its end drawn on."""
    form = ".2%" if metric.is_fraction else ".4~g"

    def line(xs: Sequence[int], worths: Sequence[float], name: str, **look: object) -> go.Scatter:
        values = [None if one == NONE else metric.worth(one) for one in worths]  # turned back
        mode = "lines" if len(xs) > 1 else "markers"
        hover = f"{name}, %{{x}} subnets: %{{y:{form}}}"
        return draw.trace(xs, values, name, hover, mode=mode, **look)

    traces, num_draws = [], len(expected)
    if expected and expected[-1] != NONE:
        look = {"line_color": INK, "line_dash": "dash"}
        traces.append(line(range(1, num_draws + 1), expected, "random search, expected", **look))
        if num_draws < len(found):
            level, look = [expected[-1]] * 2, {"line_color": GREY, "line_dash": "dot"}
            traces.append(line([num_draws, len(found)], level, "best of all random draws", **look))
    look = {"line_color": BLUE, "line_shape": "hv"}
    traces.append(line(range(1, len(found) + 1), found, "this search", **look))
    titles = "evaluated subnets", show.axis(metric, "best val")
    form = show.tick_format(metric.is_fraction)
    drawn = draw.figure(*titles, traces, height=400, y_format=form)
    drawn.update_xaxes(range=[0, len(found) + 1])
    return drawn.update_layout(showlegend=True)


def random_words(metric: Metric, draws: Sequence[float], expected: Sequence[float]) -> str:
    """What the random draws at the start of a search say of random search."""
    if not draws:
        return "No subnet was drawn at random: there is nothing to hold the search against."
    best, ending = expected[-1], "so random search has no value here."
    if best != NONE:
        ending = (
            f"the best of them has {metric.text(metric.worth(best))}. Beyond "
            f"{len(draws):,} the dotted line is this best one: more random draws might have found "
            "a better subnet."
        )
    met = sum(worth != NONE for worth in draws)
    return (
        f"{len(draws):,} of the subnets are the search's own random draws, and {met:,} of these "
        "meet the budgets. Dashed: the expected best of so many of them, drawn without "
        f"replacement, over the draws in which any meets the budgets; {ending}"
    )
