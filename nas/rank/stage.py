"""How well the supernet's scores rank architectures: `nas rank`. Writes rank.json."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from nas.config.config import Config
from nas.config.run_folder import code_version
from nas.config.sections import RankConfig
from nas.data.batches import Dataset
from nas.evaluate import calibrated, equal_size, evaluate
from nas.exits import Diverged, stop_signals
from nas.files import locked, write_atomic
from nas.hardware.device import training_device
from nas.measure.bench import count_flops
from nas.rank.correlations import FIGURES, estimate
from nas.rank.findings import Findings
from nas.rank.ground_truth import GroundTruth, read_table, worth_in_words
from nas.rank.standalone import train_standalone
from nas.records import Score, to_json
from nas.results import Estimate, Ranked, RankResult
from nas.search.study import fingerprint
from nas.tracking import progress
from nas.train.checkpoint import SNAPSHOTS, Damaged, read
from nas.train.optimization import is_finite
from nas.train.weights import check_supernet, load_data, load_state, new_supernet
from search_spaces.space import Arch
from supernet.parameter_counts import count
from supernet.sampling.paths import State
from supernet.supernet import Supernet


@dataclass(frozen=True)
class Checkpoint:
    """What the weights of one step say of the architectures, in their order."""

    step: int
    scores: tuple[Score, ...]

    def predicted(self, kind: str) -> tuple[float, ...]:
        """What ranks: the higher the better."""
        return tuple(-score.loss if kind == "loss" else score.worth for score in self.scores)


@dataclass(frozen=True)
class Size:
    """What may predict a score without training."""

    params: float
    flops: int  # of one example


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
    check_supernet(config)
    if not settings.table and not settings.standalone:
        raise ValueError("rank.table or rank.standalone must be given, got neither")
    states = open_states(run, say)
    truth = read_table(settings, config.space) if settings.table else None
    device = training_device(config.train)
    data = load_data(config, run, device)
    truth = truth or train_standalone(config, run, console, data, device)
    checkpoints = score_all(config, run, truth.archs, states, data, console)
    sizes = size_all(config, run, truth, console)
    result = compare(settings, truth, checkpoints, sizes, data, begin=begin)
    write_atomic(run / "rank.json", json.dumps(to_json(result), indent=2, allow_nan=False))
    console.print(figure_table(result))
    say(summary(result))


# Weights


def open_states(run: Path, say: Callable[[str], None]) -> Sequence[Callable[[], State]]:
    """What reads each snapshot, from the first step on; without one, the last checkpoint.

    Raises ValueError if there is neither.
    """
    paths = (run / SNAPSHOTS).glob("step_*.pt")
    numbered = sorted((int(path.stem.removeprefix("step_")), path) for path in paths)
    if numbered:
        return [partial(read_snapshot, path) for _, path in numbered]
    state = load_state(run, say)
    kept = {name: state[name] for name in ("step", "ema", "supernet")}
    return [lambda: kept]


def read_snapshot(path: Path) -> State:
    try:
        return read(path, torch.device("cpu"))
    except Damaged as error:
        raise ValueError(f"{path} must be a whole snapshot, got a damaged one: {error}") from error


# Scores and sizes


def score_all(
    config: Config,
    run: Path,
    archs: Sequence[Arch],
    states: Sequence[Callable[[], State]],
    data: Dataset,
    console: Console,
) -> list[Checkpoint]:
    """Every checkpoint's scores; those in run/rank_scores.jsonl are not computed again."""
    settings, device = config.rank, training_device(config.train)
    supernet = new_supernet(config).eval()
    checkpoints = []
    total = len(states) * len(archs)
    with stop_signals() as stop, progress(console, "score", total=total) as bar:
        for read_state in states:
            state = read_state()
            # Both kinds of weights have the same names.
            weights = "ema" if settings.weights == "ema" else "supernet"
            supernet.cpu().load_state_dict(state[weights])
            conditions = {
                "step": int(state["step"]),
                "weights": settings.weights,
                "fingerprint": fingerprint(supernet),
                **scoring_settings(settings),
            }
            supernet.to(device)
            known = Findings(run / "rank_scores.jsonl", conditions, Score, config.space)
            score = partial(score_arch, settings, supernet, data)
            scores = known.complete(archs, score, bar, stop)
            checkpoints.append(Checkpoint(int(state["step"]), scores))
    return checkpoints


def scoring_settings(settings: RankConfig) -> dict[str, str | int]:
    """The settings that a score depends on."""
    facts: dict[str, str | int] = {
        "batch_norm": settings.batch_norm,
        "batch_size": settings.batch_size,
    }
    if settings.batch_norm == "calibrated":
        facts |= {"calibration": settings.calibration, "seed": settings.seed}
    return facts


def score_arch(settings: RankConfig, supernet: Supernet[Arch], data: Dataset, arch: Arch) -> Score:
    """On val, with the statistics of batch norms that `rank.batch_norm` asks for."""
    size = settings.batch_size
    if settings.batch_norm == "batch":
        within = partial(supernet, arch=arch)
        score = evaluate(within, data, "val", batch_size=size, whole_batches=True)
    else:
        model = supernet.extract(arch).to(next(supernet.parameters()).device)
        batch = min(size, data.num_train)
        num_examples = settings.calibration * batch
        calibrated(model, data, batch, num_examples=num_examples, seed=settings.seed)
        score = evaluate(model, data, "val", batch_size=size)
    if not is_finite(score.loss):
        raise Diverged(f"val loss is {score.loss} with the supernet's weights for {arch}")
    return score


def size_all(config: Config, run: Path, truth: GroundTruth, console: Console) -> list[Size]:
    """Of each architecture; run/rank_costs.jsonl keeps them. The truth's own parameters count."""
    supernet, inputs = new_supernet(config), config.task.example_inputs(1)

    def find(arch: Arch) -> Size:
        flops = count_flops(supernet.build(arch, device="meta"), inputs)
        return Size(count(supernet, arch).params, flops)

    total = len(truth.archs)
    with stop_signals() as stop, progress(console, "cost", total=total) as bar:
        known = Findings(run / "rank_costs.jsonl", {}, Size, config.space)
        sizes = known.complete(truth.archs, find, bar, stop)
    params = truth.params or [size.params for size in sizes]
    return [Size(own, size.flops) for own, size in zip(params, sizes, strict=True)]


# Comparison


def compare(
    settings: RankConfig,
    truth: GroundTruth,
    checkpoints: Sequence[Checkpoint],
    sizes: Sequence[Size],
    data: Dataset,
    *,
    begin: float,
) -> RankResult[Arch]:
    """The figures of the scores and of the sizes; `begin` is when the ranking began."""
    estimated = partial(estimate, truth.scores, resamples=settings.resamples, seed=settings.seed)
    predictions = [checkpoint.predicted(settings.score) for checkpoint in checkpoints]
    each, mean = estimated(predictions)
    baselines = {
        name: estimated([[getattr(size, name) for size in sizes]])[1]
        for name in ("params", "flops")
    }
    rows = zip(truth.archs, truth.scores, sizes, zip(*predictions, strict=True), strict=True)
    metric, by_loss = data.task.metric, settings.score == "loss"
    whole, largest = settings.batch_norm == "batch", settings.batch_size
    return RankResult(
        settings=asdict(settings),
        truth=truth.source,
        truth_is_fraction=truth.is_fraction,
        predicted="negated val loss" if by_loss else worth_in_words(metric),
        predicted_is_fraction=metric.is_fraction and not by_loss,
        num_examples=checkpoints[0].scores[0].num_examples,
        batch_size=equal_size(data.num_examples("val"), largest) if whole else largest,
        steps=tuple(checkpoint.step for checkpoint in checkpoints),
        supernet=mean,
        checkpoints=tuple(each),
        baselines=baselines,
        archs=tuple(
            Ranked(arch, true, size.params, size.flops, predicted)
            for arch, true, size, predicted in rows
        ),
        commit=code_version(),
        seconds=round(time.monotonic() - begin, 1),
    )


# Telling


def figure_table(result: RankResult[Arch]) -> Table:
    """One row a method; intervals below the values."""
    count = len(result.checkpoints)
    table = Table(title=f"rank figures of {len(result.archs)} architectures, 95 % intervals")
    table.add_column("score")
    for name in FIGURES:
        table.add_column(name.replace("_", " "), justify="right")
    over = f"supernet, mean of\n{count} checkpoints ± sd" if count > 1 else "supernet"
    for name, found in ((over, result.supernet), *result.baselines.items()):
        table.add_row(name, *(cell(figure, found[figure]) for figure in FIGURES))
    return table


def cell(name: str, found: Estimate) -> str:
    digits = 1 if name == "best_true_rank" else 3
    value, low, high = (text(each, digits) for each in (found.value, found.low, found.high))
    sd = f" ± {text(found.sd, digits)}" if found.sd is not None else ""
    return f"{value}{sd}\n{low}-{high}" if digits == 1 else f"{value}{sd}\n[{low}, {high}]"


def text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def summary(result: RankResult[Arch]) -> str:
    own = result.supernet["tau"]
    value, low, high = (text(each, 3) for each in (own.value, own.low, own.high))
    parts = [f"supernet {value} [{low}, {high}]"]
    parts += [f"{name} {text(found['tau'].value, 3)}" for name, found in result.baselines.items()]
    steps = ", ".join(map(str, result.steps))
    return (
        f"tau-b with {result.truth}: {', '.join(parts)}; {len(result.archs)} architectures, "
        f"{result.settings['weights']} weights at step {steps}, {result.predicted} of "
        f"{result.num_examples} examples in batches of {result.batch_size}, {result.seconds} s"
    )
