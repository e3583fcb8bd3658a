"""The section of the report on what subnets cost on devices."""

from collections.abc import Sequence

from nas.report.formatting import (
    Record,
    absent,
    cell_text,
    definitions,
    distinct,
    finite,
    fraction,
    number,
    percent,
    section,
    sizes,
    span,
    table,
    text,
)
from nas.report.reading import RunFiles, arch_key, part

MOST_ROWS = 20  # beside the named subnets


def latency(files: RunFiles) -> str:
    """A table for each device that subnets were measured on."""
    devices = files.measured()
    if not devices:
        sentence = f"No subnet was measured yet: {files.command('measure')} measures."
        return section("Latency and memory", absent(sentence))
    tables = "".join(device_table(files, records) for records in devices.values())
    return section("Latency and memory", tables)


def device_table(files: RunFiles, records: Sequence[Record]) -> str:
    """The named subnets and the most accurate others of one device, beside the device's card."""
    top1 = {arch_key(c.get("arch")): finite(c.get("top1")) for c in files.judged()}
    top1 |= {arch_key(c.get("arch")): finite(c.get("top1")) for c in files.named().values()}
    roles = {arch_key(c.get("arch")): name for name, c in reversed(files.named().items())}
    unique = {arch_key(record.get("arch")): record for record in records}
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
        "median. Left out are passes that an interruption or a lowered clock had made longer. "
        f"Times and memory are for a batch of {batch} images, FLOPs for one image, a "
        "multiply-add counting as two."
    )
    figures = (
        "val top&#8209;1,ratio to largest,95&nbsp;% interval,ms,p90 ms,spread,passes + "
        "left out / sessions,MiB,MFLOPs"
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
        effort(record),
        number(record.get("memory_mib")),
        number(flops),
    ]


def effort(record: Record) -> str:
    """Passes that count and those left out, over sessions."""
    passes, sessions = (number(record.get(key)) for key in ("num_passes", "num_sessions"))
    return f"{passes}&nbsp;+&nbsp;{number(left_out(record))}&nbsp;/&nbsp;{sessions}"


def left_out(record: Record) -> int | None:
    """Passes that were timed but do not count."""
    counts = [finite(record.get(key)) for key in ("num_interrupted", "num_throttled")]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None
