"""Made-up results of every stage, for the report's tests."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nas.budgets import Budgets
from nas.rank import correlations
from nas.records import (
    Asker,
    Candidate,
    Conditions,
    Costs,
    DeviceCard,
    Finalist,
    Measurement,
    Score,
)
from nas.results import (
    Estimate,
    ExportResult,
    Prediction,
    Ranked,
    RankResult,
    RuntimeLatency,
    SearchResult,
    Seconds,
    Verdict,
)
from search_spaces.vit import ViTArch, ViTSpace
from supernet.parameter_counts import Counts
from supernet.task import Metric

SPACE = ViTSpace(
    embed_dim=[32, 48, 64],
    depth=[1, 2, 3],
    num_heads=[1, 2, 4],
    mlp_ratio=[1, 2, 4],
    rank=[2, 4, 8],
    num_atoms=[1, 2, 3],
    head_dim=16,
    patch_size=2,
)
SMALLEST, LARGEST = SPACE.smallest(), SPACE.largest()
TOP1 = Metric("top1", "top-1", higher_is_better=True, is_fraction=True)
MAE = Metric("mae", "mean absolute error", higher_is_better=False, is_fraction=False)
CARD = DeviceCard(
    device="cpu",
    name="Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz",
    driver="",
    host="Linux x86_64",
    threads=2,
    dtype="float32",
    float32_matmul="highest",
    batch_size=64,
    inputs=((64, 1, 8, 8),),
    runtime="eager",
    runtime_version="",
    torch_version="2.15.0",
    python_version="3.11.7",
)
HERE = Conditions(step=1020, weights="77aa", digest="a1b2")
STUDY = "digits-0f"
BUDGETS = Budgets.of({"latency_of_largest": 0.6, "params": 60000})
SECONDS = Seconds(total=80.0, scores=20.0, costs=44.0, proposals=6.0)


def counts_of(arch: ViTArch) -> Counts:
    params = 900 + 2 * arch.embed_dim * (arch.num_atoms * 96 + 8 * sum(arch.rank))
    merged = int(work_of(arch) * 55)
    return Counts(stored_factorised=params, stored_merged=merged, resident=merged + 1)


def work_of(arch: ViTArch) -> float:
    blocks = zip(arch.num_heads, arch.mlp_ratio, strict=True)
    return arch.embed_dim * sum(2 * heads + 2 * ratio for heads, ratio in blocks)


def measured(ratio: float, flops: int = 1000, **changes: Any) -> Measurement:
    """The largest subnet takes 5.2 ms; the interval is 3 % wide."""
    known = Measurement(
        latency_ms=5.2 * ratio,
        ratio=ratio,
        ratio_low=0.985 * ratio,
        ratio_high=1.015 * ratio,
        median_ms=5.4 * ratio,
        p90_ms=5.7 * ratio,
        spread=0.031,
        num_passes=50,
        num_sessions=2,
        num_interrupted=3,
        num_throttled=1,
        memory_mib=2 * ratio,
        resident_mib=7.5,
        energy_mj=None,
        flops=flops,
    )
    return replace(known, **changes)


def scored(value: float, metric: Metric = TOP1, **changes: Any) -> Score:
    low, high = value - 0.02, value + 0.02
    best = high if metric.higher_is_better else low
    score = Score(metric, value, low, high, best, 0.12, "val", num_examples=360, complete=True)
    return replace(score, **changes)


def candidate(arch: ViTArch, trial: int | None, noise: float = 0.0) -> Candidate[ViTArch]:
    work, counts = work_of(arch), counts_of(arch)
    ratio = 0.15 + 0.85 * work / work_of(LARGEST)
    top1 = round((0.985 - 0.1 * 0.5 ** (work / 300) - noise) * 360) / 360
    origin = "start" if trial is not None and trial < 20 else "guide"
    return Candidate(
        arch=arch,
        score=scored(top1),
        costs=Costs(
            measurement=measured(ratio, flops=int(work * 1700)),
            counts=counts,
            params_of_largest=counts.params / counts_of(LARGEST).params,
            memory_of_largest=ratio,
        ),
        asked_by=Asker(STUDY, trial, origin, "guided NSGAIISampler"),
        conditions=HERE,
    )


def proposed() -> list[Candidate[ViTArch]]:
    """Sixty, the first twenty drawn at random at the start."""
    generator = random.Random(0)
    archs: dict[ViTArch, None] = {}
    while len(archs) < 60:
        arch = SPACE.sample(generator)
        if arch not in (SMALLEST, LARGEST):
            archs.setdefault(arch)
    return [candidate(arch, place, 0.01 * generator.random()) for place, arch in enumerate(archs)]


def ends() -> list[Candidate[ViTArch]]:
    """The smallest and the largest, judged before any trial."""
    return [
        replace(candidate(arch, None), asked_by=Asker(None, None, origin, None))
        for arch, origin in ((SMALLEST, "smallest"), (LARGEST, "largest"))
    ]


def within(candidates: Sequence[Candidate[ViTArch]]) -> list[Candidate[ViTArch]]:
    return [one for one in candidates if BUDGETS.admit(one.costs)]


def best() -> Candidate[ViTArch]:
    return max(within(proposed()), key=lambda one: one.score.value)


def final(one: Candidate[ViTArch], ratio: float, *, met: bool = True) -> Finalist[ViTArch]:
    """A candidate measured afresh, at `ratio` times what the search had known."""
    known = one.costs.measurement.ratio
    again = measured(ratio * known, num_passes=30, ratio_high=1.02 * ratio * known)
    return Finalist(one.arch, one.score, known, again, met)


def prediction(kind: str, predicted: Sequence[float], measured: Sequence[float]) -> Prediction:
    return Prediction(
        kind=kind,
        predicted=tuple(predicted),
        measured=tuple(measured),
        mae=0.0034,
        mape=0.01,
        tau=0.75,
        band_size=9,
        band_mae=0.002,
        band_mape=0.005,
        band_tau=None,
    )


def searched() -> SearchResult[ViTArch]:
    smallest, largest = ends()
    chosen = best()
    return SearchResult(
        objective="best",
        strategy="guided",
        budget=BUDGETS.record(),
        study=STUDY,
        conditions=HERE,
        card=CARD,
        chosen=chosen,
        smallest=smallest,
        largest=largest,
        candidates=(smallest, largest, *proposed()),
        finalists=(final(within(proposed())[0], 1.25, met=False), final(chosen, 0.95)),
        verified=(final(chosen, 1.02),),
        num_trials=72,
        num_known=0,
        ended_by="search.patience",
        reference_drift=0.0625,
        predictions={
            "score": prediction("svr", [0.90, 0.95], [0.91, 0.94]),
            "latency_of_largest": prediction("gaussian_process", [0.5, 0.625], [0.75, 0.375]),
        },
        seconds=SECONDS,
    )


def in_runtime(name: str, ratio: float) -> RuntimeLatency:
    """`ratio` of the largest subnet's time; the interval is 4 % wide."""
    return RuntimeLatency(
        runtime=name,
        latency_ms=5.2 * ratio,
        ratio=ratio,
        ratio_low=0.98 * ratio,
        ratio_high=1.02 * ratio,
        num_passes=40,
    )


def exported(one: Candidate[ViTArch]) -> ExportResult[ViTArch]:
    return ExportResult(
        arch=one.arch,
        model={"img_size": 8, "patch_size": 2},
        task={"classes": ["0", "1"]},
        data={"name": "digits"},
        test=scored(0.9694, split="test", low=0.946, high=0.983),
        largest_test=scored(0.975, split="test", low=0.953, high=0.987),
        costs=one.costs,
        largest_counts=counts_of(LARGEST),
        searched_ratio=0.5,
        runtimes=(
            in_runtime("eager", 0.5),
            RuntimeLatency("cuda_graph", "cuda_graph needs a CUDA device, not cpu"),
            in_runtime("onnxruntime", 0.25),
        ),
        budgets=tuple(
            Verdict(b.key, b.limit, one.costs.figure(b.cost), b.is_met(one.costs)) for b in BUDGETS
        ),
        differences={"model.onnx": 1e-6},
        card=CARD,
        step=1020,
        study=STUDY,
        command="nas export run=runs/digits pick=best",
        commit="3f2a9c1",
    )


def ranked() -> RankResult[ViTArch]:
    """Five architectures and two checkpoints; the second is 2 points better."""
    found = Estimate(0.625, -0.125, 0.875)
    figures = dict.fromkeys(correlations.FIGURES, found)
    archs = [
        Ranked(
            arch=one.arch,
            true=0.9 + 0.01 * place,
            params=1000 * (place + 1),
            flops=5000,
            predicted=(0.5 + 0.03 * place, 0.52 + 0.03 * place),
        )
        for place, one in enumerate(proposed()[:5])
    ]
    return RankResult(
        settings={"weights": "ema", "score": "metric", "batch_norm": "batch", "resamples": 300},
        truth="val top-1 of subnets trained alone for 7 epochs",
        truth_is_fraction=True,
        predicted="top-1",
        predicted_is_fraction=True,
        num_examples=360,
        batch_size=360,
        steps=(9, 10),
        supernet={name: replace(found, sd=0.0625) for name in figures},
        checkpoints=(figures, figures),
        baselines={
            "params": {**figures, "tau": Estimate(0.5, 0.375, 0.75)},
            "flops": {**figures, "tau": Estimate(None, None, None)},
        },
        archs=tuple(archs),
        commit="3f2a9c1",
        seconds=12.5,
    )
