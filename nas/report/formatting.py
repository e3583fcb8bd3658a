"""How the figures of a record become text and tables on the report.

Records may come from a stranger: what is no finite number becomes a dash, and every string is
escaped, since plotly reads HTML tags in labels and hover texts as well.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

DASH = "\u2013"
NORMAL_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def finite(value: object) -> float | None:
    """The value as a float, or None where it is not a finite number."""
    # The comparison, unlike math.isfinite, also takes integers too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value)


def fraction(value: object, whole: object) -> float | None:
    top, bottom = finite(value), finite(whole)
    return top / bottom if top is not None and bottom else None


def text(value: object) -> str:
    return DASH if value is None or value == "" else html.escape(str(value))


def number(value: object, unit: str = "") -> str:
    """An integer in full, another number to three digits without exponent; a dash if missing."""
    known = finite(value)
    if known is None:
        return DASH
    whole = isinstance(value, int) or known == 0 or abs(known) >= 100
    digits = 0 if whole else min(6, 2 - math.floor(math.log10(abs(known))))
    return f"{known:,.{digits}f}" + (f"&nbsp;{unit}" if unit else "")


def percent(value: object) -> str:
    known = finite(value)
    return DASH if known is None else f"{100 * known:.1f}&nbsp;%"


def span(low: object, high: object, scale: float = 1, digits: int = 3) -> str:
    """An interval, its ends joined by an en dash."""
    ends = finite(low), finite(high)
    if ends[0] is None or ends[1] is None:
        return DASH
    return f"{scale * ends[0]:.{digits}f}{DASH}{scale * ends[1]:.{digits}f}"


def describe_arch(arch: object) -> str:
    """An architecture in one line: every field's name and value, lists without brackets."""
    if not isinstance(arch, dict):
        return text(arch)
    parts = []
    for name, value in arch.items():
        known = cell_text(value) if name == "operations" else ""
        parts.append(f"cell {known}" if known else f"{text(name)} {sizes(value)}")
    return ", ".join(parts)


def cell_operations(arch: object) -> dict[tuple[int, int], str]:
    """The operation, escaped, from node i to node j of a cell; empty for anything else."""
    edges = [(i, j) for j in range(1, 4) for i in range(j)]
    operations = arch.get("operations") if isinstance(arch, dict) else None
    if not isinstance(operations, list) or len(operations) != len(edges):
        return {}
    return {edge: text(op) for edge, op in zip(edges, operations, strict=True)}


def cell_text(operations: object) -> str:
    """NAS-Bench-201's notation of a cell, |op~0|+|op~0|op~1|+...; empty for anything else."""
    edges = cell_operations({"operations": operations})
    nodes = ["".join(f"{op}~{i}|" for (i, j), op in edges.items() if j == to) for to in (1, 2, 3)]
    return "+".join(f"|{node}" for node in nodes) if edges else ""


def sizes(value: object) -> str:
    """The sizes of one dimension, one or one a block, with spaces between."""
    if isinstance(value, list):
        return " ".join(map(sizes, value))
    known = finite(value)
    return text(value) if known is None else f"{known:g}"


def top1_interval(record: Record) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a record's top1; None where the record does not say enough.

    Written out, since scipy's binomtest also works out a p-value, 4 ms for each candidate.
    """
    top1, num_examples = finite(record.get("top1")), finite(record.get("num_examples"))
    if top1 is None or num_examples is None or not (0 <= top1 <= 1 and num_examples >= 1):
        return None
    weight = NORMAL_95**2 / num_examples
    middle = (top1 + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (top1 * (1 - top1) + weight / 4)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def distinct(values: Iterable[object]) -> list[str]:
    """The values as strings, without repeats and nulls, in order of appearance."""
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def listed(values: object) -> str:
    """The entries of a list, or a single value, as text with commas between."""
    return (", ".join(map(text, values)) or DASH) if isinstance(values, list) else text(values)


def section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def absent(sentence: str) -> str:
    """A sentence in place of what a stage has not made yet."""
    return f'<p class="absent">{sentence}</p>'


def panel(kind: str, parts: Sequence[str]) -> str:
    """Parts side by side where the window is wide enough."""
    return f'<div class="panels {kind}">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def definitions(facts: Mapping[str, str]) -> str:
    """A list of names and values; both must be HTML already."""
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{fact}</dd>' for name, fact in facts.items())}</dl>"


def table(head: Sequence[str], rows: Sequence[tuple[bool, Sequence[str]]], num_words: int) -> str:
    """A table of HTML cells, the first `num_words` columns words and the others numbers.

    A row that comes with True is set off from the others.
    """
    lines = [
        f"<tr{' class=named' if named else ''}>{cells_of('td', cells, num_words)}</tr>"
        for named, cells in rows
    ]
    names = cells_of("th", head, num_words)
    body = f"<thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table>{body}</table></div>'


def cells_of(tag: str, cells: Sequence[str], num_words: int) -> str:
    return "".join(
        f"<{tag}{' class=words' if column < num_words else ''}>{cell}</{tag}>"
        for column, cell in enumerate(cells)
    )
