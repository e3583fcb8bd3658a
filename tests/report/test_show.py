import pytest

from nas.report import show
from search_spaces.cell import CellArch, CellSpace
from tests.report.made_up import MAE, TOP1, scored


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (1234567, "1,234,567"), (0.5, "0.500"), (2.0, "2.00"), (41.26, "41.3"),
     (1234.5, "1,234"), (0.001234, "0.00123"), (0.0, "0"), (None, "\u2013"), (-0.25, "-0.250")],
)  # fmt: skip
def test_numbers_keep_three_digits(value: float | None, expected: str) -> None:
    assert show.number(value) == expected


def test_what_is_missing_is_a_dash_and_never_zero() -> None:
    assert show.percent(None) == show.text(None) == show.text("") == show.text([]) == "\u2013"
    assert show.text(0) == "0"


def test_every_string_is_escaped() -> None:
    assert show.text(["<b>", "&"]) == "&lt;b&gt;, &amp;"
    arch = show.arch(CellSpace(), CellArch(("none",) * 6))
    assert "|none~0|+|none~0|none~1|+" in arch


def test_the_evidence_of_a_score_is_in_the_metrics_own_form() -> None:
    assert show.evidence(scored(0.5)) == "360 examples, 95&nbsp;% interval 48.00%\u201352.00%"
    assert show.evidence(scored(0.5, MAE)).endswith("0.48\u20130.52")


def test_the_axis_of_an_error_says_its_direction() -> None:
    assert show.axis(TOP1) == "val top-1"
    assert show.axis(MAE, "best val") == "best val mean absolute error (lower is better)"


def test_a_row_of_a_table_has_a_cell_for_each_column() -> None:
    rows = [{"name": show.role("a"), "ms-x": "1"}, {"name": "b", "ms-x": "2"}]
    assert show.table(rows, 1).count("<td>") == show.table(rows, 1).count("<td class=words>") == 2
    assert "<th>ms\u2011x</th>" in show.table(rows, 1)


def test_empty_sentences_are_left_out() -> None:
    assert show.paragraph("One.", None, 0, "", "Two.") == '<p class="soft">One. Two.</p>'
