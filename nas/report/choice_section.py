"""The section on how a search came to its choice: finalists, ending, seconds."""

import plotly.graph_objects as go

from nas.records import Finalist
from nas.report import draw, show
from nas.report.draw import AMBER, BLUE, GREY, VERMILION
from nas.report.run_files import RunFiles
from nas.report.show import INTERVAL, number, percent, text
from nas.results import SearchResult, Seconds
from search_spaces.space import Arch

TITLE = "How the subnet was chosen"
RATIO = "latency_of_largest"
FINALISTS = (
    "The best candidates within the budgets were timed again in one session in which they take "
    "turns, and the choice was made among those whose sessions all together meet the budgets by "
    f"the worse end of the {INTERVAL}. The difference is the fresh median from the one that the "
    "search had used; budgets are met by the fresh median alone. Verifications "
    "(<code>search.verify</code>) follow after a pause each."
)
Rows = dict[str, Finalist[Arch]]  # by their names in words


def choice(files: RunFiles) -> str:
    """Finalists and verification, how the search ended and where its time went."""
    search = files.search
    if not search:
        sentence = f"No search has ended yet: {files.command('search')} chooses a subnet."
        return show.absent(TITLE, sentence) if files.judged else ""
    rows, spent = final_rows(search), seconds(search.seconds)
    own = [line for line in files.measured if line.digest == search.conditions.digest]
    passes = sum(len(line.model_ms) for line in own)
    lost = sum(line.num_interrupted + line.num_throttled for line in own)
    total, overhead = sum(spent.values()), spent["proposals"] + spent["everything else"]
    part = overhead / total if total else 0.0
    body = show.paragraph(
        f"Strategy {text(search.strategy)}, objective {text(search.objective)}: "
        f"{number(search.num_trials)} trials, ended by {show.code(search.ended_by)}.",
        f"The last command took {number(total, 's')}. Passes of subnets, for scores, latency and "
        f"memory, took {percent(1 - part)} of it; the other {percent(part)}, "
        f"{number(overhead, 's')}, is overhead: loading, proposals, extracting, and the pauses of "
        "search.verify.",
        f"The largest subnet's own milliseconds ranged over {percent(search.reference_drift)} of "
        "their median from session to session: the machine's drift, most of which cancels in the "
        "ratios.",
        passes
        and f"{passes:,} pairs of passes were timed on the target in all; {lost:,} more were left "
        "out, since they were interrupted or the device had lowered its clock.",
    )
    figures = [draw.plot(seconds_figure(spent), "seconds")]
    if rows:
        body += show.paragraph(FINALISTS) + final_table(files, rows)
        figures.insert(0, draw.plot(final_figure(files, rows), "finalists"))
    else:
        body += '<p class="absent">No subnet was measured again.</p>'
    return show.section(TITLE, body + show.panel("two", figures))


def final_rows(search: SearchResult[Arch]) -> Rows:
    """Finalists in the order of preference, then verifications."""
    chosen = search.chosen and search.chosen.arch
    rows = {
        f"finalist {place}" + (", chosen" if one.arch == chosen else ""): one
        for place, one in enumerate(search.finalists, 1)
    }
    again = enumerate(search.verified, 1)
    return rows | {f"chosen, verification {place}": one for place, one in again}


def final_table(files: RunFiles, rows: Rows) -> str:
    cells = [
        {
            "measured": show.role(name) if "chosen" in name else name,
            "architecture": show.arch(files.space, one.arch),
            f"val {files.metric.words}": files.metric.text(one.score.value),
            "ratio in the search": number(one.searched_ratio),
            **show.latency(one.again),
            "difference": f"{100 * (one.again.ratio / one.searched_ratio - 1):+.1f}&nbsp;%",
            "budgets": "met" if one.met else "missed",
        }
        for name, one in rows.items()
    ]
    return show.table(cells, 2)


def final_figure(files: RunFiles, rows: Rows) -> go.Figure:
    """The ratio used in the search beside the fresh one with its interval, a measurement a row."""
    names, found = list(rows), [one.again for one in rows.values()]
    ratios, before = [one.ratio for one in found], [one.searched_ratio for one in rows.values()]
    ends = [(one.ratio_low, one.ratio_high) for one in found]
    hover, bars = "%{y}<br>%{fullData.name}: %{x:.4f}", draw.error_bars(ratios, ends, BLUE)
    dot = {"color": BLUE, "size": 10}
    ring = {"color": GREY, "size": 10, "symbol": "circle-open", "line_width": 2}
    traces = [
        draw.trace(ratios, names, "fresh, 95 % interval", hover, marker=dot, error_x=bars),
        draw.trace(before, names, "in the search", hover, marker=ring),
    ]
    drawn = draw.figure(draw.COSTS[RATIO], "", traces, height=190 + 34 * len(rows))
    units = {RATIO: 1.0, "latency_ms": found[0].ratio / found[0].latency_ms}
    bounds = draw.places(files.budgets, units)
    draw.with_bounds(drawn, bounds, [*before, *(end for pair in ends for end in pair)])
    return draw.named_rows(drawn)


def seconds(known: Seconds) -> dict[str, float]:
    """Where the time of the last command went, by words; together all of it."""
    spent = {
        "scores on val": known.scores,
        "latency and memory": known.costs,
        "proposals": known.proposals,
    }
    return {**spent, "everything else": max(0.0, known.total - sum(spent.values()))}


def seconds_figure(spent: dict[str, float]) -> go.Figure:
    """One bar, a colour for each thing that took time."""
    traces = []
    for (words, value), colour in zip(spent.items(), (BLUE, VERMILION, AMBER, GREY), strict=True):
        bar = draw.bar([value], [""], f"{words} %{{x:,.1f}} s")
        traces.append(bar.update(name=f"{words} {value:,.0f} s", marker_color=colour))
    drawn = draw.figure("seconds of the last search command", "", traces, height=210)
    drawn.update_yaxes(visible=False)
    return drawn.update_layout(barmode="stack", legend_traceorder="normal")
