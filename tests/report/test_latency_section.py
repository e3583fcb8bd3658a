import re
from dataclasses import replace
from pathlib import Path

from nas.records import to_json
from tests.report.made_up import CARD, LARGEST, SMALLEST, measured
from tests.report.made_up_run import as_regression, measured_line, write_lines
from tests.report.pages import part_of, prose, rows, written

TITLE = "Latency and memory"


def test_devices_do_not_share_a_table(run: Path) -> None:
    gpu = to_json(replace(CARD, device="cuda:0", name="NVIDIA H200"))
    mine = measured_line(LARGEST, measured(1.0))
    write_lines(run / "latency.jsonl", [mine, {**mine, "digest": "c3d4", "card": gpu}])
    words = prose(written(run))
    assert words.count("1 of 1 measured subnets") == 2
    assert "NVIDIA H200" in words


def test_the_latency_table_is_cut_but_keeps_the_named_subnets(run: Path) -> None:
    table = part_of(written(run), TITLE)
    assert table.count("<tr") == 1 + 20 + 3
    assert re.findall(r'class="role">(\w+)<', table) == ["largest", "chosen", "smallest"]
    assert "23 of 62 measured subnets" in table


def test_the_best_come_first(run: Path) -> None:
    scores = [float(row["val top\u20111"][:-1]) for row in rows(written(run), TITLE)[3:]]
    assert scores == sorted(scores, reverse=True)
    as_regression(run)
    column = "val mean absolute error"
    errors = [float(row[column]) for row in rows(written(run), TITLE)[3:]]
    assert errors == sorted(errors)
    assert len(errors) == 20


def test_a_subnet_is_shown_by_its_sizes_and_figures(run: Path) -> None:
    write_lines(run / "latency.jsonl", [measured_line(SMALLEST, measured(0.5, flops=1_500_000))])
    (run / "search.json").unlink()
    (run / "candidates.jsonl").unlink()
    (row,) = rows(written(run), TITLE)
    assert row == {
        "subnet": "",
        **{"depth": "1", "embed_dim": "32", "heads": "1"},
        **{"mlp_ratio": "1", "rank": "2", "atoms": "1"},
        "val top\u20111": "\u2013",
        "ratio to largest (95&nbsp;% interval)": "0.500 (0.492\u20130.507)",
        **{"ms": "2.60", "passes": "50", "left out / sessions": "4&nbsp;/&nbsp;2"},
        **{"p90 ms": "2.85", "spread": "3.1&nbsp;%", "MiB": "1.00", "MFLOPs": "1.50"},
    }
