"""The section of the report on the exported subnet's latency wherever it can run."""

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from nas.report.budgets import Cost, bounds_on, draw_bounds
from nas.report.figures import BLUE, GREY, INK, SKY, error_bars, layout, plot
from nas.report.formatting import (
    DASH,
    Record,
    absent,
    definitions,
    finite,
    fraction,
    number,
    panel,
    section,
    span,
    table,
    text,
)
from nas.report.reading import RunFiles, part, parts

TITLE = "What is measured is what ships"


class Bar(NamedTuple):
    """A latency of the exported subnet; names are HTML."""

    name: str
    latency_ms: float
    record: Record  # with ratio, ratio_low, ratio_high
    colour: str


def runtimes(files: RunFiles) -> str:
    """The exported subnet in each runtime, and how far off the search's figure was."""
    card = files.card
    if not card:
        sentence = f"Not exported yet: {files.command('export')} measures the exported subnet."
        return section(TITLE, absent(sentence)) if files.search else ""
    bars = measured_bars(card)
    if not bars:
        return section(TITLE, absent("The export holds no latency."))
    facts = other_facts(card)
    figure = plot(bars_figure(files, bars), "runtimes")
    numbers = latency_table(card, bars) + (definitions(facts) if facts else "")
    return section(TITLE, f'<p class="soft">{caption(files)}</p>{panel("two", [figure, numbers])}')


def latency_table(card: Record, bars: Sequence[Bar]) -> str:
    """A bar a row, then the runtimes that are not there, each with its reason."""
    rows = [(bar.colour == BLUE, bar_row(bar)) for bar in bars]
    missing = [one for one in parts(card, "runtimes") if one.get("unavailable") is not None]
    rows += [(False, missing_row(one)) for one in missing]
    head = "latency of the exported subnet,ratio,95&nbsp;% interval,ms,passes"
    return table(head.split(","), rows, 1)


def measured_bars(card: Record) -> list[Bar]:
    """What the search used, what the export measured, and the runtimes side by side."""
    latency, searched = part(card, "latency"), part(card, "searched")
    own = text(part(card, "device").get("runtime"))
    scale = fraction(latency.get("latency_ms"), latency.get("ratio"))
    ratio = finite(searched.get("ratio"))
    bars = []
    if ratio is not None and scale is not None:
        bars.append(Bar(f"known to the search ({own})", ratio * scale, searched, GREY))
    ms = finite(latency.get("latency_ms"))
    if ms is not None:
        bars.append(Bar(f"exported, measured afresh ({own})", ms, latency, BLUE))
    for one in parts(card, "runtimes"):
        ms = finite(one.get("latency_ms"))
        if ms is not None:
            bars.append(Bar(f"exported, in {text(one.get('runtime'))}", ms, one, SKY))
    return bars


def caption(files: RunFiles) -> str:
    card = files.card
    device = part(card, "device")
    off = finite(part(card, "searched").get("off_by"))
    sentences = [
        f"Milliseconds a batch of {number(device.get('batch_size'))} on "
        f"{text(device.get('name'))}; ratios are to the largest subnet in "
        f"{text(device.get('runtime'))}, the runtime that the search measured in.",
        f"Measured afresh after the export, the latency is {100 * off:+.1f}&nbsp;% from what the "
        "search had known."
        if off is not None
        else "",
        "The runtimes took turns in one session. Bars have 95&nbsp;% intervals. A budget was held "
        "to in the search's own runtime; elsewhere its line is for comparison."
        if parts(card, "runtimes")
        else "",
    ]
    return " ".join(filter(None, sentences))


def bars_figure(files: RunFiles, bars: Sequence[Bar]) -> go.Figure:
    figure = go.Figure(layout=layout("latency, ms a batch", ""))
    ends = [interval_ms(bar) for bar in bars]
    values = [bar.latency_ms for bar in bars]
    figure.add_trace(
        go.Bar(
            x=values,
            y=[bar.name for bar in bars],
            orientation="h",
            marker={"color": [bar.colour for bar in bars]},
            error_x=error_bars(values, ends, INK),
            hovertemplate="%{y}<br>%{x:.3f} ms a batch<extra></extra>",
        )
    )
    cost = Cost("latency_ms", "latency_of_largest", "", "")
    latency = part(files.card, "latency")
    record = {**latency, "latency_of_largest": latency.get("ratio")}
    bounds = bounds_on(cost, files.budget(), record)
    draw_bounds(figure, bounds, [0.0, *(high for _, high in ends)])
    figure.update_xaxes(range=[0, figure.layout.xaxis.range[1]])  # bars begin at 0
    figure.update_layout(showlegend=False, height=150 + 38 * len(bars))
    figure.update_yaxes(type="category", autorange="reversed", title=None)
    return figure


def interval_ms(bar: Bar) -> tuple[float, float]:
    """The 95 % interval of the ratio on the scale of the milliseconds."""
    low = fraction(bar.record.get("ratio_low"), bar.record.get("ratio"))
    high = fraction(bar.record.get("ratio_high"), bar.record.get("ratio"))
    return (
        bar.latency_ms * (1.0 if low is None else low),
        bar.latency_ms * (1.0 if high is None else high),
    )


def bar_row(bar: Bar) -> list[str]:
    return [
        bar.name,
        number(bar.record.get("ratio")),
        span(bar.record.get("ratio_low"), bar.record.get("ratio_high")),
        number(bar.latency_ms),
        number(bar.record.get("num_passes")),
    ]


def missing_row(one: Record) -> list[str]:
    words = f"exported, in {text(one.get('runtime'))}: <i>{text(one.get('unavailable'))}</i>"
    return [words, DASH, DASH, DASH, DASH]


def other_facts(card: Record) -> dict[str, str]:
    """Memory and energy where they are known."""
    latency = part(card, "latency")
    known = {
        "peak memory of a pass": number(latency.get("memory_mib"), "MiB"),
        "growth of the resident set": number(latency.get("resident_mib"), "MiB"),
        "energy an image": number(latency.get("energy_mj"), "mJ"),
    }
    return {name: value for name, value in known.items() if value != DASH}
