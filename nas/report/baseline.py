"""The section of the report that holds a search against random draws of as many subnets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import plotly.graph_objects as go

from nas.report.budgets import meets
from nas.report.figures import BLUE, GREY, INK, layout, plot
from nas.report.formatting import (
    Record,
    absent,
    finite,
    number,
    percent,
    section,
    span,
    top1_interval,
)
from nas.report.reading import RunFiles

ENDS = ("smallest", "largest")  # judged before every search, whatever it proposes


@dataclass(frozen=True)
class Expectation:
    """The best of some random draws, in expectation over which ones they are."""

    value: float  # where any of them meets the budgets
    chance: float  # that one does


def against_random(files: RunFiles) -> str:
    """The best accuracy within the budgets over evaluated subnets, beside random search's."""
    proposed = [one for one in files.judged() if one.get("origin") not in ENDS]
    if not proposed:
        return ""
    found = best_so_far(proposed, files.budget())
    starts = [one for one in proposed if one.get("origin") == "start"]
    expected = expected_best([value_of(one, files.budget()) for one in starts])
    title = "Against random search"
    if found[-1] is None:
        sentence = "No proposed subnet meets the budgets: there is no best one to follow."
        return section(title, absent(sentence))
    figure = plot(progress_figure(found, expected), "progress")
    words = progress_caption(files, proposed, starts, expected)
    return section(title, f'<p class="soft">{words}</p>{figure}')


def value_of(candidate: Record, budget: Record) -> float | None:
    """Its accuracy if it meets the budgets."""
    return finite(candidate.get("top1")) if meets(candidate, budget) else None


def best_so_far(candidates: Sequence[Record], budget: Record) -> list[float | None]:
    found, best = [], None
    for candidate in candidates:
        value = value_of(candidate, budget)
        if best is None or (value is not None and value > best):
            best = value
        found.append(best)
    return found


def expected_best(values: Sequence[float | None]) -> list[Expectation | None]:
    """The best of n of the m draws without replacement, for n from 1 to m; None is no value.

    The i-th best is the best of n if it is among them and the n - 1 others are among the m - i
    below it: C(m - i, n - 1) of C(m, n) subsets.
    """
    known = sorted((value for value in values if value is not None), reverse=True)
    num_draws, found = len(values), list[Expectation | None]()
    for n in range(1, num_draws + 1):
        ways = [comb(num_draws - i, n - 1) for i in range(1, len(known) + 1)]
        shares = [way / comb(num_draws, n) for way in ways]
        chance = sum(shares)
        total = sum(share * value for share, value in zip(shares, known, strict=True))
        found.append(Expectation(total / chance, chance) if chance > 0 else None)
    return found


def progress_figure(
    found: Sequence[float | None], expected: Sequence[Expectation | None]
) -> go.Figure:
    """Steps of the search, the expectation of random draws, and its end drawn on."""
    figure = go.Figure(layout=layout("evaluated subnets", "best val top-1 within the budgets"))
    known = [(n, one) for n, one in enumerate(expected, 1) if one]
    if known:
        figure.add_trace(expectation(known))
        num_draws, last = known[-1]
        if num_draws < len(found):
            level = ([num_draws, len(found)], [last.value, last.value])
            style = {"color": GREY, "width": 1.5, "dash": "dot"}
            figure.add_trace(line(*level, "best of all random draws", style))
    style = {"color": BLUE, "width": 2, "shape": "hv"}
    figure.add_trace(line(range(1, len(found) + 1), found, "this search", style))
    figure.update_layout(height=400, showlegend=True)
    figure.update_xaxes(range=[0, len(found) + 1])
    figure.update_yaxes(tickformat=".1%")
    return figure


def expectation(known: Sequence[tuple[int, Expectation]]) -> go.Scatter:
    style = {"color": INK, "width": 1.5, "dash": "dash"}
    numbers, values = [n for n, _ in known], [one.value for _, one in known]
    trace = line(numbers, values, "random search, expected", style)
    trace.update(
        customdata=[percent(one.chance) for _, one in known],
        hovertemplate="%{x} random draws: %{y:.2%} expected<br>chance that one of them meets the "
        "budgets: %{customdata}<extra></extra>",
    )
    return trace


def line(
    numbers: Sequence[int],
    values: Sequence[float | None],
    name: str,
    style: Mapping[str, object],
) -> go.Scatter:
    return go.Scatter(
        x=list(numbers),
        y=list(values),
        mode="lines" if len(numbers) > 1 else "markers",
        name=name,
        line=dict(style),
        marker={"color": style["color"]},
        hovertemplate=f"{name}, %{{x}} subnets: %{{y:.2%}}<extra></extra>",
    )


def progress_caption(
    files: RunFiles,
    proposed: Sequence[Record],
    starts: Sequence[Record],
    expected: Sequence[Expectation | None],
) -> str:
    """How the lines were made, and what they come to."""
    values = [(value, one) for one in proposed if (value := value_of(one, files.budget()))]
    best, record = max(values, key=lambda pair: pair[0])
    interval = interval_words(record)
    sentences = [
        f"The best of {len(proposed):,} evaluated subnets has {percent(best)} on val{interval}.",
        random_words(files, starts, expected),
        f"{adopted:,} were known from earlier searches with other budgets and come first."
        if (adopted := num_adopted(files))
        else "",
        "The smallest and the largest subnet, which every search evaluates, are not counted.",
    ]
    return " ".join(filter(None, sentences))


def random_words(
    files: RunFiles, starts: Sequence[Record], expected: Sequence[Expectation | None]
) -> str:
    """What the random draws at the start of a search say of random search."""
    if not starts:
        return "No subnet was drawn at random: there is nothing to hold the search against."
    met = sum(value_of(one, files.budget()) is not None for one in starts)
    last = expected[-1]
    ending = (
        f"the best of them has {percent(last.value)}. Beyond {len(starts):,} the dotted line is "
        "this best one: more random draws might have found a better subnet."
        if last
        else "so random search has no value here."
    )
    return (
        f"{len(starts):,} of the subnets are the search's own random draws, and {met:,} of these "
        "meet the budgets. Dashed: the expected best of so many of them, drawn without "
        f"replacement, over the draws in which any meets the budgets; {ending}"
    )


def num_adopted(files: RunFiles) -> int:
    """Candidates that were first judged for another question than the last search's."""
    study = files.search.get("study")
    others = [one.get("study") for one in files.comparable().values()]
    return sum(other not in (None, study) for other in others) if study else 0


def interval_words(record: Record) -> str:
    interval = top1_interval(record)
    if interval is None:
        return ""
    return (
        f" ({number(record.get('num_examples'))} examples, 95&nbsp;% interval "
        f"{span(*interval, 100, 1)}&nbsp;%: smaller differences may be chance)"
    )
