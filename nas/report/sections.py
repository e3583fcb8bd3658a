"""The sections of the report, each from a run's files to HTML."""

import json
from collections.abc import Sequence
from typing import Any

from nas.report.figures import (
    Cost,
    curve_figure,
    drawable,
    meets,
    pareto_figure,
    plot,
    probe_figure,
)
from nas.report.formatting import (
    DASH,
    Record,
    absent,
    cell_operations,
    cell_text,
    definitions,
    distinct,
    finite,
    fraction,
    listed,
    number,
    panel,
    percent,
    section,
    sizes,
    span,
    table,
    text,
)
from nas.report.picture import arch_picture, can_draw
from nas.report.reading import RunFiles, part

MOST_ROWS = 20  # of the latency table, beside the named subnets


def pareto(files: RunFiles) -> str:
    """Every candidate of the search against what it costs."""
    judged = files.judged()
    if not judged:
        sentence = f"No candidates were evaluated yet: {files.command('search')} evaluates them."
        return section("Pareto front", absent(sentence))
    batch = number(files.device(judged[-1].get("digest")).get("batch_size"))
    costs = [
        Cost("latency_ms", "latency_of_largest", f"latency, ms a batch of {batch}", ",~r"),
        Cost("params", "params_of_largest", "stored parameters, factorised or merged", "~s"),
    ]
    panels = [
        plot(pareto_figure(judged, files.named(), files.budget(), cost), cost.key) for cost in costs
    ]
    return section("Pareto front", candidates_caption(files, costs) + panel("two", panels))


def candidates_caption(files: RunFiles, costs: Sequence[Cost]) -> str:
    """How many candidates, on which split and device, and what the marks mean."""
    judged, budget = files.judged(), files.budget()
    met = sum(meets(record, budget) for record in judged)
    undrawn = {cost.key: len(judged) - len(drawable(judged, cost)) for cost in costs}
    bounds = ", ".join(f"{text(name)} \u2264 {number(limit)}" for name, limit in budget.items())
    others = len(files.candidates) - len(judged)
    sentences = [
        f"{len(judged):,} architectures were evaluated so far, smallest and largest among them; "
        f"the last search has {number(files.search.get('num_trials'))} trials.",
        f"Budgets: {bounds}; {met:,} candidates meet all of them, a latency by the upper end of "
        "its 95&nbsp;% interval."
        if bounds
        else "No budget was set.",
        f"Accuracy: top-1 on {listed(distinct(c.get('split') for c in judged))}, "
        f"{listed(distinct(c.get('num_examples') for c in judged))} examples, supernet at step "
        f"{listed(distinct(c.get('step') for c in judged))}.",
        f"Latency measured on {describe_card(files.device(judged[-1].get('digest')))}.",
        "Bars on the named subnets are 95&nbsp;% intervals: smaller differences may be chance. "
        "Hover over a point for its architecture and all figures.",
        *(f"{count:,} without {key} are not drawn." for key, count in undrawn.items() if count),
        f"{others:,} of other weights or another target are not shown." if others else "",
    ]
    return f'<p class="soft">{" ".join(filter(None, sentences))}</p>'


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


def latency(files: RunFiles) -> str:
    """A table for each device that subnets were measured on."""
    records = [record for record in files.latency if record.get("kind") == "measurement"]
    if not records:
        sentence = f"No subnet was measured yet: {files.command('measure')} measures."
        return section("Latency and memory", absent(sentence))
    devices: dict[str, list[Record]] = {}
    for record in records:
        devices.setdefault(str(record.get("digest")), []).append(record)
    return section(
        "Latency and memory", "".join(device_table(files, own) for own in devices.values())
    )


def device_table(files: RunFiles, records: Sequence[Record]) -> str:
    """The named subnets and the most accurate others of one device, beside the device's card."""
    top1 = {arch_key(c.get("arch")): finite(c.get("top1")) for c in files.judged()}
    top1 |= {arch_key(c.get("arch")): finite(c.get("top1")) for c in files.named().values()}
    roles = {arch_key(c.get("arch")): name for name, c in reversed(files.named().items())}
    unique = {arch_key(record.get("arch")): record for record in reversed(records)}
    order = sorted(
        unique, key=lambda key: (-(top1.get(key) or 0), finite(unique[key].get("latency_ms")) or 0)
    )
    others = [key for key in order if key not in roles]
    shown = [key for key in order if key in roles] + others[:MOST_ROWS]
    fields = distinct(field for key in shown for field in part(unique[key], "arch"))
    rows = [latency_row(unique[key], fields, roles.get(key, ""), top1.get(key)) for key in shown]
    card = part(records[0], "card")
    batch = number(card.get("batch_size"))
    caption = (
        f"{len(shown)} of {len(unique)} measured subnets: the named ones, then by val top-1. Each "
        "pass is paired with a pass of the largest subnet: the ratio is the median over pairs with "
        "its 95&nbsp;% interval, and milliseconds are the ratio times the largest's median. p90 is "
        "of the subnet's own passes, spread the interquartile range of the ratios over their "
        f"median. Times and memory are for a batch of {batch} images, FLOPs for one image, a "
        "multiply-add counting as two."
    )
    figures = (
        "val top&#8209;1,ratio to largest,95&nbsp;% interval,ms,p90 ms,spread,passes,MiB,MFLOPs"
    )
    head = ["subnet", *map(text, fields), *figures.split(",")]
    return (
        f'<p class="soft">{caption}</p><div class="panels aside">'
        f"{table(head, rows, len(fields) + 1)}<div><h3>Device</h3>"
        f"{definitions({text(key): text(value) for key, value in card.items()})}</div></div>"
    )


def latency_row(
    record: Record, fields: Sequence[str], role: str, top1: float | None
) -> tuple[bool, list[str]]:
    flops = fraction(record.get("flops"), 1e6)
    arch = part(record, "arch")
    return bool(role), [
        f'<span class="role">{text(role)}</span>' if role else "",
        *(cell_text(arch.get(field)) or sizes(arch.get(field)) for field in fields),
        percent(top1),
        number(record.get("ratio")),
        span(record.get("ratio_low"), record.get("ratio_high")),
        number(record.get("latency_ms")),
        number(record.get("p90_ms")),
        percent(record.get("spread")),
        number(record.get("num_passes")),
        number(record.get("memory_mib")),
        number(flops),
    ]


def arch_key(arch: object) -> str:
    return json.dumps(arch, sort_keys=True)


def describe_card(card: Record) -> str:
    """A device's card in one line."""
    facts = [text(card.get(key)) for key in ("device", "dtype", "runtime")]
    return (
        f"{text(card.get('name'))} ({', '.join(facts)}, CPU threads {number(card.get('threads'))}, "
        f"torch {text(card.get('torch_version'))})"
    )


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
