"""The report is checked on a made-up run folder with every kind of record that the stages write."""

import json
import math
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from nas.rank import correlations as rank_figures
from nas.report import ranking, sampling, write_report
from nas.report.baseline import against_random, expected_best
from nas.report.budgets import Bound, Cost, bounds_on, meets
from nas.report.choosing import choosing, seconds
from nas.report.figures import MOST_POINTS
from nas.report.formatting import number, percent, span, top1_interval
from nas.report.header import header
from nas.report.latency import latency
from nas.report.pareto import pareto, pareto_front
from nas.report.picture import arch_picture, can_draw
from nas.report.predictors import predictors
from nas.report.reading import arch_key, read_run
from nas.report.runtimes import runtimes
from search_spaces.cell import CellSpace
from supernet.sampling.candidate_paths import CandidatePaths
from supernet.sampling.example_importance import ImportanceData
from supernet.sampling.examples import UniformData
from supernet.sampling.path_importance import FactorisedPaths
from supernet.sampling.paths import UniformPaths
from supernet.sampling.published import PublishedData, PublishedPaths

Record = dict[str, Any]

SMALLEST = {"embed_dim": 32, "num_heads": [1], "mlp_ratio": [1.0], "rank": [2], "num_atoms": 1}
LARGEST = {
    "embed_dim": 64,
    "num_heads": [4, 4, 4],
    "mlp_ratio": [4.0, 4.0, 4.0],
    "rank": [8, 8, 8],
    "num_atoms": 3,
}
CARD = {
    "device": "cpu",
    "name": "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz",
    "driver": "",
    "host": "Linux x86_64",
    "threads": 2,
    "dtype": "float32",
    "batch_size": 64,
    "img_size": 8,
    "in_chans": 1,
    "warmup": 5,
    "passes": 50,
    "runtime": "eager",
    "torch_version": "2.15.0",
    "python_version": "3.11.7",
}
BUDGET = {"latency_of_largest": 0.6, "params": 60000, "memory_mib": None}
ENDS = {"trial": None, "study": None, "origin": "largest"}  # of both ends, for what they are
SECONDS = {"total": 80.0, "accuracy": 20.0, "costs": 44.0, "proposals": 6.0}
CONFIG = """\
run: runs/digits
seed: 0
space: {_target_: search_spaces.vit.ViTSpace, embed_dim: [32, 48, 64], depth: [1, 2, 3]}
data: {name: digits, img_size: 8, in_chans: 1, num_classes: 10}
budget: {latency_of_largest: 0.6}
"""


def candidate(arch: Record, trial: int, noise: float) -> Record:
    work = arch["embed_dim"] * sum(
        2 * heads + 2 * ratio
        for heads, ratio in zip(arch["num_heads"], arch["mlp_ratio"], strict=True)
    )
    latency_of_largest = 0.15 + 0.85 * work / 3072
    params = 900 + 2 * arch["embed_dim"] * (arch["num_atoms"] * 96 + 8 * sum(arch["rank"]))
    latency_ms, memory_mib = 5.2 * latency_of_largest, 0.4 + work / 2000
    return {
        "arch": arch,
        "study": "digits-0f",
        "trial": trial,
        "origin": "start" if trial < 20 else "guide",
        "complete": True,
        "top1": round((0.985 - 0.1 * 0.5 ** (work / 300) - noise) * 360) / 360,
        "loss": 0.12,
        "split": "val",
        "num_examples": 360,
        "latency_ms": latency_ms,
        "ratio": latency_of_largest,
        "ratio_low": 0.985 * latency_of_largest,
        "ratio_high": 1.015 * latency_of_largest,
        "median_ms": 1.03 * latency_ms,
        "p90_ms": 1.1 * latency_ms,
        "spread": 0.031,
        "num_passes": 50,
        "num_sessions": 2,
        "num_interrupted": 3,
        "num_throttled": 1,
        "memory_mib": memory_mib,
        "resident_mib": 7.5,
        "energy_mj": None,
        "flops": int(work * 1700),
        "latency_of_largest": latency_of_largest,
        "stored_factorised": params,
        "stored_merged": int(work * 55),
        "resident": int(work * 55) + 1,
        "params": params,
        "params_of_largest": params / 62340,
        "memory_of_largest": memory_mib / 1.936,
        "step": 1020,
        "weights": "77aa",
        "digest": "a1b2",
    }


def sample(generator: random.Random) -> Record:
    depth = generator.choice([1, 2, 3])
    return {
        "embed_dim": generator.choice([32, 48, 64]),
        "num_heads": [generator.choice([1, 2, 4]) for _ in range(depth)],
        "mlp_ratio": [generator.choice([1.0, 2.0, 4.0]) for _ in range(depth)],
        "rank": [generator.choice([2, 4, 8]) for _ in range(depth)],
        "num_atoms": generator.choice([1, 2, 3]),
    }


def candidates() -> list[Record]:
    generator = random.Random(0)
    archs: dict[str, Record] = {}
    while len(archs) < 60:
        arch = sample(generator)
        archs.setdefault(arch_key(arch), arch)
    return [
        candidate(arch, trial, 0.01 * generator.random())
        for trial, arch in enumerate(archs.values())
    ]


MEASURED = (
    *("latency_ms", "ratio", "ratio_low", "ratio_high", "median_ms", "p90_ms", "spread"),
    *("num_passes", "num_sessions", "num_interrupted", "num_throttled"),
    *("memory_mib", "resident_mib", "energy_mj", "flops"),
)
COUNTS = ("stored_factorised", "stored_merged", "resident")


def measurement(record: Record) -> Record:
    """A line of latency.jsonl: one session, and all sessions of the subnet so far together."""
    return {
        "digest": "a1b2",
        "time": "2025-11-21T07:12:00+00:00",
        "arch": record["arch"],
        "model_ms": [record["latency_ms"]] * 25,
        "reference_ms": [5.2] * 25,
        "num_warmup": 6,
        "num_interrupted": 2,
        "num_throttled": 1,
        "memory_mib": record["memory_mib"],
        "resident_mib": None,
        "energy_mj": None,
        "flops": record["flops"],
        "measurement": {key: record[key] for key in MEASURED},
        "reference": {"arch": LARGEST, "model": {}},
        "card": CARD,
    }


def metrics() -> list[Record]:
    generator = random.Random(1)
    records: list[Record] = []
    for step in range(10, 1021, 10):
        loss = 0.25 + 2.1 * 0.5 ** (step / 120) + 0.06 * generator.random()
        lr = 0.002 * min(step / 100, 1.0) * (1020 - step) / 1020
        records.append({"kind": "train", "step": step, "epoch": step / 17, "loss": loss, "lr": lr})
    for epoch, (probe, top) in product(
        range(2, 61, 2), [("smallest", 0.93), ("largest", 0.98), ("wide_and_shallow", 0.955)]
    ):
        top1 = top - 0.8 * 0.5 ** (epoch / 4)
        records.append({"kind": "eval", "step": 17 * epoch, "epoch": epoch, "probe": probe})
        records[-1] |= {"split": "val", "top1": top1, "loss": 0.3, "num_examples": 360}
    return records


def in_runtime(record: Record, ratio: float) -> Record:
    """What one runtime took, `ratio` of the largest subnet's time; the interval is 4 % wide."""
    own = {"ratio": ratio, "ratio_low": 0.98 * ratio, "ratio_high": 1.02 * ratio}
    scale = record["latency_ms"] / record["ratio"]
    return {**own, "latency_ms": ratio * scale, "num_passes": 40, "spread": 0.05}


def final(record: Record, ratio: float, *, met: bool = True) -> Record:
    """A subnet measured afresh, at `ratio` times what the search had known."""
    known = record["ratio"]
    return {
        "arch": record["arch"],
        "top1": record["top1"],
        "searched_ratio": known,
        "ratio": ratio * known,
        "ratio_low": 0.99 * ratio * known,
        "ratio_high": 1.02 * ratio * known,
        "latency_ms": ratio * record["latency_ms"],
        "num_passes": 30,
        "met": met,
    }


def error(kind: str, **figures: float) -> Record:
    """A predictor's cross-validated error."""
    found = {"mae": 0.004, "mape": 0.01, "tau": 0.75}
    band = {f"band_{key}": value / 2 for key, value in found.items()}
    return {"kind": kind, "num_known": 60, **found, "band_size": 9, **band, **figures}


def exported(chosen: Record, largest: Record) -> Record:
    test = {"split": "test", "top1": 0.9694, "num_examples": 360, "low": 0.946, "high": 0.983}
    judged = ("arch", "study", "trial", "origin", "complete", "top1", "loss", "split")
    conditions = ("num_examples", "step", "weights", "digest")
    costs = {key: value for key, value in chosen.items() if key not in (*judged, *conditions)}
    latency = {key: chosen[key] for key in MEASURED}
    bounds = {"latency_of_largest": 0.6, "params": 60000}
    return {
        "arch": chosen["arch"],
        "test": test,
        "largest_test": {**test, "top1": 0.975, "low": 0.953, "high": 0.987},
        "counts": {key: chosen[key] for key in COUNTS},
        "largest_counts": {key: largest[key] for key in COUNTS},
        "latency": latency,
        "searched": {"ratio": 0.5, "ratio_low": 0.49, "ratio_high": 0.52}
        | {"num_passes": 75, "off_by": latency["ratio"] / 0.5 - 1},
        "runtimes": [
            {"runtime": "eager", **in_runtime(chosen, 0.5)},
            {"runtime": "cuda_graph", "unavailable": "cuda_graph needs a CUDA device, not cpu"},
            {"runtime": "onnxruntime", **in_runtime(chosen, 0.25)},
        ],
        "costs": costs,
        "device": CARD,
        "budgets": [
            {"name": name, "limit": limit, "value": costs[name], "met": costs[name] <= limit}
            for name, limit in bounds.items()
        ],
        "step": 1020,
        "commit": "3f2a9c1",
        "command": "nas export run=runs/digits pick=best",
    }


def write_lines(path: Path, records: list[Record]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    (folder / "subnet").mkdir(parents=True)
    records = candidates()
    smallest, largest = candidate(SMALLEST, 60, 0.0), candidate(LARGEST, 61, 0.0)
    chosen = max(
        (record for record in records if meets(record, {"latency_of_largest": 0.6, "params": 6e4})),
        key=lambda record: record["top1"],
    )
    others = [c for c in records if meets(c, {"latency_of_largest": 0.6, "params": 6e4})]
    search = {"objective": "best", "strategy": "guided", "budget": BUDGET, "num_trials": 72}
    search |= {"study": "digits-0f", "chosen": chosen, "smallest": smallest, "largest": largest}
    search["candidates"] = [{**smallest, **ENDS}, {**largest, **ENDS}, *records]
    search["finalists"] = [final(others[0], 1.25, met=False), final(chosen, 0.95)]
    search |= {"verified": [final(chosen, 1.02)], "ended_by": "search.patience"}
    search |= {"reference_drift": 0.0625, "seconds": dict(SECONDS)}
    search["predictors"] = {
        "accuracy": error("svr", mae=0.0034),
        "latency_of_largest": error("gaussian_process", mae=0.0371, band_tau=float("nan")),
    }
    search["predictions"] = {
        "accuracy": {"predicted": [0.90, 0.95], "measured": [0.91, 0.94]},
        "latency_of_largest": {"predicted": [0.5, 0.625], "measured": [0.75, 0.375]},
    }
    search |= {"step": 1020, "weights": "77aa", "digest": "a1b2"}
    (folder / "config.yaml").write_text(CONFIG)
    write_lines(folder / "metrics.jsonl", metrics())
    write_lines(folder / "candidates.jsonl", records)
    measured = [measurement(record) for record in [smallest, largest, *records]]
    write_lines(folder / "latency.jsonl", measured)
    (folder / "search.json").write_text(json.dumps(search))
    (folder / "subnet" / "card.json").write_text(json.dumps(exported(chosen, largest)))
    return folder


def written(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


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


def part_of(page: str, title: str) -> str:
    """The section with this heading."""
    return page.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


def cells(page: str, title: str) -> list[list[str]]:
    """The rows of the section's first table, without its head."""
    rows = part_of(page, title).partition("</table>")[0].split("<tr")[2:]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]


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


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_page_loads_nothing_from_anywhere(run: Path) -> None:
    page = Page()
    page.feed(written(run))
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"link", "img", "iframe", "object", "embed", "base", "a"})
    assert not [attrs for _, attrs in page.tags if {"src", "href", "srcset"} & attrs.keys()]
    policies = [attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs]
    assert policies[0] is not None
    assert "default-src 'none'" in policies[0]
    assert "http" not in policies[0]


def test_plotly_is_in_the_page_exactly_once(run: Path) -> None:
    assert written(run).count("* plotly.js v") == 1


def test_strings_of_a_stranger_stay_text(run: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    config = {"run": evil, "space": {"_target_": "a." + evil, evil: [evil]}, "data": {"name": evil}}
    (run / "config.yaml").write_text(json.dumps(config))
    card = {**CARD, "name": evil, evil: evil}
    record = {**candidates()[0], "arch": {**candidates()[0]["arch"], evil: evil}, "split": evil}
    write_lines(run / "candidates.jsonl", [record, *candidates()])
    write_lines(run / "latency.jsonl", [{**measurement(record), "card": card}])
    probe = {"kind": "eval", "probe": evil, "epoch": 1, "step": evil, "top1": 0.5, "split": evil}
    write_lines(run / "metrics.jsonl", [*metrics(), probe])
    values = {"chosen": record, "budget": {evil: 1.0}, "num_trials": evil, "candidates": [record]}
    values |= {"strategy": evil, "objective": evil, "ended_by": evil}
    values |= {"finalists": [{"arch": {evil: evil}, "ratio": 0.5, "met": evil}]}
    values |= {"predictors": {evil: {"kind": evil}}, "predictions": {evil: {}}}
    edit(run / "search.json", **values)
    budgets = [{"name": evil, "limit": evil, "value": evil, "met": evil}]
    test = {"top1": evil, "low": evil, "high": evil, "num_examples": evil, "split": evil}
    edit(run / "subnet" / "card.json", **{"commit": evil, "command": evil, "budgets": budgets})
    edit(run / "subnet" / "card.json", **{"test": test, "arch": record["arch"], "device": card})
    places = [{"runtime": evil, **in_runtime(record, 0.5)}, {"runtime": evil, "unavailable": evil}]
    edit(run / "subnet" / "card.json", runtimes=places)
    page = written(run)
    assert evil not in page
    body = page.partition("</head>")[2]
    assert "<img" not in body
    assert body.count("<script") == body.count("Plotly.newPlot(") > 5
    assert prose(page).count("alert(1)") > 10
    # plotly reads tags in labels, so what reaches it must be escaped as well
    for name in ("latency_ms", "probes", "runtimes"):
        labels = json.dumps(figure(page, name))
        assert "alert(1)" in labels
        assert "<img" not in labels
        assert "<script" not in labels


def test_interpolations_of_a_config_are_not_resolved(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_READER", "hunter2")
    (run / "config.yaml").write_text("run: x\nseed: ${oc.env:SECRET_OF_THE_READER}\n")
    assert "hunter2" not in written(run)


def unlisted(run: Path) -> None:
    """Takes the candidates out of search.json, as if the search had not ended."""
    edit(run / "search.json", candidates=[])


def test_every_candidate_is_in_both_figures(run: Path) -> None:
    page = written(run)
    for name, key in (("latency_ms", "latency_ms"), ("params", "params")):
        drawn = [
            (x, y)
            for trace in figure(page, name)
            if trace["name"] in ("meets budgets", "breaks a budget")
            for x, y in zip(trace["x"], trace["y"], strict=True)
        ]
        shown = [*candidates(), candidate(SMALLEST, 60, 0.0), candidate(LARGEST, 61, 0.0)]
        assert sorted(drawn) == sorted((c[key], c["top1"]) for c in shown)


def test_candidates_that_break_a_budget_are_grey_and_off_the_front(run: Path) -> None:
    traces = {trace["name"]: trace for trace in figure(written(run), "latency_ms")}
    met = [
        c
        for c in [*candidates(), candidate(SMALLEST, 60, 0.0)]
        if 1.015 * c["latency_of_largest"] <= 0.6 and c["params"] <= BUDGET["params"]
    ]
    assert 0 < len(met) < len(candidates())
    assert sorted(traces["meets budgets"]["x"]) == sorted(c["latency_ms"] for c in met)
    front = zip(traces["Pareto front"]["x"], traces["Pareto front"]["y"], strict=True)
    assert set(front) == {
        (c["latency_ms"], c["top1"]) for c in met if not any(dominates(o, c) for o in met)
    }


def dominates(one: Record, other: Record) -> bool:
    a, b = (one["latency_ms"], -one["top1"]), (other["latency_ms"], -other["top1"])
    return a[0] <= b[0] and a[1] <= b[1] and a != b


@pytest.mark.parametrize("seed", range(20))
def test_the_front_holds_the_points_that_no_other_dominates(seed: int) -> None:
    generator = random.Random(seed)
    # few distinct values, so that ties and repeated points occur
    points = [(generator.randint(0, 6), generator.randint(0, 6)) for _ in range(25)]
    expected = {
        index
        for index, (cost, score) in enumerate(points)
        if not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
    }
    found = pareto_front([cost for cost, _ in points], [score for _, score in points])
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [points[index][0] for index in found] == sorted(points[index][0] for index in found)


def test_a_latency_meets_its_bound_by_the_upper_end_of_its_interval() -> None:
    record = {"latency_of_largest": 0.59, "ratio": 0.59, "ratio_high": 0.61, "params": 10}
    assert not meets(record, {"latency_of_largest": 0.6})
    assert meets(record, {"latency_of_largest": 0.62, "params": 10})
    assert not meets(record, {"memory_mib": 100.0})


def test_a_relative_bound_stands_where_the_relative_figure_equals_it() -> None:
    cost = Cost("latency_ms", "latency_of_largest", "latency", "")
    record = {"latency_ms": 9.0, "latency_of_largest": 0.9}
    budget = {"latency_ms": 4.0, "latency_of_largest": 0.5, "params": 7}
    places = [bound.place for bound in bounds_on(cost, budget, record)]
    assert places == [4.0, pytest.approx(5.0)]


def test_candidates_of_other_weights_or_another_target_are_left_out(run: Path) -> None:
    unlisted(run)
    other = [{**c, "top1": 1.0, "step": 500} for c in candidates()[:3]]
    other += [{**c, "top1": 1.0, "weights": "88bb"} for c in candidates()[:2]]
    foreign = [{**c, "top1": 1.0, "digest": "ffff"} for c in candidates()[:4]]
    write_lines(run / "candidates.jsonl", [*other, *candidates(), *foreign])
    page = written(run)
    assert all(1.0 not in trace["y"] for trace in figure(page, "latency_ms"))
    assert "9 of other weights or another target are not shown" in prose(page)


def test_training_curves_hold_every_record_and_every_probe(run: Path) -> None:
    page = written(run)
    losses = [record["loss"] for record in metrics() if record["kind"] == "train"]
    assert figure(page, "loss")[0]["y"] == losses
    probes = {trace["name"]: len(trace["y"]) for trace in figure(page, "probes")}
    assert probes == {"smallest": 30, "largest": 30, "wide_and_shallow": 30}


def test_a_long_training_curve_is_thinned(run: Path) -> None:
    lines = [{"kind": "train", "step": i, "epoch": i, "loss": 1.0, "lr": 0.1} for i in range(9000)]
    write_lines(run / "metrics.jsonl", lines)
    assert MOST_POINTS / 2 <= len(figure(written(run), "loss")[0]["y"]) <= MOST_POINTS


def test_the_header_gives_test_accuracy_interval_and_budgets(run: Path) -> None:
    words = prose(written(run))
    assert "96.9 %" in words
    assert "test top-1, 360 examples, 95 % interval 94.6\u201398.3 %" in words
    assert re.search(r"latency_of_largest 0\.\d+, budget \u2264 0\.600: met", words)
    broken = {"name": "memory_mib", "limit": 1.0, "value": 1.25, "met": False}
    edit(run / "subnet" / "card.json", budgets=[broken])
    assert "memory_mib 1.25 MiB, budget \u2264 1.00 MiB: broken" in prose(written(run))


def test_the_exported_subnet_is_the_chosen_one(run: Path) -> None:
    other = candidates()[7]
    largest = json.loads((run / "search.json").read_text())["largest"]
    (run / "subnet" / "card.json").write_text(json.dumps(exported(other, largest)))
    star = next(t for t in figure(written(run), "latency_ms") if t["name"] == "chosen")
    assert star["x"] == [other["latency_ms"]]


def test_devices_do_not_share_a_table(run: Path) -> None:
    gpu = {**CARD, "device": "cuda:0", "name": "NVIDIA H200"}
    mine = measurement(candidate(LARGEST, 0, 0.0))
    write_lines(run / "latency.jsonl", [mine, {**mine, "digest": "c3d4", "card": gpu}])
    words = prose(written(run))
    assert words.count("1 of 1 measured subnets") == 2
    assert "NVIDIA H200" in words


def test_the_latency_table_is_cut_but_keeps_the_named_subnets(run: Path) -> None:
    page = written(run)
    table = page[page.index("Latency and memory") : page.index("The chosen architecture")]
    assert table.count("<tr") == 1 + 20 + 3
    assert re.findall(r'class="role">(\w+)<', table) == ["largest", "chosen", "smallest"]


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("metrics.jsonl", "nas train run=runs/digits"),
        ("search.json", "nas search run=runs/digits"),
        ("latency.jsonl", "nas measure run=runs/digits"),
        ("subnet/card.json", "nas export run=runs/digits"),
    ],
)
def test_a_missing_file_is_named_by_the_command_that_makes_it(
    run: Path, missing: str, command: str
) -> None:
    # without the export's own command, which the page quotes
    edit(run / "subnet" / "card.json", command="")
    assert command not in prose(written(run))
    (run / missing).unlink()
    assert command in prose(written(run))


def test_an_empty_folder_gives_a_page_of_what_to_run(tmp_path: Path) -> None:
    words = prose(written(tmp_path))
    for stage in ("train", "measure", "search"):
        assert f"nas {stage} run={tmp_path}" in words


def test_a_search_without_a_feasible_subnet_says_what_it_saw(run: Path) -> None:
    (run / "subnet" / "card.json").unlink()
    edit(run / "search.json", chosen=None, budget={"params": 100})
    words = prose(written(run))
    assert "No evaluated subnet meets every budget" in words
    assert f"params {min(c['params'] for c in candidates()):,}" in words


def test_a_search_that_judged_nothing_gives_a_page(run: Path) -> None:
    (run / "subnet" / "card.json").unlink()
    (run / "candidates.jsonl").write_text("")
    empty: Record = {"objective": "best", "budget": {}, "chosen": None, "num_trials": 0}
    (run / "search.json").write_text(json.dumps(empty))
    words = prose(written(run))
    assert "No candidates were evaluated yet" in words
    assert "No subnet is chosen yet" in words


@pytest.mark.parametrize("value", [None, "5", True, float("nan"), float("inf"), 10**400, [1], {}])
def test_what_is_no_number_is_a_dash_and_never_zero(value: object) -> None:
    assert number(value, "ms") == percent(value) == span(value, 1.0) == "\u2013"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (1234567, "1,234,567"), (0.5, "0.500"), (2.0, "2.00"), (41.26, "41.3"),
     (1234.5, "1,234"), (0.001234, "0.00123"), (0.0, "0")],
)  # fmt: skip
def test_numbers_keep_three_digits(value: float, expected: str) -> None:
    assert number(value) == expected


def test_a_record_without_figures_gives_dashes(run: Path) -> None:
    bare = {"measurement": {"x": 1}, "arch": SMALLEST, "digest": "a1b2", "card": CARD}
    write_lines(run / "latency.jsonl", [bare])
    page = written(run)
    table = page[page.index("Latency and memory") : page.index("The chosen architecture")]
    cells = re.findall(r"<td>(.*?)</td>", table)
    counts = "\u2013&nbsp;+&nbsp;\u2013&nbsp;/&nbsp;\u2013"
    assert cells[1:] == [*["\u2013"] * 5, counts, *["\u2013"] * 2]


@pytest.mark.parametrize(("hits", "num_examples"), [(0, 1), (324, 360), (360, 360), (17, 10000)])
def test_the_interval_is_wilsons(hits: int, num_examples: int) -> None:
    expected = binomtest(hits, num_examples).proportion_ci(method="wilson")
    interval = top1_interval({"top1": hits / num_examples, "num_examples": num_examples})
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    "record", [{"top1": 0.9}, {"top1": 1.1, "num_examples": 9}, {"top1": 0.5, "num_examples": 0}]
)
def test_there_is_no_interval_without_a_fraction_and_a_count(record: Record) -> None:
    assert top1_interval(record) is None


def test_the_picture_draws_every_head_and_block_to_scale() -> None:
    arch = {**LARGEST, "num_heads": [3, 1], "mlp_ratio": [4.0, 2.0], "rank": [2, 4]}
    picture = arch_picture(arch, arch)
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="22"', picture)]
    filled = widths[1:2] + widths[3::2]  # each is drawn once as the outline, once filled
    assert filled[1] / filled[0] == pytest.approx(4.0, abs=0.01)
    assert filled[2] / filled[0] == pytest.approx(2.0, abs=0.01)
    assert picture.count("<rect") == 2 * (1 + 3 + 1 + 2)


@pytest.mark.parametrize(
    "change",
    [{"num_heads": [10**9]}, {"rank": [1, 2]}, {"embed_dim": "64"}, {"mlp_ratio": [float("nan")]},
     {"num_heads": []}, {"num_heads": [1.5]}, {"mlp_ratio": [1e300], "embed_dim": 1e300}],
)  # fmt: skip
def test_an_architecture_that_cannot_be_drawn_is_refused_not_drawn(
    run: Path, change: Record
) -> None:
    arch = {**SMALLEST, **change}
    assert can_draw(SMALLEST)
    assert not can_draw(arch)
    edit(run / "subnet" / "card.json", arch=arch)
    assert "There is no picture" in prose(written(run))


def test_the_same_files_give_the_same_page(run: Path) -> None:
    assert written(run) == written(run)


def test_a_damaged_file_is_named(run: Path) -> None:
    (run / "search.json").write_text('{"chosen": ')
    with pytest.raises(ValueError, match=r"search\.json must be JSON"):
        write_report(run)
    (run / "search.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"search\.json must be a mapping, got list"):
        write_report(run)
    with pytest.raises(ValueError, match="run must be a folder"):
        write_report(run / "config.yaml")


def test_a_lower_bound_is_met_by_the_lower_end_of_the_interval() -> None:
    record = {"latency_ms": 6.0, "ratio": 0.6, "ratio_low": 0.55, "ratio_high": 0.65, "params": 9}
    assert meets(record, {"min_latency_ms": 5.4, "latency_ms": 6.6})
    assert not meets(record, {"min_latency_ms": 5.6})
    assert meets(record, {"min_params": 9, "params": 9})
    assert not meets(record, {"min_params": 10})
    assert not meets(record, {"min_memory_mib": 0.1})


def test_a_window_has_both_its_bounds_and_is_shaded_between(run: Path) -> None:
    cost = Cost("latency_ms", "latency_of_largest", "latency", "")
    record = {"latency_ms": 9.0, "latency_of_largest": 0.9}
    budget = {"min_latency_ms": 2.0, "latency_of_largest": 0.5}
    assert bounds_on(cost, budget, record) == [
        Bound("latency_ms \u2265 2.00", 2.0, is_lower=True),
        Bound("latency_of_largest \u2264 0.500", 5.0, is_lower=False),
    ]
    edit(run / "search.json", budget=budget)
    shapes = drawing(written(run), "latency_ms")[1]["shapes"]
    (band,) = [shape for shape in shapes if shape["type"] == "rect"]
    places = [shape["x0"] for shape in shapes if shape["type"] == "line"]
    assert places == pytest.approx([2.0, 0.5 * 5.2])
    assert [band["x0"], band["x1"]] == pytest.approx(places)
    edit(run / "search.json", budget={"latency_of_largest": 0.5})
    shapes = drawing(written(run), "latency_ms")[1]["shapes"]
    assert [shape["type"] for shape in shapes] == ["line"]


def test_a_lower_bound_is_named_with_its_sign_on_the_chip(run: Path) -> None:
    (run / "subnet" / "card.json").unlink()
    edit(run / "search.json", budget={"min_params": 10**9, "min_latency_ms": 0.001})
    words = prose(written(run))
    assert "budget \u2265 1,000,000,000 parameters: broken" in words
    assert re.search(r"latency_ms [\d.]+ ms, budget \u2265 0\.00100 ms: met", words)
    edit(run / "search.json", chosen=None)
    most = max(record["params"] for record in [*candidates(), candidate(LARGEST, 61, 0.0)])
    assert f"params {most:,}" in prose(written(run))


def test_accuracy_on_a_part_of_the_split_is_hollow_and_on_no_front(run: Path) -> None:
    partial = {**candidates()[0], "top1": 1.0, "complete": False, "num_examples": 64}
    edit(run / "search.json", candidates=[partial, *candidates()[1:]])
    page = written(run)
    traces = {trace["name"]: trace for trace in figure(page, "params")}
    assert traces["part of val only"]["y"] == [1.0]
    assert traces["part of val only"]["marker"]["symbol"].endswith("-open")
    others = [trace for name, trace in traces.items() if name != "part of val only"]
    assert all(1.0 not in trace["y"] for trace in others)
    assert "Evaluated on the first of these examples alone: 1;" in prose(page)


def test_while_a_search_runs_its_lines_are_read_each_architecture_once(run: Path) -> None:
    unlisted(run)
    first, *others = candidates()
    early = {**first, "complete": False, "num_examples": 64, "top1": 0.125}
    write_lines(run / "candidates.jsonl", [early, *others, first, {**early, "top1": 0.25}])
    judged = read_run(run).judged()
    assert [one["top1"] for one in judged] == [one["top1"] for one in candidates()]
    assert judged[0]["complete"]


def test_of_several_sessions_the_last_line_counts_on_the_newest_scale(run: Path) -> None:
    old, new = candidate(SMALLEST, 0, 0.0), candidate(LARGEST, 1, 0.0)
    again = {**old, "ratio": 0.25, "latency_ms": 1.0, "num_passes": 99}
    newest = {**new, "ratio": 1.0, "latency_ms": 8.0}
    lines = [measurement(record) for record in (old, again, newest)]
    gpu = {**measurement(old), "digest": "c3d4"}
    write_lines(run / "latency.jsonl", [*lines, gpu])
    measured = read_run(run).measured()
    assert [(one["arch"], one["latency_ms"]) for one in measured["a1b2"]] == [
        (SMALLEST, 2.0),
        (LARGEST, 8.0),
    ]
    assert measured["a1b2"][0]["num_passes"] == 99
    assert measured["c3d4"][0]["latency_ms"] == pytest.approx(old["latency_ms"])


def test_the_latency_table_tells_what_was_left_out(run: Path) -> None:
    write_lines(run / "latency.jsonl", [measurement(candidate(SMALLEST, 0, 0.0))])
    (row,) = cells(written(run), "Latency and memory")
    assert "50&nbsp;+&nbsp;4&nbsp;/&nbsp;2" in row


@pytest.mark.parametrize(
    "values",
    [[0.9], [None], [0.8, 0.9, 0.7], [0.5, None, 0.75, 0.5, None, 0.25], [None, 0.5, None]],
)
def test_the_expected_best_of_random_draws_is_the_mean_over_all_subsets(
    values: list[float | None],
) -> None:
    found = expected_best(values)
    assert len(found) == len(values)
    for n, one in enumerate(found, 1):
        subsets = list(combinations(values, n))
        bests = [max(known) for subset in subsets if (known := [v for v in subset if v])]
        if not bests:
            assert one is None
            continue
        assert one is not None
        assert one.value == pytest.approx(sum(bests) / len(bests))
        assert one.chance == pytest.approx(len(bests) / len(subsets))


def test_a_search_is_held_against_its_own_random_draws(run: Path) -> None:
    page = written(run)
    traces = {trace["name"]: trace for trace in figure(page, "progress")}
    best, running = None, []
    for one in candidates():  # without the smallest and the largest
        if meets(one, {"latency_of_largest": 0.6, "params": 60000}):
            best = one["top1"] if best is None else max(best, one["top1"])
        running.append(best)
    assert traces["this search"]["y"] == running
    assert traces["this search"]["x"] == list(range(1, 61))
    expected = traces["random search, expected"]
    assert expected["x"][-1] == 20
    assert expected["y"][-1] == running[19]
    assert expected["y"] == sorted(expected["y"])
    assert traces["best of all random draws"]["x"] == [20, 60]
    assert traces["best of all random draws"]["y"] == [running[19]] * 2
    assert "20 of the subnets are the search's own random draws" in prose(page)


def test_a_search_without_random_draws_says_so(run: Path) -> None:
    edit(run / "search.json", candidates=[{**c, "origin": "sampler"} for c in candidates()])
    page = written(run)
    assert [trace["name"] for trace in figure(page, "progress")] == ["this search"]
    assert "No subnet was drawn at random" in prose(page)
    edit(run / "search.json", budget={"params": 1})
    assert "No proposed subnet meets the budgets" in prose(written(run))


def test_subnets_of_earlier_searches_are_counted_as_such(run: Path) -> None:
    assert "earlier searches" not in prose(written(run))
    earlier = [{**c, "study": "digits-00"} for c in candidates()[:7]]
    write_lines(run / "candidates.jsonl", [*earlier, *candidates()[7:]])
    assert "7 were known from earlier searches" in prose(written(run))


def test_finalists_stand_with_what_the_search_had_known_of_them(run: Path) -> None:
    page = written(run)
    rows = cells(page, "How the subnet was chosen")
    names = ["finalist 1", "finalist 2, chosen", "chosen, verification 1"]
    assert [row[0] for row in rows] == names
    assert [row[6] for row in rows] == ["+25.0&nbsp;%", "-5.0&nbsp;%", "+2.0&nbsp;%"]
    assert [row[-1] for row in rows] == ["missed", "met", "met"]
    traces, layout = drawing(page, "finalists")
    finalists = json.loads((run / "search.json").read_text())["finalists"]
    fresh, before = traces
    assert fresh["y"] == names
    assert fresh["x"][:2] == pytest.approx([one["ratio"] for one in finalists])
    assert before["x"][:2] == pytest.approx([one["searched_ratio"] for one in finalists])
    high = [one["ratio_high"] - one["ratio"] for one in finalists]
    assert fresh["error_x"]["array"][:2] == pytest.approx(high)
    assert [shape["x0"] for shape in layout["shapes"]] == [0.6]


def test_a_bound_in_milliseconds_stands_among_ratios(run: Path) -> None:
    edit(run / "search.json", budget={"latency_ms": 2.6})
    (line,) = drawing(written(run), "finalists")[1]["shapes"]
    assert line["x0"] == pytest.approx(0.5)  # the largest subnet takes 5.2 ms


def test_the_seconds_of_a_search_add_up(run: Path) -> None:
    page = written(run)
    assert seconds({"seconds": SECONDS}) == {
        "accuracy": 20.0,
        "costs": 44.0,
        "proposals": 6.0,
        "rest": 10.0,
    }
    assert sum(trace["x"][0] for trace in figure(page, "seconds")) == SECONDS["total"]
    words = prose(page)
    assert "took 80.0 % of it; the other 20.0 %, 16.0 s, is overhead" in words
    assert "ended by search.patience" in words
    assert "ranged over 6.2 % of their median" in words


@pytest.mark.parametrize("total", [None, 0.0, "80", -1.0, float("nan")])
def test_seconds_without_a_total_are_not_drawn(run: Path, total: object) -> None:
    assert seconds({"seconds": {**SECONDS, "total": total}}) == {}


def test_passes_that_were_left_out_are_counted_on_the_searchs_device_alone(run: Path) -> None:
    line = measurement(candidate(SMALLEST, 0, 0.0))
    write_lines(run / "latency.jsonl", [line, line, {**line, "digest": "c3d4"}])
    assert "50 pairs of passes were timed on the target in all; 6 more were left out" in prose(
        written(run)
    )


def test_a_search_that_has_not_ended_has_no_finalists(run: Path) -> None:
    (run / "search.json").unlink()
    page = written(run)
    assert "No search has ended yet" in part_of(page, "How the subnet was chosen")
    assert "Predictors" not in headings(page)


def test_predictors_are_listed_with_their_errors_near_the_bounds(run: Path) -> None:
    page = written(run)
    accuracy, latency = cells(page, "Predictors")
    assert accuracy == [
        *("val top-1", "svr", "60", "0.34&nbsp;points", "1.0&nbsp;%", "0.750"),
        *("9", "0.20&nbsp;points", "0.5&nbsp;%", "0.375"),
    ]
    assert latency[1:4] == ["gaussian_process", "60", "0.0371"]
    assert latency[-1] == "\u2013"  # of a nan
    edit(run / "search.json", predictors={}, predictions={})
    assert "Predictors" not in headings(written(run))


def test_predictions_are_drawn_against_measurements_with_bounds_on_both_axes(run: Path) -> None:
    page = written(run)
    traces, layout = drawing(page, "predicted_latency_of_largest")
    points = next(trace for trace in traces if trace["mode"] == "markers")
    assert (points["x"], points["y"]) == ([0.5, 0.625], [0.75, 0.375])
    lines = [(shape["x0"], shape["y0"]) for shape in layout["shapes"]]
    assert lines == [(0.6, 0), (0, 0.6)]  # across the whole plot in the other direction
    assert "shapes" not in drawing(page, "predicted_accuracy")[1]


@pytest.mark.parametrize(
    "record", [{"predicted": [0.5]}, {"predicted": [0.5], "measured": [0.5, 0.6]}, {}, None]
)
def test_predictions_that_do_not_pair_are_not_drawn(run: Path, record: object) -> None:
    edit(run / "search.json", predictions={"accuracy": record})
    assert '"predicted_accuracy"' not in written(run)


def test_the_exported_subnet_is_compared_across_runtimes(run: Path) -> None:
    page = written(run)
    (bars,) = figure(page, "runtimes")
    assert bars["y"] == [
        *("known to the search (eager)", "exported, measured afresh (eager)"),
        *("exported, in eager", "exported, in onnxruntime"),
    ]
    card = json.loads((run / "subnet" / "card.json").read_text())
    expected = [0.5 * 5.2, card["latency"]["latency_ms"], 0.5 * 5.2, 0.25 * 5.2]
    assert bars["x"] == pytest.approx(expected)
    assert bars["error_x"]["array"][2:] == pytest.approx([0.02 * 2.6, 0.02 * 1.3])
    assert bars["error_x"]["arrayminus"][0] == pytest.approx(0.01 * 5.2)
    words = prose(page)
    assert "cuda_graph needs a CUDA device, not cpu" in words
    off = 100 * (card["latency"]["ratio"] / 0.5 - 1)
    assert f"the latency is {off:+.1f} % from what the search had known" in words
    assert "growth of the resident set</dt><dd>7.50&nbsp;MiB" in page
    assert "energy an image" not in page
    edit(run / "subnet" / "card.json", latency={**card["latency"], "energy_mj": 12.5})
    assert "energy an image</dt><dd>12.5&nbsp;mJ" in written(run)


READERS = {  # of the parts of search.json, besides the head
    "candidates": (pareto, against_random),
    "budget": (pareto, choosing, runtimes),
    "finalists": (choosing,),
    "seconds": (choosing,),
    "predictors": (predictors,),
    "predictions": (predictors,),
}


@pytest.mark.parametrize("key", READERS)
def test_a_damaged_part_of_a_search_never_stops_the_page(run: Path, key: str) -> None:
    files = read_run(run)
    part = files.search[key]
    if key == "candidates":
        read = ("top1", "latency_ms", "ratio", "ratio_high", "latency_of_largest", "params")
        small = {name: candidates()[0][name] for name in (*read, "origin", "num_examples")}
        part = [{**small, "arch": {"rank": [2]}, "complete": False}]
    if isinstance(part, list):
        part = part[:1]
    for broken in damaged(part):
        whole = replace(files, search={**files.search, key: broken})
        for make in READERS[key]:
            assert not re.search("<td>(nan|inf)", make(whole))


def test_a_damaged_card_never_stops_the_page(run: Path) -> None:
    files = read_run(run)
    read = ("latency_ms", "ratio", "ratio_high", "memory_mib")
    small = {key: files.card[key] for key in ("searched", "device", "budgets")}
    small["latency"] = {key: files.card["latency"][key] for key in read}
    small["runtimes"] = files.card["runtimes"][1:]
    for broken in damaged(small):
        if isinstance(broken, dict):
            whole = replace(files, card=broken)
            assert not re.search("<td>(nan|inf)", runtimes(whole) + header(whole))


def test_a_damaged_line_of_latencies_never_stops_the_page(run: Path) -> None:
    line = measurement(candidate(SMALLEST, 0, 0.0))
    line |= {"card": {"batch_size": 64}, "model_ms": [1.0], "reference_ms": [], "reference": {}}
    files = replace(read_run(run), search={"digest": "a1b2", "chosen": None})
    for broken in damaged(line):
        if isinstance(broken, dict):
            whole = replace(files, latency=[broken, line])
            assert not re.search("<td>(nan|inf)", choosing(whole) + latency(whole))


def importance_metrics() -> list[Record]:
    """What importance of paths and examples logs, and the variance measured at evaluations."""
    records: list[Record] = []
    for step in range(10, 121, 10):
        records.append({"kind": "train", "step": step, "epoch": step / 10, "loss": 1.0, "lr": 0.1})
        records[-1] |= {"path_ess": 1 - step / 2000, "path_strength": 0.5, "path_gain": 0.9}
        records[-1] |= {"data_ess": 0.99, "data_share": step / 200, "data_gain": 1 - step / 1000}
    for epoch, ratio in ((4, 1.25), (8, 0.5), (12, 0.75)):
        records.append({"kind": "variance", "step": 10 * epoch, "epoch": epoch})
        records[-1] |= {"variance": ratio, "uniform_variance": 1.0, "variance_ratio": ratio}
    return records


PATHS: Record = {
    "epoch": 12,
    "probabilities": {
        "embed_dim": {"32": 0.25, "48": 0.25, "64": 0.5},
        "depth": {"1": 0.5, "2": 0.5},
    },
}


def ranked() -> Record:
    """rank.json of five architectures and two checkpoints; the second is 2 points better."""
    archs = [
        {
            "arch": arch["arch"],
            "true": 0.9 + 0.01 * place,
            "params": 1000 * (place + 1),
            "flops": 5000,
            "predicted": [0.5 + 0.03 * place, 0.52 + 0.03 * place],
        }
        for place, arch in enumerate(candidates()[:5])
    ]
    found = {"value": 0.625, "low": -0.125, "high": 0.875}
    figures: Record = dict.fromkeys(rank_figures.FIGURES, found)
    return {
        "settings": {"weights": "ema", "score": "top1", "batch_norm": "batch", "resamples": 300},
        "truth": "val top-1 of subnets trained alone for 7 epochs",
        "num_archs": 5,
        "num_examples": 360,
        "supernet": {name: {**found, "sd": 0.0625} for name in figures},
        "checkpoints": [{"step": step, "fingerprint": "x", "figures": figures} for step in (9, 10)],
        "baselines": {
            "params": {**figures, "tau": {"value": 0.5, "low": 0.375, "high": 0.75}},
            "flops": {**figures, "tau": {"value": None, "low": None, "high": None}},
        },
        "archs": archs,
        "batch_size": 360,
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def test_a_uniform_run_that_is_not_ranked_has_neither_section(run: Path) -> None:
    assert not {"Sampling", "Ranking"} & set(headings(written(run)))
    write_lines(run / "metrics.jsonl", [*metrics(), *importance_metrics()])
    write_json(run / "rank.json", ranked())
    found = headings(written(run))
    place = found.index("Training")
    assert found[place : place + 3] == ["Training", "Sampling", "Ranking"]


def test_sampling_curves_hold_every_logged_value_and_no_other_key(run: Path) -> None:
    other = {"kind": "eval", "epoch": 3, "path_gain": 7.0, "variance_ratio": 7.0}
    write_lines(run / "metrics.jsonl", [*importance_metrics(), other])
    page = written(run)
    for name, keys in {
        "sampling_gain": ["path_gain", "data_gain"],
        "sampling_ess": ["path_ess", "data_ess"],
        "sampling_strength": ["path_strength", "data_share"],
        "sampling_variance": ["variance_ratio"],
    }.items():
        traces = figure(page, name)
        assert [trace["name"] for trace in traces] == keys
        for trace in traces:
            own = [record for record in importance_metrics() if trace["name"] in record]
            assert trace["y"] == [record[trace["name"]] for record in own]
            assert trace["x"] == [record["epoch"] for record in own]
    assert "least_probability" not in page
    assert "sampling_least" not in page


def test_what_published_samplers_log_is_drawn_alone(run: Path) -> None:
    line = {"kind": "train", "step": 5, "epoch": 1, "least_probability": 0.125, "data_ess": 0.75}
    write_lines(run / "metrics.jsonl", [line])
    page = written(run)
    assert figure(page, "sampling_least")[0]["y"] == [0.125]
    assert [trace["name"] for trace in figure(page, "sampling_ess")] == ["data_ess"]
    assert "least likely option of any choice. Last: 0.125 at step 5" in prose(page)
    assert "sampling_gain" not in page


def test_the_measured_variance_has_markers_its_draws_and_its_median(run: Path) -> None:
    write_lines(run / "metrics.jsonl", importance_metrics())
    (run / "config.yaml").write_text(CONFIG + "train: {variance_draws: 17}\n")
    page = written(run)
    assert figure(page, "sampling_variance")[0]["mode"] == "lines+markers"
    assert "from 17 draws each" in prose(page)
    assert "Median of 3 evaluations: 0.750. Last: 0.750 at step 120" in prose(page)


def test_every_figure_that_a_sampler_logs_has_words() -> None:
    known = {key for panel in sampling.PANELS for key in panel.words}
    space = CellSpace()
    for sampler in (
        *(make(space=space) for make in (UniformPaths, FactorisedPaths, CandidatePaths)),
        PublishedPaths(space=space),
        *(make(num_examples=4) for make in (UniformData, ImportanceData, PublishedData)),
    ):
        assert sampler.figures().keys() <= known, sampler


def test_probabilities_are_coloured_by_how_far_they_are_from_uniform(run: Path) -> None:
    write_json(run / "paths.json", PATHS)
    page = written(run)
    (heat,) = figure(page, "probabilities")
    assert heat["y"] == ["embed_dim", "depth"]
    assert heat["z"][0] == pytest.approx([math.log2(0.75), math.log2(0.75), math.log2(1.5)])
    assert heat["z"][1] == [0, 0, None]
    assert heat["zmin"] == -heat["zmax"]  # so that uniform has the middle colour
    assert heat["text"] == [
        ["32: 25.0&nbsp;%", "48: 25.0&nbsp;%", "64: 50.0&nbsp;%"],
        ["1: 50.0&nbsp;%", "2: 50.0&nbsp;%", ""],
    ]
    assert "at epoch 12" in prose(page)


@pytest.mark.parametrize("value", [None, "0.5", True, -0.1, 1.5, float("nan"), 10**400, [0.5], {}])
def test_a_choice_with_a_damaged_probability_is_left_out(run: Path, value: object) -> None:
    chances = {**PATHS["probabilities"], "rank": {"2": 0.5, "4": value}, "odd": value, "none": {}}
    write_json(run / "paths.json", {"epoch": value, "probabilities": chances})
    (heat,) = figure(written(run), "probabilities")
    assert heat["y"] == ["embed_dim", "depth"]


def test_an_option_that_is_never_drawn_has_the_end_of_the_scale(run: Path) -> None:
    write_json(run / "paths.json", {"probabilities": {"depth": {"1": 0.0, "2": 1.0}}})
    (heat,) = figure(written(run), "probabilities")
    assert heat["z"] == [[heat["zmin"], 1.0]]
    assert math.isfinite(heat["zmin"])


def test_options_beyond_what_fits_are_counted(run: Path) -> None:
    many = {str(option): 1 / 40 for option in range(40)}
    write_json(run / "paths.json", {"probabilities": {"wide": many}})
    page = written(run)
    assert len(figure(page, "probabilities")[0]["z"][0]) == sampling.MOST_OPTIONS
    # the probability over uniform is still that of all options
    assert figure(page, "probabilities")[0]["z"][0][0] == pytest.approx(0)
    assert f"{40 - sampling.MOST_OPTIONS} of 40 options are not shown" in prose(page)


def test_ranked_architectures_stand_at_their_mean_prediction(run: Path) -> None:
    write_json(run / "rank.json", ranked())
    (points,) = figure(written(run), "ranking")
    assert points["x"] == pytest.approx([0.51, 0.54, 0.57, 0.60, 0.63])
    assert points["y"] == pytest.approx([0.90, 0.91, 0.92, 0.93, 0.94])
    assert points["marker"]["color"] == [1000, 2000, 3000, 4000, 5000]
    assert "51.0&nbsp;%, by checkpoint 50.0&nbsp;%, 52.0&nbsp;%" in points["hovertext"][0]


def test_ranked_architectures_without_a_score_are_not_drawn_without_parameters_grey(
    run: Path,
) -> None:
    record = ranked()
    record["archs"][0]["true"] = None
    record["archs"][1]["predicted"] = [0.5, None]
    record["archs"][2]["params"] = "many"
    write_json(run / "rank.json", record)
    page = written(run)
    traces = {trace["name"]: trace for trace in figure(page, "ranking")}
    assert traces["architecture"]["x"] == pytest.approx([0.60, 0.63])
    assert traces["parameters unknown"]["x"] == pytest.approx([0.57])


def test_the_ranking_says_what_was_compared(run: Path) -> None:
    write_json(run / "rank.json", ranked())
    words = prose(written(run))
    assert "5 architectures. True score: val top-1 of subnets trained alone for 7 epochs" in words
    assert "top-1 on 360 val images" in words
    assert "ema weights, the mean over 2 checkpoints (step 9, 10)" in words
    assert "over 300 draws" in words


def test_negated_losses_are_no_percentages(run: Path) -> None:
    record = ranked()
    record["settings"]["score"] = "loss"
    write_json(run / "rank.json", record)
    page = written(run)
    assert "negated loss on 360 val images" in prose(page)
    assert "predicted 0.510, by" in figure(page, "ranking")[0]["hovertext"][0]


def test_the_table_of_ranks_has_each_figure_with_interval_and_spread(run: Path) -> None:
    write_json(run / "rank.json", ranked())
    page = written(run)
    body = page[page.index("<h2>Ranking") : page.index("<h2>Latency")]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in body.split("<tr")[2:]]
    assert len(rows) == len(rank_figures.FIGURES)
    supernet, params, missing = ["0.625", "[-0.125, 0.875]"], ["0.500", "[0.375, 0.750]"], "\u2013"
    assert rows[0][1:] == [*supernet, "0.062", *params, missing, missing]
    assert rows[-1][1:4] == ["0.6", "[-0.1, 0.9]", "0.1"]


def test_every_figure_of_a_ranking_has_words() -> None:
    assert tuple(ranking.FIGURES) == rank_figures.FIGURES


def test_of_many_ranked_architectures_some_are_drawn(run: Path) -> None:
    record = ranked()
    record["archs"] = record["archs"] * 1000
    write_json(run / "rank.json", record)
    page = written(run)
    drawn = len(figure(page, "ranking")[0]["x"])
    assert MOST_POINTS / 2 <= drawn <= MOST_POINTS
    assert f"{drawn:,} of 5,000 are drawn" in prose(page)


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
    yield from (None, "x", True, 10**400, float("nan"), [], [None], {}, {"x": [1]})


def test_damaged_rank_and_paths_never_stop_the_page(run: Path) -> None:
    files = read_run(run)
    small = ranked()
    small["archs"] = [{**small["archs"][0], "arch": {"rank": [2]}}]
    cut = {"tau": small["supernet"]["tau"]}
    small |= {"supernet": cut, "checkpoints": [{"step": 9}], "baselines": {"flops": cut}}
    records = [record for record in damaged(small) if isinstance(record, dict)]
    assert len(records) > 200
    for record in records:
        text = ranking.ranking(replace(files, rank=record))
        assert bool(text) is bool(record)
        assert not re.search("<td>(nan|inf)", text)
    for record in damaged(PATHS):
        if isinstance(record, dict):
            sampling.sampling(replace(files, paths=record))
    for line in importance_metrics()[-4:-2]:
        for broken in damaged(line):
            if isinstance(broken, dict):
                sampling.sampling(replace(files, metrics=[broken, line]))


def test_strings_of_a_stranger_stay_text_in_sampling_and_ranking(run: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    record = ranked()
    record |= {"truth": evil, "num_archs": evil, "num_examples": evil, "batch_size": evil}
    record["settings"] = dict.fromkeys(("weights", "batch_norm", "score", "resamples"), evil)
    record["checkpoints"] = [{"step": evil}]
    record["archs"][0] |= {"arch": {evil: [evil]}, "params": evil, "flops": evil}
    record["archs"][1] |= {"arch": evil}
    write_json(run / "rank.json", record)
    write_json(run / "paths.json", {"epoch": evil, "probabilities": {evil: {evil: 1.0}}})
    write_lines(run / "metrics.jsonl", [{**r, "step": evil} for r in importance_metrics()])
    page = written(run)
    assert evil not in page
    assert "<img" not in page.partition("</head>")[2]
    assert prose(page).count("alert(1)") >= 4
    for name in ("ranking", "probabilities"):
        labels = json.dumps(figure(page, name))
        assert "alert(1)" in labels
        assert "<img" not in labels
        assert "<script" not in labels


@pytest.mark.parametrize("name", ["rank.json", "paths.json"])
def test_a_damaged_file_of_either_section_is_named(run: Path, name: str) -> None:
    (run / name).write_text('{"epoch": ')
    with pytest.raises(ValueError, match=rf"{name} must be JSON"):
        write_report(run)


@pytest.mark.parametrize(
    ("changes", "outdated"),
    [
        ({}, False),
        ({"study": "a study"}, False),
        ({"study": "another"}, True),
        ({"study": "a study", "arch": {}}, True),
        ({"study": "a study", "arch": {}, "command": "nas export run=x pick=3"}, False),
        ({"study": "another", "command": "nas export run=x pick=3"}, True),
        ({"study": None, "arch": {}, "command": "nas export run=x arch=a.json"}, False),
    ],
)
def test_an_export_of_an_earlier_search_is_not_shown_as_the_chosen_subnet(
    run: Path, changes: Record, outdated: bool
) -> None:
    chosen = json.loads((run / "search.json").read_text())["chosen"]
    edit(run / "search.json", study="a study")
    edit(run / "subnet" / "card.json", **{"arch": chosen["arch"], **changes})
    page = prose(written(run))
    assert ("subnet/ holds the choice of an earlier search" in page) is outdated
