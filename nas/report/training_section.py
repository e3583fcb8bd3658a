"""The section on training: loss, learning rate and the probe subnets' scores over epochs."""

from statistics import median

from nas.report import draw, show
from nas.report.draw import AMBER, BLUE, GREEN, GREY, INK, PURPLE, SKY, VERMILION
from nas.report.run_files import RunFiles

COLOURS = (BLUE, VERMILION, GREEN, AMBER, PURPLE, SKY, INK, GREY)  # of probes
FIGURES = {"loss": "train loss", "lr": "learning rate"}
RATE = "examples_per_s"


def training(files: RunFiles) -> str:
    if not files.logged:
        sentence = f"No training records yet: {files.command('train')} writes them."
        return show.absent("Training", sentence)
    panels = []
    for key, title in FIGURES.items():
        trace = draw.curve(files.lines("train", key), key, title, BLUE)
        panels.append(draw.plot(draw.figure("epoch", title, [trace]), key))
    evals = files.lines("eval", files.metric.name)
    if evals:
        panels.append(probes(files))
    rates = [line.figures[RATE] for line in files.lines("train", RATE)]
    caption = show.paragraph(
        f"{max(line.step for line in files.logged):,} steps.",
        rates and f"Median of {show.number(median(rates))} examples a second.",
        evals
        and f"Probes: fixed subnets, evaluated on {show.distinct(line.split for line in evals)}, "
        f"{show.distinct(line.num_examples for line in evals)} examples.",
    )
    return show.section("Training", caption + show.panel("three", panels))


def probes(files: RunFiles) -> str:
    """The score of every probe subnet over epochs."""
    metric, traces = files.metric, []
    lines = files.lines("eval", metric.name)
    for place, probe in enumerate(dict.fromkeys(line.probe for line in lines)):
        own = [line for line in lines if line.probe == probe]
        colour = COLOURS[place % len(COLOURS)]
        traces.append(draw.curve(own, metric.name, show.text(probe), colour, mode="lines+markers"))
    form = show.tick_format(metric.is_fraction)
    drawn = draw.figure("epoch", show.axis(metric), traces, y_format=form)
    return draw.plot(drawn.update_layout(showlegend=True), "probes")
