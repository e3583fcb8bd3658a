"""What inherited weights are worth: subnets trained further and alone, side by side."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from nas.report.reading import read_run
from nas.report.stage import write_report
from search_spaces.space import Arch, to_record
from tests.report.made_up import LARGEST, SMALLEST, best
from tests.report.made_up_run import as_regression, write_alone
from tests.report.pages import EVIL, figure, headings, named, part_of, prose, rows, written

TITLE = "What inherited weights are worth"
WAYS = ("inherited", "fine\u2011tuned", "trained alone")


@pytest.fixture
def chosen() -> Arch:
    return best().arch


def cells(page: str) -> list[tuple[str, ...]]:
    return [tuple(row[way] for way in WAYS) for row in rows(page, TITLE)]


def test_the_section_appears_with_such_folders_alone(run: Path, chosen: Arch) -> None:
    assert TITLE not in headings(written(run))
    (run / "finetuned.json").write_text("{}")
    (run / "finetuned_7").mkdir()  # made, not trained yet
    assert TITLE not in headings(written(run))
    write_alone(run, "finetuned", chosen, {})
    assert TITLE not in headings(written(run))
    write_alone(run, "scratch", chosen, {2: 0.5})
    assert TITLE in headings(written(run))


def test_table_and_figure_hold_what_was_logged(run: Path, chosen: Arch) -> None:
    write_alone(run, "finetuned", chosen, {0: 0.9, 3: 0.92, 12: 0.95})
    write_alone(run, "scratch", chosen, {6: 0.7, 9: 0.8})
    write_alone(run, "finetuned_smallest", SMALLEST, {0: 0.85})
    write_alone(run, "scratch_largest", LARGEST, {12: 0.96})
    page = written(run)
    dash = "\u2013"
    assert cells(page) == [
        ("90.00% [88.00%, 91.00%]", "95.00% [93.00%, 96.00%], epoch 12 of 12",
         "80.00% [78.00%, 81.00%], epoch 9 of 12"),
        ("85.00% [83.00%, 86.00%]", dash, dash),
        (dash, dash, "96.00% [94.00%, 97.00%], epoch 12 of 12"),
    ]  # fmt: skip
    traces = named(figure(page, "finetuning"))
    assert traces["inherited"]["x"] == [0.9, 0.85]
    assert traces["fine-tuned"]["x"] == [0.95]
    assert traces["trained alone"]["x"] == [0.8, 0.96]
    assert traces["fine-tuned"]["error_x"]["array"] == pytest.approx([0.01])
    assert traces["fine-tuned"]["error_x"]["arrayminus"] == pytest.approx([0.02])
    assert len({*traces["inherited"]["y"], *traces["trained alone"]["y"]}) == 3
    assert "top-1 on val, 360 examples" in prose(page)
    assert "nas finetune run=runs/digits" in prose(page)


def test_errors_are_no_percentages(run: Path, chosen: Arch) -> None:
    as_regression(run)
    folder = write_alone(run, "finetuned", chosen, {0: 0.5, 12: 0.25})
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text().replace("top1", "mae"))
    page = written(run)
    assert cells(page)[0][0].startswith("0.5")
    assert "lower is better" in part_of(page, TITLE)


def test_the_page_is_as_new_as_its_newest_file(run: Path, chosen: Arch) -> None:
    path = write_alone(run, "scratch", chosen, {2: 0.5}) / "metrics.jsonl"
    os.utime(path, (4e9, 4e9))
    assert read_run(run).newest_input().startswith("2096-10-02")


def test_strings_are_escaped(run: Path, chosen: Arch) -> None:
    path = write_alone(run, "finetuned", chosen, {0: 0.9}) / "metrics.jsonl"
    path.write_text(path.read_text().replace('"val"', json.dumps(EVIL)))
    page = written(run)
    assert "<script>alert(1)" not in page
    assert "<img" not in page
    assert EVIL in prose(page)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ("[", "YAML"),
        ("[1]", "must be a mapping"),
        ("{}", "paths"),
        ({"paths": {"arch": 3}}, r"paths\.arch"),
        ({"paths": {"arch": {"operations": ["none"] * 6}}}, r"paths\.arch: an architecture has"),
        ({"paths": {"arch": {**to_record(SMALLEST), "embed_dim": 31}}}, r"paths\.arch: .*got 31"),
        ({"train": {"init": "x", "epochs": "many"}}, r"train\.epochs"),
        ({"train": {"init": None, "epochs": 12}}, r"train\.init"),
    ],
    ids=str,
)
def test_damaged_settings_are_named(run: Path, chosen: Arch, settings: Any, match: str) -> None:
    path = write_alone(run, "finetuned", chosen, {0: 0.9}) / "config.yaml"
    if not isinstance(settings, str):
        settings = json.dumps({**json.loads(path.read_text()), **settings})
    path.write_text(settings)
    with pytest.raises(ValueError, match=rf"(?s){re.escape(str(path))}.*{match}"):
        write_report(run)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"low"', '"lower"'),
        ('"top1"', '"mae"'),
        ("0.91", "NaN"),
        ("0.91", "1e300"),
        ("0.91", '"x"'),
        ('{"kind"', '{{"kind"'),
        ("360", "null"),
        ('"val"', '"\\ud800"'),
    ],
)
def test_damaged_evaluations_are_named(run: Path, chosen: Arch, before: str, after: str) -> None:
    path = write_alone(run, "scratch", chosen, {3: 0.9}) / "metrics.jsonl"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        write_report(run)
