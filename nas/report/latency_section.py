"""The section on what subnets cost on devices."""

from collections.abc import Mapping
from dataclasses import asdict

from nas.records import DeviceCard, Measurement
from nas.report import show
from nas.report.run_files import RunFiles
from nas.report.show import DASH, INTERVAL, number, percent, text
from search_spaces.space import Arch

TITLE = "Latency and memory"
MOST_ROWS = 20  # beside the named subnets


def latency(files: RunFiles) -> str:
    """A table for each device that subnets were measured on."""
    tables = [device_table(files, *device) for device in files.devices()]
    if not tables:
        sentence = f"No subnet was measured yet: {files.command('measure')} measures."
        return show.absent(TITLE, sentence)
    old = files.num_old and f"{files.num_old:,} lines of an older format are not shown."
    return show.section(TITLE, "".join(tables) + show.paragraph(old))


def device_table(files: RunFiles, card: DeviceCard, known: Mapping[Arch, Measurement]) -> str:
    """The named subnets and the best others of one device, beside the device's card."""
    scores = {one.arch: one.score for one in (*files.judged, *files.named.values())}
    roles = {one.arch: name for name, one in reversed(files.named.items())}

    def order(arch: Arch) -> tuple[bool, float, float]:
        worth = scores[arch].worth if arch in scores else float("-inf")
        return arch not in roles, -worth, known[arch].latency_ms

    num_named, score = sum(arch in roles for arch in known), f"val {files.metric.words}"
    shown = sorted(known, key=order)[: num_named + MOST_ROWS]
    rows = [
        {
            "subnet": show.role(roles[arch]) if arch in roles else "",
            **{text(name): text(size) for name, size in files.space.describe(arch).items()},
            score: files.metric.text(scores[arch].value) if arch in scores else DASH,
            **figures(known[arch]),
        }
        for arch in shown
    ]
    caption = show.paragraph(
        f"{len(shown)} of {len(known)} measured subnets: the named ones, then by {score}. Each "
        "pass is paired with a pass of the largest subnet: the ratio is the median over pairs with "
        f"its {INTERVAL}, and milliseconds are the ratio times the largest's median. p90 is of the "
        "subnet's own passes, spread the interquartile range of the ratios over their median. Left "
        "out are passes that an interruption or a lowered clock had made longer. Times and memory "
        f"are for a batch of {number(card.batch_size)}, FLOPs for one example, a multiply-add "
        "counting as two."
    )
    table = show.table(rows, 1 + len(files.space.describe(shown[0])))
    device = show.definitions({text(key): text(value) for key, value in asdict(card).items()})
    return caption + show.panel("aside", [table, f"<h3>Device</h3>{device}"])


def figures(known: Measurement) -> dict[str, str]:
    left_out = known.num_interrupted + known.num_throttled
    return {
        **show.latency(known),
        "left out / sessions": f"{left_out}&nbsp;/&nbsp;{known.num_sessions}",
        "p90 ms": number(known.p90_ms),
        "spread": percent(known.spread),
        "MiB": number(known.memory_mib),
        "MFLOPs": number(known.flops / 1e6),
    }
