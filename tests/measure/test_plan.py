"""Plan here, measure there, search here."""

import json
import re
from pathlib import Path
from random import Random

import pytest

from nas.__main__ import main
from nas.budgets import Budgets
from nas.files import read_records
from nas.hardware.device import digest
from nas.measure.latency_table import cards_in
from nas.measure.meter import MOST_SESSIONS, open_meter
from nas.measure.plan import read_plan
from nas.records import DeviceCard, checked
from nas.train.weights import new_supernet
from supernet.families.vit import ViTSupernet
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
    assert found["chosen"]["costs"]["measurement"]["ratio"] <= 0.5
    assert all(candidate["arch"] in planned for candidate in candidates_of(run))
    (card,) = cards_in(table)
    assert found["conditions"]["digest"] == digest(card)
    assert main(["export", f"run={run}", *options]) == 0
    exported = json.loads((run / "subnet" / "card.json").read_text())
    assert exported["arch"] == found["chosen"]["arch"]
    assert checked(DeviceCard, exported["card"], "card") == card
    assert exported["searched_ratio"] is None
    assert exported["runtimes"] == []
    assert table.read_bytes() == before


def test_a_search_ends_when_every_planned_architecture_was_judged(run: Path, plan: Path) -> None:
    options = ["target=table", f"target.table={measured(plan)}", "target.batch_size=4"]
    assert main(["search", f"run={run}", *options, "search.trials=50"]) == 0
    found = search_of(run)
    assert len(found["candidates"]) == 12
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


def test_a_plan_names_its_classes_and_what_they_are_made_with(run: Path, plan: Path) -> None:
    config = config_of(run)
    for record in read_records(plan):
        assert record.keys() == {"arch", "space", "task"}
        assert record["space"]["supernet"] == "supernet.families.vit.ViTSupernet"
        assert record["space"]["patch_size"] == 2
        assert record["task"]["num_classes"] == 10
    found = read_plan(plan)
    assert (found.space, found.task, found.supernet) == (config.space, config.task, ViTSupernet)


def test_a_table_of_another_machine_answers_for_its_architectures_alone(
    run: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = measured(plan)
    options = ("target=table", f"target.table={table}", "target.batch_size=4")
    config = config_of(run, *options)
    supernet = new_supernet(config)
    meter = open_meter(config, run, supernet)
    archs = meter.archs()
    assert archs == list(read_plan(plan).archs)
    costs = meter.costs(archs[3], Budgets.of({"latency_of_largest": 0.5}))
    assert meter.costs_afresh(archs[3], supernet.extract(archs[3])) == costs
    assert meter.side_by_side(archs[3:4]) == [costs.measurement]
    assert not meter.can_improve(costs)
    assert (meter.across_runtimes(supernet, ["eager"]), meter.passes_s) == ((), 0)
    others = (config.space.sample(Random(seed)) for seed in range(100))
    unknown = next(arch for arch in others if arch not in archs)
    with pytest.raises(ValueError, match=r"target.table must be a table that holds .*embed_dim"):
        meter.costs(unknown)
    assert main(["measure", f"run={run}", *options]) == 0
    assert "median" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["target.batch_size=5"], "'batch_size': 5, 'inputs': ((5, 1, 8, 8),)"),
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
    assert "line 1 must be measured beside the largest subnet here" in capsys.readouterr().err


def test_what_is_no_plan_is_bad_input(
    tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = (json.dumps(record) for record in read_records(plan))
    contents = {
        None: "a file that nas measure plan=... made",
        "": "a plan with at least one architecture",
        "not JSON\n": "line 1 must be a JSON record",
        '{"digest": "x"}\n': "each line with arch, space and task",
        f"{first}\n{second.replace('classes', 'class')}\n": "equal in all, got .* line 2",
        f"{first}\n{second.replace('embed_dim', 'width')}\n": "equal in all, got .* line 2",
        f"{first}\n{second.replace(arch_of(second), '3')}\n": "line 2: arch must be a JSON object",
        f"{first}\n{second.replace(arch_of(second), '{}')}\n": "line 2: an architecture has the",
    }
    for content, message in contents.items():
        refused(tmp_path / "other.jsonl", content, message, capsys)


def arch_of(line: str) -> str:
    return json.dumps(json.loads(line)["arch"])


def refused(
    plan: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        plan.write_text(content)
    table = plan.with_name("table.jsonl")
    assert main(["measure", f"archs={plan}", f"out={table}", "target=cpu"]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not table.exists()


@pytest.mark.parametrize(
    ("node", "key", "value", "message"),
    [
        ("space", "_target_", "os.system", "space._target_ must be a class of search_spaces"),
        (
            "space",
            "_target_",
            "search_spaces.cell.CellSpace",
            "space.embed_dim must be an argument",
        ),
        ("space", "supernet", "supernet.losses.Labels", "must be a family of supernets"),
        ("space", "supernet", "subprocess.Popen", "space.supernet must be a class of supernet"),
        ("space", "depth", [], "space.depth must be a list of at least one option"),
        ("space", "patch_size", 3, "space.patch_size"),
        ("task", "_target_", "subprocess.Popen", "task._target_ must be a class of supernet"),
        ("task", "_target_", "supernet.losses.Labels", "task.* must be"),
        ("task", "mean", "${oc.env:HOME}", "task.mean must be a plain value"),
        ("task", "num_classes", "ten", "task.num_classes must be of type int"),
        ("task", "img_size", -8, "img_size"),
        ("task", "num_classes", -1, "num_classes"),
        ("space", "supernet", "supernet.families.cell.CellSupernet", "space"),
    ],
)
def test_a_plan_of_a_stranger_runs_no_code_and_is_refused_with_its_key(
    node: str,
    key: str,
    value: object,
    message: str,
    plan: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = read_records(plan)
    for record in records:
        record[node][key] = value
    content = "".join(json.dumps(record) + "\n" for record in records)
    refused(plan, content, f"archs must be a plan, got .* line 1: .*{message}", capsys)
