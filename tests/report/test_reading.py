import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.budgets import Budgets
from nas.records import to_json
from nas.report.reading import read_run
from nas.report.stage import MADE, SEARCHED, write_report
from search_spaces.space import to_record
from tests.report.made_up import (
    HERE,
    LARGEST,
    MAE,
    SMALLEST,
    best,
    candidate,
    ends,
    measured,
    proposed,
    ranked,
    scored,
    searched,
)
from tests.report.made_up_run import (
    CONFIG,
    PATHS,
    Record,
    importance_metrics,
    measured_line,
    metrics,
    write_json,
    write_lines,
)
from tests.report.pages import change_export, change_search, damaged, figure, prose, written

FILES = ("search.json", "subnet/card.json", "rank.json", "paths.json")
LINES = ("latency.jsonl", "candidates.jsonl", "metrics.jsonl")


def test_candidates_of_other_conditions_or_an_older_format_are_left_out(run: Path) -> None:
    (run / "search.json").unlink()
    judged = proposed()

    def judged_by(one: Any, **conditions: Any) -> Any:
        return replace(one, score=scored(1.0), conditions=replace(HERE, **conditions))

    other = [judged_by(one, step=500) for one in judged[:3]]
    other += [judged_by(one, weights="88bb") for one in judged[:2]]
    foreign = [judged_by(one, digest="ffff") for one in judged[:3]]
    old = {"arch": to_record(judged[0].arch), "top1": 1.0, "step": 1020, "digest": "a1b2"}
    write_lines(run / "candidates.jsonl", [*other, old, *foreign, *judged])
    page = written(run)
    assert all(1.0 not in trace["y"] for trace in figure(page, "latency_ms"))
    assert "9 of other weights, another target or an older format are not shown" in prose(page)
    write_lines(run / "candidates.jsonl", [old])
    assert "No candidates were evaluated yet" in prose(written(run))


def test_while_a_search_runs_its_lines_are_read_each_architecture_once(run: Path) -> None:
    (run / "search.json").unlink()
    first, *others = proposed()
    early = replace(first, score=scored(0.125, complete=False, num_examples=64))
    late = replace(first, score=scored(0.25, complete=False, num_examples=64))
    write_lines(run / "candidates.jsonl", [early, *others, first, late])
    files = read_run(run)
    assert [one.score.value for one in files.judged] == [one.score.value for one in proposed()]
    assert files.judged[0].score.complete
    assert files.budgets == Budgets.of({"latency_of_largest": 0.6})  # the configuration's
    assert files.card is not None


def test_the_last_search_decides_what_compares(run: Path) -> None:
    other = [replace(one, conditions=replace(HERE, step=9)) for one in proposed()[:3]]
    write_lines(run / "candidates.jsonl", [*proposed(), *other])  # another search goes on
    files = read_run(run)
    assert files.num_others == 3
    assert len(files.known) == 60


def test_of_several_sessions_the_last_line_counts_on_the_newest_scale(run: Path) -> None:
    lines = [
        measured_line(SMALLEST, measured(0.5)),
        measured_line(SMALLEST, measured(0.25, num_passes=99)),
        measured_line(LARGEST, measured(1.0, latency_ms=8.0)),
        measured_line(SMALLEST, measured(0.5), digest="c3d4"),
    ]
    write_lines(run / "latency.jsonl", lines)
    (_, here), (_, there) = read_run(run).devices()
    assert {arch: one.latency_ms for arch, one in here.items()} == {SMALLEST: 2.0, LARGEST: 8.0}
    assert here[SMALLEST].num_passes == 99
    assert there[SMALLEST].latency_ms == pytest.approx(0.5 * 5.2)


def test_the_exported_subnet_is_the_chosen_one(run: Path) -> None:
    other = next(one for one in proposed() if one.arch != best().arch)
    change_export(run, arch=other.arch, costs=other.costs, study=None)
    star = next(t for t in figure(written(run), "latency_ms") if t["name"] == "chosen")
    assert star["x"] == [other.costs.measurement.latency_ms]


@pytest.mark.parametrize(
    ("changes", "outdated"),
    [
        ({}, False),
        ({"study": "another"}, True),
        ({"arch": SMALLEST}, True),
        ({"arch": SMALLEST, "command": "nas export run=x pick=3"}, False),
        ({"study": "another", "command": "nas export run=x pick=3"}, True),
        ({"study": None, "arch": SMALLEST, "command": "nas export run=x arch=a.json"}, False),
    ],
)
def test_an_export_of_an_earlier_search_is_not_shown_as_the_chosen_subnet(
    run: Path, changes: Record, outdated: bool
) -> None:
    change_export(run, **changes)
    page = prose(written(run))
    assert ("subnet/ holds the choice of an earlier search" in page) is outdated
    assert ("test top-1" in page) is not outdated


OLD: dict[str, Callable[[Record], Record]] = {
    "search.json": lambda record: {**record["chosen"], "top1": 0.5, "predictors": {}},
    "subnet/card.json": lambda record: {**record, "latency": {}, "device": {}},
}


@pytest.mark.parametrize(("name", "stage"), [("search.json", "search"),
                                             ("subnet/card.json", "export")])  # fmt: skip
def test_a_file_of_an_older_format_is_refused_with_what_makes_it_anew(
    run: Path, name: str, stage: str
) -> None:
    path = run / name
    path.write_text(json.dumps(OLD[name](json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=rf"{path.name}, which nas {stage} writes anew: \w+"):
        write_report(run)


def test_latencies_of_an_older_format_are_counted_as_not_shown(run: Path) -> None:
    line = measured_line(SMALLEST, measured(0.5))
    card = {name: value for name, value in line["card"].items() if name != "inputs"}
    old = {**line, "card": {**card, "img_size": 8, "in_chans": 1}}
    write_lines(run / "latency.jsonl", [old, old, line])
    assert "2 lines of an older format are not shown" in prose(written(run))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", ['{"epoch": ', "[1, 2]", "[" * 100_000, "NaN", '"\\ud800"'])
def test_a_damaged_file_is_named(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(run / name))):
        write_report(run)


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("content", ["{\n", "[1, 2]\n", "[" * 100_000 + "\n", '"\\ud800"\n'])
def test_a_damaged_line_is_named(run: Path, name: str, content: str) -> None:
    before = (run / name).read_text()
    number = before.count("\n") + 1
    (run / name).write_text(before + content)
    with pytest.raises(ValueError, match=re.escape(f"{run / name} line {number}")):
        write_report(run)


def refused(run: Path, name: str, match: str) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(str(run / name))}.*{match}"):
        write_report(run)


def test_architectures_outside_the_space_are_refused(run: Path) -> None:
    record = json.loads((run / "search.json").read_text())
    outside = {**to_record(best().arch), "embed_dim": 31}
    wrong: list[Any] = ["<b>", 5, [1], {"embed_dim": 64}, outside]
    for arch in wrong:
        write_json(run / "search.json", {**record, "chosen": {**record["chosen"], "arch": arch}})
        refused(run, "search.json", "")


def test_what_no_page_can_show_is_refused(run: Path) -> None:
    change_search(run, reference_drift=1e19)
    refused(run, "search.json", "a number must be at most 1e")
    change_search(run, reference_drift=0.1, num_trials=10**400)
    refused(run, "search.json", "a number must be at most 1e")
    write_json(run / "search.json", {**to_json(searched()), "study": "\ud800"})
    refused(run, "search.json", "surrogates")
    write_json(run / "search.json", {**to_json(searched()), "budget": {"speed": 1.0}})
    refused(run, "search.json", "budget.speed must be one of")
    write_json(run / "search.json", {**to_json(searched()), "predictions": {"speed": {}}})
    refused(run, "search.json", "predictions")


def test_scores_of_another_task_are_refused(run: Path) -> None:
    change_search(run, chosen=replace(best(), score=scored(0.5, MAE)))
    refused(run, "search.json", "metric must be the task's")


def test_what_are_no_probabilities_is_refused(run: Path) -> None:
    wrong: list[Record] = [{"depth": {"1": 1.5}}, {"depth": {}}, {}]
    for chances in wrong:
        write_json(run / "paths.json", {**PATHS, "probabilities": chances})
        refused(run, "paths.json", r"probabilities must be in 0\.\.1")


@pytest.mark.parametrize(
    ("before", "after", "match"),
    [
        ("search_spaces.vit.ViTSpace", "os.system", "space._target_ must be a class of"),
        ("supernet.image_tasks.Classification", "supernet.task.Batch", "task"),
        ("embed_dim: [32, 48, 64]", "embed_dim: 5", "space.embed_dim must be"),
        ("latency_of_largest: 0.6", "latency_of_largest: fast", "budget.latency_of_largest"),
        ("latency_of_largest: 0.6", "speed: 0.6", "budget.speed"),
        ("seed: 0", "seed: x", "config.yaml: seed"),
    ],
)
def test_a_damaged_configuration_is_refused(run: Path, before: str, after: str, match: str) -> None:
    (run / "search.json").unlink()
    (run / "config.yaml").write_text(CONFIG.replace(before, after))
    with pytest.raises(ValueError, match=match):
        write_report(run)


def small_search() -> Record:
    """One candidate and one finalist, so that each of their parts can be damaged."""
    chosen = best()
    found = replace(searched(), candidates=(chosen,), finalists=searched().finalists[1:])
    return {**to_json(found), "smallest": to_json(ends()[0]), "largest": to_json(ends()[1])}


def small_rank() -> Record:
    found = to_json(ranked())
    tau = {"tau": found["supernet"]["tau"]}  # type: ignore[index]
    cut = {"archs": found["archs"][:1], "supernet": tau, "checkpoints": []}  # type: ignore[index]
    return {**found, **cut, "baselines": {"flops": tau}}


def shown(run: Path) -> tuple[str, str]:
    """All sections, or why the folder is refused."""
    try:
        files = read_run(run)
    except ValueError as error:
        return "", str(error)
    return "".join(make(files) for make in SEARCHED + MADE), ""


@pytest.mark.parametrize("name", FILES + LINES)
def test_a_damaged_part_is_refused_by_name_or_shown_but_never_stops_the_page(
    run: Path, name: str
) -> None:
    """Whatever the checks let pass, no section fails on it."""
    card = json.loads((run / "subnet" / "card.json").read_text())
    wholes: dict[str, Any] = {
        "search.json": small_search(),
        "subnet/card.json": {**card, "data": {}, "model": {}, "task": {}},
        "rank.json": small_rank(),
        "paths.json": PATHS,
        "latency.jsonl": measured_line(SMALLEST, measured(0.5), model_ms=[1.0], reference={}),
        "candidates.jsonl": to_json(candidate(SMALLEST, 3)),
        "metrics.jsonl": {**metrics()[-1], **importance_metrics()[-1]},
    }
    for other in LINES:
        write_lines(run / other, [wholes[other]])
    (run / "search.json").unlink()  # without it sections are quick
    (run / "subnet" / "card.json").unlink()
    broken = [one for one in damaged(wholes[name]) if isinstance(one, dict)]
    found = []
    for one in broken[:: len(broken) // 60 + 1]:  # all of them take minutes
        (run / name).write_text(json.dumps(one) + "\n")
        found.append(shown(run))
    assert {str(run / name) in refusal for body, refusal in found if not body} == {True}
    assert not [body for body, _ in found if re.search(r"<td>(nan|inf)|>nan<", body)]
