"""A made-up run folder with every kind of file that the stages write, for the report's tests."""

import json
import random
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

from nas.records import Measurement, to_json
from search_spaces.space import Arch, Space, to_record
from tests.report.made_up import (
    CARD,
    HERE,
    LARGEST,
    MAE,
    SPACE,
    best,
    ends,
    exported,
    proposed,
    searched,
)

Record = dict[str, Any]  # of JSON

ANY_SPACE = cast(Space[Arch], SPACE)  # as who reads a file has it
CONFIG = """\
run: runs/digits
seed: 0
space:
  _target_: search_spaces.vit.ViTSpace
  supernet: supernet.families.vit.ViTSupernet
  embed_dim: [32, 48, 64]
  depth: [1, 2, 3]
  num_heads: [1, 2, 4]
  mlp_ratio: [1, 2, 4]
  rank: [2, 4, 8]
  num_atoms: [1, 2, 3]
  head_dim: 16
  patch_size: 2
task:
  _target_: supernet.image_tasks.Classification
  num_classes: 10
  in_chans: 1
  img_size: 8
  mean: [0.305]
  std: [0.376]
data: {name: digits}
train: {variance_draws: 17}
budget: {latency_of_largest: 0.6, min_params: null}
"""
REGRESSION = """\
task:
  _target_: supernet.image_tasks.Regression
  columns: [age]
  in_chans: 1
  img_size: 8
  mean: [0.305]
  std: [0.376]
"""


def measured_line(arch: Arch, known: Measurement, **changes: Any) -> Record:
    """A line of latency.jsonl: one session, and all sessions of the subnet so far together."""
    line = {
        "digest": HERE.digest,
        "time": "2025-11-21T07:12:00+00:00",
        "arch": to_record(arch),
        "model_ms": [known.latency_ms] * 25,
        "reference_ms": [5.2] * 25,
        "num_warmup": 6,
        "num_interrupted": 2,
        "num_throttled": 1,
        "memory_mib": known.memory_mib,
        "resident_mib": None,
        "energy_mj": None,
        "flops": known.flops,
        "measurement": to_json(known),
        "reference": {"arch": to_record(LARGEST), "model": {}},
        "card": to_json(CARD),
    }
    return line | changes


def metrics() -> list[Record]:
    generator = random.Random(1)
    records: list[Record] = []
    for step in range(10, 1021, 10):
        loss = 0.25 + 2.1 * 0.5 ** (step / 120) + 0.06 * generator.random()
        lr = 0.002 * min(step / 100, 1.0) * (1020 - step) / 1020
        records.append({"kind": "train", "step": step, "epoch": step / 17, "loss": loss, "lr": lr})
        records[-1]["examples_per_s"] = 4000.0
    probes = [("smallest", 0.93), ("largest", 0.98), ("wide_and_shallow", 0.955)]
    for epoch, (probe, top) in product(range(2, 61, 2), probes):
        top1 = top - 0.8 * 0.5 ** (epoch / 4)
        records.append({"kind": "eval", "step": 17 * epoch, "epoch": epoch, "probe": probe})
        records[-1] |= {"top1": top1, "low": top1 - 0.01, "high": top1 + 0.01, "loss": 0.3}
        records[-1] |= {"split": "val", "num_examples": 360}
    return records


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


def write_alone(run: Path, name: str, arch: Arch, top1s: Mapping[int, float]) -> Path:
    """What nas finetune leaves of a subnet in a run, evaluated after these epochs, of 12."""
    folder = run / name
    folder.mkdir()
    init = "" if name.startswith("scratch") else str(run)
    settings = {"paths": {"arch": to_record(arch)}, "train": {"init": init, "epochs": 12}}
    (folder / "config.yaml").write_text(json.dumps(settings))  # which is YAML
    lines: list[Record] = [{"kind": "train", "step": 1, "epoch": 0.1, "loss": 1.0, "lr": 0.1}]
    for epoch, top1 in top1s.items():
        line = {"kind": "eval", "step": 17 * epoch, "epoch": epoch, "probe": "subnet"}
        score = {"top1": top1, "low": top1 - 0.02, "high": top1 + 0.01, "loss": 0.3}
        lines.append({**line, **score, "split": "val", "num_examples": 360})
    write_lines(folder / "metrics.jsonl", lines)
    return folder


def write_json(path: Path, value: object) -> None:
    """A value of nas.records or nas.results, or a record as it is."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value if isinstance(value, dict | list) else to_json(value)))


def write_lines(path: Path, lines: Sequence[object]) -> None:
    """Values or records, one a line."""
    records = [line if isinstance(line, dict) else to_json(line) for line in lines]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_run(folder: Path) -> Path:
    """A run that was trained, measured, searched and exported; not ranked."""
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    write_lines(folder / "metrics.jsonl", metrics())
    write_lines(folder / "candidates.jsonl", [*ends(), *proposed()])
    lines = [measured_line(one.arch, one.costs.measurement) for one in [*ends(), *proposed()]]
    write_lines(folder / "latency.jsonl", lines)
    write_json(folder / "search.json", searched())
    write_json(folder / "subnet" / "card.json", exported(best()))
    return folder


def as_regression(run: Path) -> None:
    """Turns what `write_run` made into a run whose score is an error: lower is better."""
    before, _, rest = CONFIG.partition("task:\n")
    (run / "config.yaml").write_text(f"{before}{REGRESSION}data:{rest.partition('data:')[2]}")

    def turned(value: Any) -> Any:
        if isinstance(value, list):
            return [turned(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "metric" not in value:
            return {key: turned(one) for key, one in value.items()}
        ends = {"low": 1 - value["high"], "high": 1 - value["low"], "hope": 1 - value["hope"]}
        return {**value, "metric": to_json(MAE), "value": 1 - value["value"], **ends}

    for name in ("search.json", "subnet/card.json"):
        write_json(run / name, turned(json.loads((run / name).read_text())))
    lines = (run / "candidates.jsonl").read_text().splitlines()
    write_lines(run / "candidates.jsonl", [turned(json.loads(line)) for line in lines])
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    errors = [{"mae": 1 - record.pop("top1")} if "top1" in record else {} for record in records]
    write_lines(run / "metrics.jsonl", [a | b for a, b in zip(records, errors, strict=True)])
