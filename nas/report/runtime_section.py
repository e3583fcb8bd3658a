"""The section on the exported subnet's latency wherever it can run."""

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from nas.report import draw, show
from nas.report.draw import BLUE, GREY, INK, SKY
from nas.report.run_files import RunFiles
from nas.report.show import DASH, INTERVAL, number, text
from nas.results import ExportResult
from search_spaces.space import Arch

TITLE = "What is measured is what ships"


class Bar(NamedTuple):
    """A latency of the exported subnet; its name is HTML."""

    name: str
    latency_ms: float
    ratio: float
    low: float  # 95 % interval of the ratio
    high: float
    colour: str


def runtimes(files: RunFiles) -> str:
    """The exported subnet in each runtime, and how far off the search's figure was."""
    export = files.export
    if not export:
        sentence = f"Not exported yet: {files.command('export')} measures the exported subnet."
        return show.absent(TITLE, sentence) if files.search else ""
    bars, card, known = measured_bars(export), export.card, export.costs.measurement
    before = export.searched_ratio
    off = 100 * (known.ratio / before - 1) if before else 0.0
    caption = show.paragraph(
        f"Milliseconds a batch of {number(card.batch_size)} on {text(card.name)}; ratios are to "
        f"the largest subnet in {text(card.runtime)}, the runtime that the search measured in.",
        before
        and f"Measured afresh after the export, the latency is {off:+.1f}&nbsp;% from what the "
        "search had known.",
        export.runtimes
        and "The runtimes took turns in one session. Bars have 95&nbsp;% intervals. A budget was "
        "held to in the search's own runtime; elsewhere its line is for comparison.",
    )
    facts = {
        "peak memory of a pass": number(known.memory_mib, "MiB"),
        "growth of the resident set": number(known.resident_mib, "MiB"),
        "energy an example": number(known.energy_mj, "mJ"),
    }
    facts = {name: value for name, value in facts.items() if value != DASH}
    figure = draw.plot(bars_figure(files, bars), "runtimes")
    body = [figure, latency_table(export, bars) + show.definitions(facts)]
    return show.section(TITLE, caption + show.panel("two", body))


def measured_bars(export: ExportResult[Arch]) -> list[Bar]:
    """What the search used, what the export measured, and the runtimes side by side."""
    known, own, before = export.costs.measurement, text(export.card.runtime), export.searched_ratio
    bars, ends = [], (known.ratio_low, known.ratio_high)
    if before:
        ms = before * known.latency_ms / known.ratio
        bars.append(Bar(f"known to the search ({own})", ms, before, before, before, GREY))
    name = f"exported, measured afresh ({own})"
    bars.append(Bar(name, known.latency_ms, known.ratio, *ends, BLUE))
    for one in export.runtimes:
        if one.latency_ms and one.ratio and one.ratio_low and one.ratio_high:
            name, ends = f"exported, in {text(one.runtime)}", (one.ratio_low, one.ratio_high)
            bars.append(Bar(name, one.latency_ms, one.ratio, *ends, SKY))
    return bars


def latency_table(export: ExportResult[Arch], bars: Sequence[Bar]) -> str:
    """A bar a row, then the runtimes that are not there, each with its reason."""
    head, ratio, ms = "latency of the exported subnet", f"ratio ({INTERVAL})", "ms"
    rows = []
    for bar in bars:
        name = show.role(bar.name) if bar.colour == BLUE else bar.name
        ends = f" ({show.span(bar.low, bar.high)})" if bar.low < bar.high else ""
        rows.append({head: name, ratio: number(bar.ratio) + ends, ms: number(bar.latency_ms)})
    for one in export.runtimes:
        if one.unavailable:
            words = f"exported, in {text(one.runtime)}: <i>{text(one.unavailable)}</i>"
            rows.append({head: words, ratio: DASH, ms: DASH})
    return show.table(rows, 1)


def bars_figure(files: RunFiles, bars: Sequence[Bar]) -> go.Figure:
    values, scale = [bar.latency_ms for bar in bars], bars[0].latency_ms / bars[0].ratio
    ends = [(bar.low * scale, bar.high * scale) for bar in bars]
    trace = draw.bar(values, [bar.name for bar in bars], "%{y}<br>%{x:.3f} ms a batch")
    trace.update(marker_color=[bar.colour for bar in bars])
    trace.error_x = draw.error_bars(values, ends, INK)
    drawn = draw.figure(draw.COSTS["latency_ms"], "", [trace], height=150 + 38 * len(bars))
    bounds = draw.places(files.budgets, {"latency_ms": 1.0, "latency_of_largest": scale})
    draw.with_bounds(drawn, bounds, [0.0, *(high for _, high in ends)])
    drawn.update_xaxes(range=[0, drawn.layout.xaxis.range[1]])  # bars begin at 0
    return draw.named_rows(drawn).update_layout(showlegend=False)
