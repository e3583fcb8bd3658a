"""The section of the report on how a search came to its choice: finalists, ending, seconds."""

from collections.abc import Sequence

import plotly.graph_objects as go

from nas.report.budgets import RATIO, bounds_on, draw_bounds
from nas.report.figures import AMBER, BLUE, GREY, VERMILION, error_bars, layout, plot
from nas.report.formatting import (
    DASH,
    Record,
    absent,
    describe_arch,
    finite,
    fraction,
    number,
    panel,
    percent,
    section,
    span,
    table,
    text,
)
from nas.report.latency import left_out
from nas.report.reading import RunFiles, part, parts

TITLE = "How the subnet was chosen"
SPENT = {  # of search.json's seconds: words and colour
    "accuracy": ("accuracy on val", BLUE),
    "costs": ("latency and memory", VERMILION),
    "proposals": ("proposals", AMBER),
    "rest": ("everything else", GREY),
}


def choosing(files: RunFiles) -> str:
    """Finalists and verification, how the search ended and where its time went."""
    if not files.search:
        sentence = f"No search has ended yet: {files.command('search')} chooses a subnet."
        return section(TITLE, absent(sentence)) if files.judged() else ""
    rows = final_rows(files)
    body = [f'<p class="soft">{ending(files)}</p>']
    if rows:
        body += [f'<p class="soft">{finalists_caption(files)}</p>', final_table(rows)]
    else:
        body.append(absent("No subnet was measured again: none met the budgets before."))
    figures = []
    if any(finite(record.get("ratio")) is not None for _, record in rows):
        figures.append(plot(final_figure(files, rows), "finalists"))
    spent = seconds(files.search)
    if spent:
        figures.append(plot(seconds_figure(spent), "seconds"))
    return section(TITLE, "".join(body) + panel("two", figures))


def final_rows(files: RunFiles) -> list[tuple[str, Record]]:
    """Finalists in the order of preference, then verifications, each with its name in words."""
    chosen = part(files.search, "chosen").get("arch")
    rows: list[tuple[str, Record]] = []
    for place, record in enumerate(parts(files.search, "finalists"), 1):
        is_chosen = chosen is not None and record.get("arch") == chosen
        rows.append((f"finalist {place}{', chosen' if is_chosen else ''}", record))
    for place, record in enumerate(parts(files.search, "verified"), 1):
        rows.append((f"chosen, verification {place}", record))
    return rows


def finalists_caption(files: RunFiles) -> str:
    num_verified = len(parts(files.search, "verified"))
    sentences = [
        "The most accurate candidates within the budgets were timed again in one session in which "
        "they take turns, and the choice was made among those whose sessions all together meet "
        "the budgets by the worse end of the 95&nbsp;% interval.",
        "Ratios are to the largest subnet's latency; the difference is the fresh median from the "
        "one that the search had used; the verdict is on the fresh median alone.",
        f"The chosen subnet was then timed {num_verified} times more, after a pause each."
        if num_verified
        else "No verification was asked for (<code>search.verify</code>).",
    ]
    return " ".join(sentences)


def final_table(rows: Sequence[tuple[str, Record]]) -> str:
    head = (
        "measured,architecture,val top&#8209;1,ratio in the search,fresh ratio,95&nbsp;% interval,"
        "difference,ms,passes,budgets"
    )
    return table(head.split(","), [final_row(name, record) for name, record in rows], 2)


def final_row(name: str, record: Record) -> tuple[bool, list[str]]:
    ratio = fraction(record.get("ratio"), record.get("searched_ratio"))
    verdict = {True: "met", False: "missed"}.get(record.get("met") is True)
    if not isinstance(record.get("met"), bool):
        verdict = DASH
    return "chosen" in name, [
        name,
        describe_arch(record.get("arch")),
        percent(record.get("top1")),
        number(record.get("searched_ratio")),
        number(record.get("ratio")),
        span(record.get("ratio_low"), record.get("ratio_high")),
        DASH if ratio is None else f"{100 * (ratio - 1):+.1f}&nbsp;%",
        number(record.get("latency_ms")),
        number(record.get("num_passes")),
        str(verdict),
    ]


def final_figure(files: RunFiles, rows: Sequence[tuple[str, Record]]) -> go.Figure:
    """The ratio used in the search beside the fresh one with its interval, a measurement a row."""
    figure = go.Figure(layout=layout(RATIO.title, ""))
    drawn = [(name, record) for name, record in rows if finite(record.get("ratio")) is not None]
    names = [name for name, _ in drawn]
    ratios = [float(record["ratio"]) for _, record in drawn]
    before = [finite(record.get("searched_ratio")) for _, record in drawn]
    ends = [interval(record) for _, record in drawn]
    figure.add_trace(dots(ratios, names, "fresh, 95 % interval", BLUE, "circle"))
    figure.update_traces(error_x=error_bars(ratios, ends, BLUE))
    figure.add_trace(dots(before, names, "in the search", GREY, "circle-open"))
    places = [value for value in before if value is not None]
    places += [end for pair in ends for end in pair]
    record = {**drawn[0][1], "latency_of_largest": ratios[0]}
    draw_bounds(figure, bounds_on(RATIO, files.budget(), record), places)
    figure.update_layout(height=190 + 34 * len(drawn))
    figure.update_yaxes(type="category", autorange="reversed", title=None)
    return figure


def dots(
    ratios: Sequence[float | None], names: Sequence[str], name: str, colour: str, symbol: str
) -> go.Scatter:
    return go.Scatter(
        x=list(ratios),
        y=list(names),
        mode="markers",
        name=name,
        marker={
            "color": colour,
            "size": 10,
            "symbol": symbol,
            "line": {"width": 2, "color": colour},
        },
        hovertemplate=f"%{{y}}<br>{name}: %{{x:.4f}}<extra></extra>",
    )


def interval(record: Record) -> tuple[float, float]:
    """The ends of a ratio's interval; the ratio itself where one is missing."""
    low, high = (finite(record.get(key)) for key in ("ratio_low", "ratio_high"))
    ratio = float(record["ratio"])
    return ratio if low is None else low, ratio if high is None else high


def ending(files: RunFiles) -> str:
    """How the search ended, what it took, and what disturbed its measurements."""
    search = files.search
    passes, lost = passes_of(files, search.get("digest"))
    drift = percent(search.get("reference_drift"))
    sentences = [
        f"Strategy {text(search.get('strategy'))}, objective {text(search.get('objective'))}: "
        f"{number(search.get('num_trials'))} trials, ended by "
        f"<code>{text(search.get('ended_by'))}</code>.",
        spent_words(search),
        f"The largest subnet's own milliseconds ranged over {drift} of their median from session "
        "to session: the machine's drift, most of which cancels in the ratios."
        if finite(search.get("reference_drift")) is not None
        else "",
        f"{passes:,} pairs of passes were timed on the target in all; {lost:,} more were "
        "left out, since they were interrupted or the device had lowered its clock."
        if passes
        else "",
    ]
    return " ".join(filter(None, sentences))


def passes_of(files: RunFiles, digest: object) -> tuple[int, int]:
    """Pairs of passes on one device that count, and those that were left out."""
    lines = [line for line in files.latency if line.get("digest") == digest]
    times = [line.get("model_ms") for line in lines]
    kept = sum(len(own) for own in times if isinstance(own, list))
    return kept, sum(left_out(line) or 0 for line in lines)


def seconds(search: Record) -> dict[str, float]:
    """Where the time of the last command went; empty unless all of it is known."""
    times = part(search, "seconds")
    spent = {key: finite(times.get(key)) for key in ("accuracy", "costs", "proposals", "total")}
    known = {key: value for key, value in spent.items() if value is not None and value >= 0}
    total = known.pop("total", 0.0)
    if not total or not {"accuracy", "costs"} <= known.keys():
        return {}
    return {**known, "rest": max(0.0, total - sum(known.values()))}


def spent_words(search: Record) -> str:
    spent = seconds(search)
    if not spent:
        return ""
    total = sum(spent.values())
    rest = total - spent["accuracy"] - spent["costs"]
    return (
        f"The last command took {number(total, 's')}. Passes of subnets, for accuracy, latency and "
        f"memory, took {percent(1 - rest / total)} of it; the other {percent(rest / total)}, "
        f"{number(rest, 's')}, is overhead: loading, proposals, extracting, and the pauses of "
        "search.verify."
    )


def seconds_figure(spent: dict[str, float]) -> go.Figure:
    """One bar, a colour for each thing that took time."""
    figure = go.Figure(layout=layout("seconds of the last search command", ""))
    for key, value in spent.items():
        words, colour = SPENT[key]
        figure.add_trace(
            go.Bar(
                x=[value],
                y=[""],
                orientation="h",
                name=f"{words} {value:,.0f} s",
                marker={"color": colour},
                hovertemplate=f"{words} {value:,.1f} s<extra></extra>",
            )
        )
    figure.update_layout(barmode="stack", height=210, legend_traceorder="normal")
    figure.update_yaxes(visible=False)
    return figure
