"""True scores to compare a supernet's with, read from the table of a benchmark."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from random import Random

from nas.checks import check
from nas.config.sections import RankConfig
from search_spaces.space import Arch, Space
from supernet.task import Metric

PARAMS = "params_million"  # the column that a table may have


@dataclass(frozen=True)
class GroundTruth:
    """Architectures with their true scores, the higher the better, in the same order."""

    source: str  # in words
    archs: tuple[Arch, ...]
    scores: tuple[float, ...]
    is_fraction: bool
    params: tuple[float, ...] | None = None  # as the source counts them


def worth_in_words(metric: Metric) -> str:
    """An error on val is negated, so that higher is better."""
    return f"{'' if metric.higher_is_better else 'negated '}val {metric.words}"


@dataclass(frozen=True)
class Row:
    """A line of a table: the accuracy as a fraction, the parameters where the table has them."""

    arch: Arch
    score: float
    params: float | None


def read_table(settings: RankConfig, space: Space[Arch]) -> GroundTruth:
    """`rank.num_archs` architectures of the table, drawn with `rank.seed`, in the table's order.

    Those that the space does not have are left out before. Raises ValueError that names the key,
    and the line where one is wrong.
    """
    rows = [row for row in read_rows(settings, space) if lies_in(space, row.arch)]
    count = settings.num_archs
    rule = f"at most the {len(rows)} architectures of the space in {settings.table}"
    check("rank.num_archs", count <= len(rows), rule, count)
    if count:
        chosen = sorted(Random(settings.seed).sample(range(len(rows)), count))
        rows = [rows[index] for index in chosen]
    check("rank.table", len(rows) >= 2, "a table of two of the space's architectures", len(rows))
    params = tuple(row.params for row in rows if row.params is not None)
    return GroundTruth(
        source=f"{settings.column} of {Path(settings.table).name}",
        archs=tuple(row.arch for row in rows),
        scores=tuple(row.score for row in rows),
        is_fraction=True,
        params=params or None,
    )


def read_rows(settings: RankConfig, space: Space[Arch]) -> list[Row]:
    try:
        with Path(settings.table).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            check("rank.table", "arch" in names, "a csv with a column arch", list(names))
            rule = f"a column of {settings.table} ({', '.join(names)})"
            check("rank.column", settings.column in names, rule, settings.column)
            rows = []
            for record in reader:
                try:
                    rows.append(parse_row(record, settings.column, space))
                except ValueError as error:
                    where = f"rank.table: {settings.table} line {reader.line_num}"
                    raise ValueError(f"{where}: {error}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"rank.table must be a readable csv file, got {error}") from error
    repeated = len(rows) - len({row.arch for row in rows})
    check("rank.table", not repeated, "a table without repeated architectures", repeated)
    return rows


def parse_row(record: Mapping[str, str | None], column: str, space: Space[Arch]) -> Row:
    percent = number(record, column)
    check(column, 0 <= percent <= 100, "percent, in 0..100", percent)
    params = number(record, PARAMS) * 1e6 if PARAMS in record else None
    return Row(space.from_text(record["arch"] or ""), percent / 100, params)


def number(record: Mapping[str, str | None], column: str) -> float:
    try:
        found = float(record[column] or "")
    except ValueError:
        found = nan
    check(column, isfinite(found), "a number", record[column])
    return found


def lies_in(space: Space[Arch], arch: Arch) -> bool:
    try:
        space.encode(arch)
    except ValueError:
        return False
    return True
