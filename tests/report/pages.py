"""Reads a written page: its figures, tables and words."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from nas.records import from_json
from nas.report.stage import write_report
from nas.results import ExportResult, SearchResult
from tests.report.made_up_run import ANY_SPACE, Record, write_json

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"


def written(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def change_search(run: Path, **changes: Any) -> SearchResult[Any]:
    """Changes fields of search.json; returns what it then holds."""
    record = json.loads((run / "search.json").read_text())
    found = replace(from_json(SearchResult, record, ANY_SPACE, "search.json"), **changes)
    write_json(run / "search.json", found)
    return found


def change_export(run: Path, **changes: Any) -> ExportResult[Any]:
    """Changes fields of card.json; returns what it then holds."""
    path = run / "subnet" / "card.json"
    record = json.loads(path.read_text())
    found = replace(from_json(ExportResult, record, ANY_SPACE, "card.json"), **changes)
    write_json(path, found)
    return found


def figure(page: str, name: str) -> list[Record]:
    """The traces of the figure with this id."""
    traces, _ = drawing(page, name)
    return traces


def drawing(page: str, name: str) -> tuple[list[Record], Record]:
    """The traces and the layout of the figure with this id."""
    call = re.search(rf'Plotly\.newPlot\(\s*"{name}",\s*', page)
    assert call is not None
    traces, end = json.JSONDecoder().raw_decode(page, call.end())
    layout, _ = json.JSONDecoder().raw_decode(page, page.index("{", end))
    return traces, layout


def named(traces: list[Record]) -> dict[str, Record]:
    return {trace["name"]: trace for trace in traces}


def part_of(page: str, title: str) -> str:
    """The section with this heading."""
    return page.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


def rows(page: str, title: str) -> list[dict[str, str]]:
    """The rows of the section's first table by column, without the marks of roles."""
    table = part_of(page, title).partition("</table>")[0]
    head, *lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr")[1:]]
    plain = [[re.sub(r'<span class="role">(.*)</span>', r"\1", cell) for cell in r] for r in lines]
    return [dict(zip(head, cells, strict=True)) for cells in plain]


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def prose(page: str) -> str:
    """The page's text, without scripts and styles, as a person sees it."""
    parser = Page()
    parser.feed(page.partition("</head>")[2])
    return " ".join("".join(parser.texts).split())


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.texts.append(data)


def damaged(value: Any) -> Iterator[Any]:
    """The value with one of its parts, at any depth, missing or of another kind."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            for other in damaged(value[key]):
                copy = value.copy()
                copy[key] = other
                yield copy
        if isinstance(value, dict):
            yield from ({k: v for k, v in value.items() if k != key} for key in value)
    yield from (None, "x", True, 0, -1.5, 1e300, 1e-300, 10**400, [], [None], {}, {"x": [1]})
