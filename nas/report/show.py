"""How values become text, tables and panels of the page.

Strings of a run folder may be a stranger's: every one is escaped, since plotly reads HTML tags in
labels and hover texts as well.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence

from nas.budgets import Bound
from nas.records import Measurement, Score
from search_spaces.space import ArchT, Space
from supernet.task import Metric

DASH = "\u2013"
INTERVAL = "95&nbsp;% interval"
SIGNS = {"<=": "\u2264", ">=": "\u2265"}


def text(value: object) -> str:
    """A value as HTML, a list with commas between its entries; a dash for nothing."""
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value)) or DASH
    return DASH if value is None or value == "" else html.escape(str(value))


def code(words: str) -> str:
    return f"<code>{text(words)}</code>"


def number(value: float | None, unit: str = "") -> str:
    """An integer in full, another number to three digits without exponent; a dash for None."""
    if value is None:
        return DASH
    whole = isinstance(value, int) or value == 0 or abs(value) >= 100
    digits = 0 if whole else min(6, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}" + (f"&nbsp;{unit}" if unit else "")


def percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}&nbsp;%"


def span(low: float, high: float) -> str:
    """An interval, its ends joined by an en dash."""
    return f"{low:.3f}{DASH}{high:.3f}"


def ratio(known: Measurement) -> str:
    """The ratio to the largest subnet's latency with its interval."""
    return f"{number(known.ratio)} ({span(known.ratio_low, known.ratio_high)})"


def latency(known: Measurement) -> dict[str, str]:
    """Columns of a table."""
    ms, passes = number(known.latency_ms), number(known.num_passes)
    return {f"ratio to largest ({INTERVAL})": ratio(known), "ms": ms, "passes": passes}


def evidence(score: Score) -> str:
    """How many examples a score is of, and its interval."""
    low, high = map(score.metric.text, (score.low, score.high))
    return f"{number(score.num_examples)} examples, {INTERVAL} {low}{DASH}{high}"


def tick_format(is_fraction: bool) -> str:
    """Of an axis of scores."""
    return ".1%" if is_fraction else "~g"


def axis(metric: Metric, before: str = "val") -> str:
    """The title of an axis of scores."""
    return f"{before} {metric.words}" + ("" if metric.higher_is_better else " (lower is better)")


def bound(found: Bound) -> str:
    return f"{found.cost} {SIGNS[found.sign]} {number(found.limit)}"


def arch(space: Space[ArchT], found: ArchT, between: str = ", ") -> str:
    """An architecture in words."""
    words = space.describe(found).items()
    return between.join(f"{text(name)} {text(size)}" for name, size in words)


def distinct(values: Iterable[object]) -> str:
    """The values without repeats, in order of appearance."""
    return text(list(dict.fromkeys(values)))


def paragraph(*sentences: object) -> str:
    """Sentences in soft ink; empty ones, zeros and None are left out."""
    return f'<p class="soft">{" ".join(str(one) for one in sentences if one)}</p>'


def section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def absent(title: str, sentence: str) -> str:
    """A section with a sentence in place of what a stage has not made yet."""
    return section(title, f'<p class="absent">{sentence}</p>')


def panel(kind: str, parts: Iterable[str]) -> str:
    """Parts side by side where the window is wide enough."""
    return f'<div class="panels {kind}">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def definitions(facts: Mapping[str, str]) -> str:
    """A list of names and values; both must be HTML already."""
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{fact}</dd>' for name, fact in facts.items())}</dl>"


def table(rows: Sequence[Mapping[str, str]], num_words: int) -> str:
    """A table of HTML cells by column; the first `num_words` columns are words, the others numbers.

    A row with a `role` is set off from the others by the page's style.
    """
    head = [name.replace("-", "\u2011") for name in rows[0]]  # no line ends at such a hyphen
    body = "".join(table_row("td", [*row.values()], num_words) for row in rows)
    thead = f"<thead>{table_row('th', head, num_words)}</thead>"
    return f'<div class="scroll"><table>{thead}<tbody>{body}</tbody></table></div>'


def table_row(tag: str, cells: Sequence[str], num_words: int) -> str:
    words = [f"<{tag} class=words>{cell}</{tag}>" for cell in cells[:num_words]]
    numbers = [f"<{tag}>{cell}</{tag}>" for cell in cells[num_words:]]
    return f"<tr>{''.join(words + numbers)}</tr>"


def role(words: str) -> str:
    """A cell of a row that is set off."""
    return f'<span class="role">{words}</span>'
