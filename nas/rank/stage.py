"""How well the supernet's scores rank architectures: `nas rank`. Writes rank.json."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from nas.config.config import Config
from nas.config.run_folder import code_version
from nas.config.sections import RankConfig
from nas.data.batches import ImageData
from nas.exits import Diverged, Stopped, stop_signals
from nas.files import append_record, locked, read_records, write_atomic
from nas.hardware.device import canonical_json, training_device
from nas.measure.bench import count_flops
from nas.rank.correlations import FIGURES, Estimate, estimate
from nas.rank.ground_truth import GroundTruth, read_table
from nas.rank.scoring import load_unmixed, score, scoring_batch_size
from nas.rank.standalone import train_standalone
from nas.search.study import fingerprint
from nas.tracking import Bar, progress
from nas.train.checkpoint import SNAPSHOTS, Damaged, load_checkpoint, read
from nas.train.weights import make_supernet
from supernet.parameter_counts import count
from supernet.supernet import Supernet

Record = dict[str, Any]
Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Checkpoint:
    """The scores of one checkpoint: a line of rank_scores.jsonl an architecture, in their order."""

    step: int
    records: tuple[Record, ...]

    def predicted(self, kind: str) -> list[float]:
        """What ranks: the higher the better."""
        return [-record["loss"] if kind == "loss" else record["top1"] for record in self.records]


def rank(config: Config, run: Path, console: Console) -> None:
    """Scores each architecture of the ground truth with each snapshot, and compares.

    Without snapshots the last checkpoint is scored. Raises Stopped after SIGINT or SIGTERM, and
    Diverged for a loss that is not finite; what was found before stays.
    """
    with locked(run / "rank.lock", blocking=False) as alone:
        if not alone:
            raise ValueError(f"run must not be in ranking already, got {run}")
        rank_alone(config, run, console)


def rank_alone(config: Config, run: Path, console: Console) -> None:
    begin = time.monotonic()
    say = partial(console.print, markup=False, soft_wrap=True)
    settings = config.rank
    if not settings.table and not settings.standalone:
        raise ValueError("rank.table or rank.standalone must be given, got neither")
    states = open_states(run, say)
    truth = read_table(settings, config.space) if settings.table else None
    data = load_unmixed(config, training_device(config.train))
    truth = truth or train_standalone(config, run, console, data)
    checkpoints = score_all(config, run, truth.archs, states, data, console)
    costs = cost_all(config, run, truth, console)
    record = compare(settings, truth, checkpoints, costs)
    record["batch_size"] = scoring_batch_size(settings, data)
    record["commit"] = code_version()
    record["seconds"] = round(time.monotonic() - begin, 1)
    write_atomic(run / "rank.json", json.dumps(record, indent=2, allow_nan=False))
    console.print(figure_table(record))
    say(summary(record))


# Weights


def open_states(run: Path, say: Callable[[str], None]) -> Sequence[Callable[[], Record]]:
    """What reads each snapshot, from the first step on; without one, the last checkpoint.

    Raises ValueError if there is neither.
    """
    paths = (run / SNAPSHOTS).glob("step_*.pt")
    numbered = sorted((int(path.stem.removeprefix("step_")), path) for path in paths)
    if numbered:
        return [partial(read_snapshot, path) for _, path in numbered]
    state = load_checkpoint(run, torch.device("cpu"), say)
    if state is None:
        raise ValueError(f"run must hold a checkpoint; nas train run={run} makes one, got none")
    if not state["finished"]:
        say(f"training has stopped at step {state['step']} and is not finished")
    kept = {name: state[name] for name in ("step", "ema", "supernet")}
    return [lambda: kept]


def read_snapshot(path: Path) -> Record:
    try:
        return read(path, torch.device("cpu"))
    except Damaged as error:
        raise ValueError(f"{path} must be a whole snapshot, got a damaged one: {error}") from error


# Scores and costs


def score_all(
    config: Config,
    run: Path,
    archs: Sequence[Any],
    states: Sequence[Callable[[], Record]],
    data: ImageData,
    console: Console,
) -> list[Checkpoint]:
    """Every checkpoint's scores; those in run/rank_scores.jsonl are not computed again."""
    supernet = make_supernet(config)
    device = training_device(config.train)
    scores = run / "rank_scores.jsonl"
    checkpoints = []
    total = len(states) * len(archs)
    with stop_signals() as stop, progress(console, "score", total=total) as bar:
        for read_state in states:
            state = read_state()
            # Both kinds of weights have the same names.
            weights = "ema" if config.rank.weights == "ema" else "supernet"
            supernet.cpu().load_state_dict(state[weights])
            conditions: Record = {
                "step": int(state["step"]),
                "weights": config.rank.weights,
                "fingerprint": fingerprint(supernet),
                "settings": scoring_settings(config.rank),
            }
            supernet.to(device)
            score_one = partial(score_arch, config.rank, supernet, data)
            records = complete(scores, conditions, archs, score_one, bar, stop)
            checkpoints.append(Checkpoint(conditions["step"], tuple(records)))
    return checkpoints


def scoring_settings(settings: RankConfig) -> Record:
    """The settings that a score depends on."""
    facts: Record = {"batch_norm": settings.batch_norm, "batch_size": settings.batch_size}
    if settings.batch_norm == "calibrated":
        facts |= {"calibration": settings.calibration, "seed": settings.seed}
    return facts


def score_arch(settings: RankConfig, supernet: Supernet, data: ImageData, arch: Any) -> Record:
    accuracy = score(settings, supernet, arch, data)
    if not math.isfinite(accuracy.loss):
        raise Diverged(f"val loss is {accuracy.loss} with the supernet's weights for {arch}")
    return asdict(accuracy)


def cost_all(config: Config, run: Path, truth: GroundTruth, console: Console) -> list[Record]:
    """Parameters and FLOPs of one image, for each architecture; run/rank_costs.jsonl keeps them."""
    supernet = make_supernet(config)
    data = config.data
    shape = (data.in_chans, data.img_size, data.img_size)

    def cost(arch: Any) -> Record:
        flops = count_flops(supernet.build(arch, device="meta"), shape)
        return {"params": count(supernet, arch).params, "flops": flops}

    total = len(truth.archs)
    with stop_signals() as stop, progress(console, "cost", total=total) as bar:
        records = complete(run / "rank_costs.jsonl", {}, truth.archs, cost, bar, stop)
    if truth.params is None:
        return records
    return [
        {**record, "params": params} for record, params in zip(records, truth.params, strict=True)
    ]


def complete(
    path: Path,
    conditions: Mapping[str, object],
    archs: Sequence[Any],
    find: Callable[[Any], Record],
    bar: Bar,
    stop: Sequence[int],
) -> list[Record]:
    """The records of `archs` under the conditions; those that the file lacks are found and added.

    Raises Stopped between two architectures.
    """
    known = {
        canonical_json(record["arch"]): record
        for record in read_records(path)
        if conditions.items() <= record.items()
    }
    records = []
    for arch in archs:
        key = canonical_json(asdict(arch))
        if key not in known:
            if stop:
                raise Stopped(stop[0])
            known[key] = {**conditions, "arch": asdict(arch), **find(arch)}
            append_record(path, known[key])
        records.append(known[key])
        bar.advance()
    return records


# Comparison


def compare(
    settings: RankConfig,
    truth: GroundTruth,
    checkpoints: Sequence[Checkpoint],
    costs: Sequence[Record],
) -> Record:
    """What rank.json holds; a figure that is not defined is null."""
    compare_with = partial(estimate, truth.scores, resamples=settings.resamples, seed=settings.seed)
    predictions = [checkpoint.predicted(settings.score) for checkpoint in checkpoints]
    each, mean = compare_with(predictions)
    baselines = {
        name: compare_with([[cost[name] for cost in costs]])[1] for name in ("params", "flops")
    }
    archs = [
        {
            "arch": asdict(arch),
            "true": truth.scores[place],
            "params": costs[place]["params"],
            "flops": costs[place]["flops"],
            "predicted": [predicted[place] for predicted in predictions],
        }
        for place, arch in enumerate(truth.archs)
    ]
    first = checkpoints[0].records[0]
    return {
        "settings": asdict(settings),
        "truth": truth.source,
        "num_archs": len(truth.archs),
        "num_examples": first["num_examples"],
        "supernet": {
            name: {**plain(mean[name]), "sd": spread([found[name].value for found in each])}
            for name in FIGURES
        },
        "checkpoints": [
            {
                "step": checkpoint.step,
                "fingerprint": checkpoint.records[0]["fingerprint"],
                "figures": {name: plain(found[name]) for name in FIGURES},
            }
            for checkpoint, found in zip(checkpoints, each, strict=True)
        ],
        "baselines": {
            name: {figure: plain(found[figure]) for figure in FIGURES}
            for name, found in baselines.items()
        },
        "archs": archs,
    }


def plain(found: Estimate) -> Record:
    return {name: defined(value) for name, value in asdict(found).items()}


def spread(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample, None of a single value or of an undefined one."""
    known = len(values) > 1 and not any(map(math.isnan, values))
    return stdev(values) if known else None


def defined(value: float) -> float | None:
    """None for nan, which JSON does not have."""
    return None if math.isnan(value) else value


# Telling


def figure_table(record: Mapping[str, Any]) -> Table:
    """One row a method; intervals below the values."""
    count = len(record["checkpoints"])
    table = Table(title=f"rank figures of {record['num_archs']} architectures, 95 % intervals")
    table.add_column("score")
    for name in FIGURES:
        table.add_column(name.replace("_", " "), justify="right")
    over = f"supernet, mean of\n{count} checkpoints ± sd" if count > 1 else "supernet"
    for name, found in ((over, record["supernet"]), *record["baselines"].items()):
        table.add_row(name, *(cell(figure, found[figure]) for figure in FIGURES))
    return table


def cell(name: str, found: Mapping[str, float | None]) -> str:
    digits = 1 if name == "best_true_rank" else 3
    value, low, high = (text(found[key], digits) for key in ("value", "low", "high"))
    sd = f" ± {text(found['sd'], digits)}" if found.get("sd") is not None else ""
    return f"{value}{sd}\n{low}-{high}" if digits == 1 else f"{value}{sd}\n[{low}, {high}]"


def text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def summary(record: Mapping[str, Any]) -> str:
    own = {name: text(record["supernet"]["tau"][name], 3) for name in ("value", "low", "high")}
    parts = [f"supernet {own['value']} [{own['low']}, {own['high']}]"]
    for name, found in record["baselines"].items():
        parts.append(f"{name} {text(found['tau']['value'], 3)}")
    settings = record["settings"]
    steps = ", ".join(str(checkpoint["step"]) for checkpoint in record["checkpoints"])
    return (
        f"tau-b with {record['truth']}: {', '.join(parts)}; {record['num_archs']} architectures, "
        f"{settings['weights']} weights at step {steps}, {settings['score']} of "
        f"{record['num_examples']} val images in batches of {record['batch_size']}, "
        f"{record['seconds']} s"
    )
