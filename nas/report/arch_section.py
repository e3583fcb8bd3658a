"""The sections on the chosen architecture: a picture, and the three counts of its parameters."""

import html
from collections import defaultdict
from collections.abc import Sequence

from nas.report import show
from nas.report.run_files import RunFiles
from nas.report.show import number
from search_spaces.space import ArchT, Option, Space

TITLE = "The chosen architecture"
WIDTH, ROW, BAR, LABELS, GAP = 960, 46, 14, 92, 16  # pixels
MOST_IN_ROW = 6

FILLED = 'fill="#56b4e9" stroke="#0072b2"'
OUTLINE = 'fill="none" stroke="#9aa5b1" stroke-dasharray="3 3"'
COUNTS = {
    "stored_factorised": "stored factorised: the file holds atoms, coefficients and adapters",
    "stored_merged": "stored merged: the file holds each layer's composed weights",
    "resident": "resident: in memory while the model runs",
}


def architecture(files: RunFiles) -> str:
    """The chosen architecture as a picture."""
    arch = files.chosen_arch
    if arch is None:
        return show.absent(TITLE, f"No subnet is chosen: {files.command('search')} chooses.")
    caption = (
        "A row a group of choices. Each bar is the chosen option beside the largest one (dashed): "
        "a number relative to it, a word by its place among the options, from the least costly."
    )
    words = f"<p>{show.arch(files.space, arch)}</p>"
    picture = f'<div class="picture">{arch_picture(files.space, arch)}</div>'
    return show.section(TITLE, words + show.paragraph(caption) + picture)


def arch_picture(space: Space[ArchT], arch: ArchT) -> str:
    """SVG of an architecture of any space, drawn from its choices."""
    choices, active = space.choices(), space.active(arch)
    rows = picture_rows(list(choices))
    columns = max(len(names) for _, names in rows)
    width = (WIDTH - LABELS) / columns
    parts = []
    for place, (group, names) in enumerate(rows):
        y = ROW * place
        parts.append(label(0, y + 30, group, "note"))
        for column, name in enumerate(names):
            x, value = LABELS + width * column, active.get(name)
            size = f"{value:g}" if isinstance(value, float) else value
            words = f"{name.rpartition('.')[2]} {'left out' if size is None else size}"
            parts += [label(x, y + 14, words, "names"), bar(x, y + 19, width - GAP, OUTLINE)]
            if value is not None:
                part = fraction(value, choices[name])
                parts.append(bar(x, y + 19, part * (width - GAP), FILLED))
    box = f'viewBox="0 0 {WIDTH} {ROW * len(rows)}" role="img" aria-label="{TITLE}"'
    return f"<svg {box}>{''.join(parts)}</svg>"


def picture_rows(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The names of choices by what stands before their last dot, so many a row."""
    groups = defaultdict[str, list[str]](list)
    for name in names:
        groups[name.rpartition(".")[0]].append(name)
    return [
        (group if start == 0 else "", members[start : start + MOST_IN_ROW])
        for group, members in groups.items()
        for start in range(0, len(members), MOST_IN_ROW)
    ]


def fraction(value: Option, options: Sequence[Option]) -> float:
    """How far an option reaches towards the largest, in 0..1."""
    largest = options[-1]
    if isinstance(value, str) or isinstance(largest, str):
        return options.index(value) / (len(options) - 1) if len(options) > 1 else 1.0
    return value / largest if largest else 0.0


def bar(x: float, y: float, length: float, style: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" {style}/>'


def label(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}">{html.escape(words)}</text>'


def counts(files: RunFiles) -> str:
    """The three parameter counts and the FLOPs of the chosen subnet beside the largest's."""
    title, export = "Parameters: three counts", files.export
    chosen, largest = files.named.get("chosen"), files.named.get("largest")
    if export:
        costs, whole = export.costs, export.largest_counts
    elif chosen and largest:
        costs, whole = chosen.costs, largest.costs.counts
    else:
        return show.absent(title, f"No subnet is chosen: {files.command('search')} chooses.")
    flops = costs.measurement.flops, largest and largest.costs.measurement.flops
    pairs = {
        words: (getattr(costs.counts, key), getattr(whole, key)) for key, words in COUNTS.items()
    }
    pairs["FLOPs of one example, a multiply-add counting as two"] = flops
    rows = [
        {
            "parameters": words,
            "chosen": number(own),
            "largest": number(most),
            "chosen of largest": show.percent(own / most if most else None),
        }
        for words, (own, most) in pairs.items()
    ]
    caption = (
        "Sharing weights makes the file smaller; it does not reduce FLOPs: every layer still "
        "multiplies by a weight of its full size. A budget on parameters bounds the smaller of the "
        "two stored counts. Statistics of batch norms are no parameters: only the resident count "
        "has them."
    )
    return show.section(title, f"<p>{caption}</p>{show.table(rows, 1)}")
