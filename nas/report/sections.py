"""The sections of the report on training and on the chosen subnet's shape and size."""

from typing import Any

from nas.report.figures import curve_figure, plot, probe_figure
from nas.report.formatting import (
    DASH,
    Record,
    absent,
    cell_operations,
    cell_text,
    distinct,
    finite,
    fraction,
    listed,
    number,
    panel,
    percent,
    section,
    table,
)
from nas.report.picture import arch_picture, can_draw
from nas.report.reading import RunFiles, part


def training(files: RunFiles) -> str:
    """Loss, learning rate and the probe subnets' accuracy over epochs."""
    steps = [record for record in files.metrics if record.get("kind") == "train"]
    evals = [record for record in files.metrics if record.get("kind") == "eval"]
    if not steps and not evals:
        sentence = f"No training records yet: {files.command('train')} writes them."
        return section("Training", absent(sentence))
    panels = []
    if steps:
        panels.append(plot(curve_figure(steps, "loss", "train loss"), "loss"))
        panels.append(plot(curve_figure(steps, "lr", "learning rate"), "lr"))
    if evals:
        panels.append(plot(probe_figure(evals), "probes"))
    last = max((value for r in files.metrics if (value := finite(r.get("step")))), default=0)
    rates = sorted(value for r in steps if (value := finite(r.get("images_per_s"))))
    examples = listed(distinct(record.get("num_examples") for record in evals))
    speed = f", median {number(rates[len(rates) // 2])} images a second" if rates else ""
    caption = (
        f"{last:,.0f} steps{speed}. Probes: fixed subnets, evaluated on "
        f"{listed(distinct(record.get('split') for record in evals))}, {examples} examples."
    )
    return section("Training", f'<p class="soft">{caption}</p>' + panel("three", panels))


def architecture(files: RunFiles) -> str:
    """The chosen architecture as a picture, over the largest one's outline."""
    named = files.named()
    arch: Any = named.get("chosen", {}).get("arch")
    largest: Any = named.get("largest", {}).get("arch")
    title = "The chosen architecture"
    if arch is None:
        return section(title, absent(f"No subnet is chosen: {files.command('search')} chooses."))
    if cell_operations(arch):
        return section(title, cell_table(arch, largest))
    if not can_draw(arch):
        return section(title, absent("There is no picture for this family of architectures."))
    outline = can_draw(largest)
    caption = "Each square is an attention head; each bar's width is the hidden size of the MLP" + (
        ", on the scale of the embedding's bar. Dashed: the largest subnet." if outline else "."
    )
    picture = arch_picture(arch, largest if outline else arch)
    return section(title, f'<p class="soft">{caption}</p><div class="picture">{picture}</div>')


def cell_table(arch: Record, largest: object) -> str:
    """The operations of a cell, an edge a row, beside the largest one's."""
    whole = cell_operations(largest)
    rows = [
        (False, [f"{i} \u2192 {j}", op, whole.get((i, j), DASH)])
        for (i, j), op in cell_operations(arch).items()
    ]
    caption = (
        f"<code>{cell_text(arch['operations'])}</code>: the cell's input is node 0, its output is "
        "node 3, and each node is the sum of its edges."
    )
    return f"<p>{caption}</p>{table(['edge', 'operation', 'largest'], rows, 3)}"


def counts(files: RunFiles) -> str:
    """The three parameter counts and the FLOPs of the chosen subnet beside the largest's."""
    named = files.named()
    own = part(files.card, "counts") or named.get("chosen", {})
    whole = part(files.card, "largest_counts") or named.get("largest", {})
    title = "Parameters: three counts"
    if not own:
        return section(title, absent(f"No subnet is chosen: {files.command('search')} chooses."))
    names = {
        "stored_factorised": "stored factorised: the file holds atoms, coefficients and adapters",
        "stored_merged": "stored merged: the file holds each layer's composed weights",
        "resident": "resident: in memory while the model runs",
    }
    rows = [
        (False, [words, *compared(own.get(key), whole.get(key))]) for key, words in names.items()
    ]
    flops = [part(files.card, "costs").get("flops", named.get("chosen", {}).get("flops"))]
    flops.append(named.get("largest", {}).get("flops"))
    rows.append((False, ["FLOPs of one image, a multiply-add counting as two", *compared(*flops)]))
    caption = (
        "Sharing weights makes the file smaller; it does not reduce FLOPs: every layer still "
        "multiplies by a weight of its full size. A budget on parameters bounds the smaller of the "
        "two stored counts. Statistics of batch norms are no parameters: only the resident count "
        "has them."
    )
    head = ["parameters", "chosen", "largest", "chosen of largest"]
    return section(title, f"<p>{caption}</p>{table(head, rows, 1)}")


def compared(own: object, whole: object) -> list[str]:
    return [number(own), number(whole), percent(fraction(own, whole))]
