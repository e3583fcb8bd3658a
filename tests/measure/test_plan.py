"""Plan here, measure there, search here."""

import json
from pathlib import Path

import pytest

from nas.__main__ import main
from nas.files import read_records
from nas.measure.latency_table import cards_in
from nas.measure.meter import MOST_SESSIONS
from tests.helpers.runs import TINY_CELLS, candidates_of, config_of, search_of, use_paper_device

TARGET = ("target=cpu", "target.threads=1", "target.batch_size=4", "target.precision=0.5")


@pytest.fixture(autouse=True)
def paper_device(monkeypatch: pytest.MonkeyPatch) -> None:
    use_paper_device(monkeypatch)


@pytest.fixture
def plan(run: Path, tmp_path: Path) -> Path:
    path = tmp_path / "plan.jsonl"
    assert main(["measure", f"run={run}", "plan=12", f"out={path}"]) == 0
    return path


def measured(plan: Path, *options: str) -> Path:
    """The table that the target machine makes: it has the plan and nothing else."""
    table = plan.with_name("table.jsonl")
    command = ["measure", f"run={plan.parent / 'none'}", f"archs={plan}", f"out={table}"]
    assert main([*command, *TARGET, *options]) == 0
    assert not (plan.parent / "none").exists()
    return table


def test_a_plan_holds_the_largest_the_smallest_and_others_once_each(run: Path, plan: Path) -> None:
    space = config_of(run).space
    archs = [space.from_record(record["arch"]) for record in read_records(plan)]
    assert archs[:2] == [space.largest(), space.smallest()]
    assert len(archs) == len(set(archs)) == 12


def test_what_was_measured_elsewhere_is_searched_here(run: Path, plan: Path) -> None:
    table = measured(plan)
    planned = [record["arch"] for record in read_records(plan)]
    assert [record["arch"] for record in read_records(table)] == planned
    before = table.read_bytes()
    options = ["target=table", f"target.table={table}", "target.batch_size=4"]
    budget = "budget.latency_of_largest=0.5"
    assert main(["search", f"run={run}", *options, budget, "search.trials=10"]) == 0
    found = search_of(run)
    assert found["chosen"]["latency_of_largest"] <= 0.5
    assert all(candidate["arch"] in planned for candidate in candidates_of(run))
    (card,) = cards_in(table)
    assert found["digest"] == card.digest()
    assert main(["export", f"run={run}", *options]) == 0
    exported = json.loads((run / "subnet" / "card.json").read_text())
    assert exported["arch"] == found["chosen"]["arch"]
    assert exported["device"] == card.record()
    assert table.read_bytes() == before


def test_a_search_ends_when_every_planned_architecture_was_judged(run: Path, plan: Path) -> None:
    options = ["target=table", f"target.table={measured(plan)}", "target.batch_size=4"]
    assert main(["search", f"run={run}", *options, "search.trials=50"]) == 0
    found = search_of(run)
    assert found["num_evaluated"] == 12
    assert found["ended_by"] == "no architecture is left"


def test_measuring_a_plan_goes_on_from_where_it_was(plan: Path) -> None:
    table = measured(plan)
    lines = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(lines[:5]) + lines[5][:40])  # killed while writing
    measured(plan)
    archs = [record["arch"] for record in read_records(table)]
    assert archs == [record["arch"] for record in read_records(plan)]


def test_what_is_not_known_well_is_measured_again_but_not_for_ever(plan: Path) -> None:
    sizes = []
    for _ in range(MOST_SESSIONS + 1):  # a session's interval reaches 5 % from the ratio
        sizes.append(len(read_records(measured(plan, "target.precision=0.01"))))
    assert sizes == [12, 24, 36, 48, 48]


def test_cells_are_planned_and_measured_alike(tmp_path: Path) -> None:
    plan = tmp_path / "plan.jsonl"
    command = ["measure", f"run={tmp_path / 'run'}", *TINY_CELLS]
    assert main([*command, "plan=3", f"out={plan}"]) == 0
    table = measured(plan)
    assert [record["arch"] for record in read_records(table)] == [
        record["arch"] for record in read_records(plan)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["target.batch_size=5"], "'batch_size': 5"),
        (["target.dtype=bfloat16"], "'dtype': 'bfloat16'"),
        (["target.table=nowhere.jsonl"], "a file that nas measure archs=... made"),
        (["search=tpe"], "search.strategy must be guided"),
        (["search.verify=1"], "search.verify must be 0 with target.table"),
    ],
)
def test_a_table_must_be_of_the_target_that_is_asked_for(
    run: Path, plan: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = measured(plan)
    asked = ["target=table", f"target.table={table}", "target.batch_size=4", *options]
    assert main(["search", f"run={run}", *asked]) == 2
    assert message in capsys.readouterr().err


def test_a_plan_is_no_table_and_not_overwritten(
    run: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = plan.read_bytes()
    assert main(["search", f"run={run}", "target=table", f"target.table={plan}"]) == 2
    assert "line 1 must be a measurement with its device's card" in capsys.readouterr().err
    assert main(["measure", f"archs={plan}", f"out={plan}"]) == 2
    assert "out must be another file than archs" in capsys.readouterr().err
    assert plan.read_bytes() == before


def test_a_table_of_another_run_is_refused(
    run: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = measured(plan)
    records = read_records(table)
    for record in records:
        record["reference"]["arch"]["embed_dim"] = 48
    table.write_text("".join(json.dumps(record) + "\n" for record in records))
    asked = ["target=table", f"target.table={table}", "target.batch_size=4"]
    assert main(["search", f"run={run}", *asked]) == 2
    assert "made of measurements beside the largest subnet here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a file that nas measure plan=... made"),
        ("", "a plan with at least one architecture"),
        ('{"arch": {"embed_dim": 8}, "model": {}, "img_size": 8}\n', "line 1"),
        ('{"arch": 3, "model": {}, "img_size": 8}\n', "each line with arch, model and img_size"),
        ("not JSON\n", "line 1 must be a JSON record"),
        ('{"digest": "x"}\n', "each line with arch, model and img_size"),
    ],
)
def test_what_is_no_plan_is_bad_input(
    tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.jsonl"
    if content is not None:
        plan.write_text(content)
    command = ["measure", f"archs={plan}", f"out={tmp_path / 'table.jsonl'}", "target=cpu"]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "table.jsonl").exists()
