"""The section on subnets trained further, or alone: what the supernet's weights are worth."""

import plotly.graph_objects as go

from nas.report import draw, show
from nas.report.draw import BLUE, GREEN, GREY
from nas.report.run_files import Alone, Logged, RunFiles
from nas.report.show import DASH
from search_spaces.space import Arch

INHERITED, FINETUNED, SCRATCH = "inherited", "fine-tuned", "trained alone"
COLOURS = {INHERITED: GREY, FINETUNED: BLUE, SCRATCH: GREEN}
Found = dict[str, tuple[Logged, Alone]]  # the evaluation of each way, and the run that it is of


def finetuning(files: RunFiles) -> str:
    """A subnet a row, each way of coming by its weights a column; empty where none was trained."""
    rows = by_arch(files)
    if not rows:
        return ""
    metric, cells = files.metric, []
    for arch, found in rows.items():
        row = {"architecture": show.arch(files.space, arch)}
        for way in COLOURS:
            row[way] = told(files, *found[way]) if way in found else DASH
        cells.append(row)
    evals = [line for found in rows.values() for line, _ in found.values()]
    words = show.paragraph(
        f"{metric.words} on {show.distinct(line.split for line in evals)}, "
        f"{show.distinct(line.num_examples for line in evals)} examples, with "
        f"{show.INTERVAL}. Inherited: the supernet's weights as they are. Fine-tuned: trained "
        "further from them. Trained alone: the same subnet from scratch, without the supernet. "
        f"Others: {files.command('finetune')}, with pick= and from=scratch.",
    )
    plot = draw.plot(ways_figure(files, rows), "finetuning")
    return show.section("What inherited weights are worth", words + plot + show.table(cells, 1))


def by_arch(files: RunFiles) -> dict[Arch, Found]:
    """The evaluation before any step of a run from the supernet, and the last of each run."""
    rows: dict[Arch, Found] = {}
    for alone in files.alone:
        for line in alone.logged:
            way = FINETUNED if alone.inherits else SCRATCH
            rows.setdefault(alone.arch, {})[way if line.step else INHERITED] = line, alone
    return rows


def told(files: RunFiles, line: Logged, alone: Alone) -> str:
    metric, found = files.metric, line.figures
    value, low, high = (metric.text(found[key]) for key in (metric.name, "low", "high"))
    epochs = f", epoch {line.epoch:g} of {alone.epochs}" if line.step else ""
    return f"{value} [{low}, {high}]{epochs}"


def ways_figure(files: RunFiles, rows: dict[Arch, Found]) -> go.Figure:
    """The score of each way with its interval, a subnet a row."""
    name, traces, ends = files.metric.name, [], []
    for way, colour in COLOURS.items():
        own = {arch: found[way][0].figures for arch, found in rows.items() if way in found}
        values = [one[name] for one in own.values()]
        intervals = [(one["low"], one["high"]) for one in own.values()]
        bars = draw.error_bars(values, intervals, colour)
        ends += [end for pair in intervals for end in pair]
        look = {"marker": {"color": colour, "size": 10}, "error_x": bars, "orientation": "h"}
        names = [show.arch(files.space, arch, "<br>") for arch in own]
        traces.append(draw.trace(values, names, way, f"{way} %{{x}}", **look))
    form = show.tick_format(files.metric.is_fraction)
    height = 190 + 100 * len(rows)
    drawn = draw.figure(show.axis(files.metric), "", traces, height=height, x_format=form)
    drawn.update_xaxes(range=draw.limits(ends, ()))  # horizontal traces would begin at zero
    return draw.named_rows(drawn).update_layout(scattermode="group", showlegend=True)
