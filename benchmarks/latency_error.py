"""How far predicted latencies are from measured ones, and measured ones from a second measurement.

AutoFormer-tiny subnets at 224 x 224 pixels, batch 1. A predictor is fitted on the latencies of
`--known` random subnets, relative to the largest, and compared with those of `--held-out` others.
The `--finalists` fastest-within-a-budget ones of these are then measured side by side, and again
`--pause` seconds later. What was measured is kept in `--run`, where a stopped benchmark goes on.
"""

import argparse
import json
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from nas.config.config import Config, parse
from nas.config.run_folder import compose_config
from nas.measure.meter import Meter, open_meter
from nas.search.predictors import fit, pick
from nas.train.weights import new_supernet
from search_spaces.space import Arch, to_record

SETTINGS = (
    "space=autoformer_tiny",
    "data=cifar10",
    "data.img_size=224",
    "space.patch_size=16",
    "data.num_classes=1000",
    "target.batch_size=1",
)
BUDGET = 0.6  # of the largest's latency, which the finalists come nearest to from below


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for PyTorch's")
    parser.add_argument("--known", type=int, default=200)
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument("--finalists", type=int, default=5)
    parser.add_argument("--pause", type=float, default=180.0, help="seconds")
    parser.add_argument("--time-limit", type=float, default=10.0, help="seconds a subnet")
    parser.add_argument("--run", type=Path, default=Path("runs/latency_error"))
    options = parser.parse_args()
    target = [
        f"target.device={options.device}",
        f"target.threads={options.threads}",
        f"target.time_limit_s={options.time_limit}",
    ]
    config = parse(compose_config([*SETTINGS, *target]))
    options.run.mkdir(parents=True, exist_ok=True)
    meter = open_meter(config, options.run, new_supernet(config))
    print(meter.card.describe())
    archs = sampled(config, options.known + options.held_out)
    ratios, begin = [], time.monotonic()
    for number, arch in enumerate(archs, 1):
        ratios.append(meter.measure(arch).ratio)
        if number % 20 == 0:
            print(f"{number} of {len(archs)}, {time.monotonic() - begin:.0f} s", flush=True)
    errors = prediction_errors(config, archs, ratios, options.known)
    held_out = archs[options.known :]
    finalists = sorted(held_out, key=lambda arch: distance(meter, arch))[: options.finalists]
    again = remeasured(meter, finalists, options.pause)
    print(f"the reference's milliseconds ranged over {meter.drift():.1%}")
    figures = {
        "within_10_percent": round(float((errors <= 0.1).mean()), 4),
        "mape_percent": round(100 * float(errors.mean()), 2),
        "remeasured_within_percent": round(100 * max(again), 2),
    }
    print(json.dumps(figures))


def sampled(config: Config, count: int) -> list[Arch]:
    generator, archs = Random(config.seed), dict[Arch, None]()
    while len(archs) < count:
        archs[config.space.sample(generator)] = None
    return list(archs)


def prediction_errors(
    config: Config, archs: list[Arch], ratios: list[float], known: int
) -> np.ndarray[Any, Any]:
    """Relative errors for the architectures after the first `known`."""
    features = np.array([config.space.features(arch) for arch in archs])
    targets = np.array(ratios[:known])
    kind = pick(features[:known], targets, "log")
    predictor = fit(features[:known], targets, kind, "log")
    predicted = predictor.scale.to_values(predictor.scores(features[known:]))
    measured = np.array(ratios[known:])
    errors: np.ndarray[Any, Any] = np.abs(predicted / measured - 1)
    print(
        f"{kind}: worst error {errors.max():.1%}, median {np.median(errors):.1%}, of "
        f"ratios from {measured.min():.3f} to {measured.max():.3f}"
    )
    return errors


def distance(meter: Meter, arch: Arch) -> float:
    """From the budget, from below; whoever misses it comes last."""
    ratio = meter.measure(arch).ratio
    return BUDGET - ratio if ratio <= BUDGET else 1 + ratio


def remeasured(meter: Meter, finalists: list[Arch], pause_s: float) -> list[float]:
    """How far a second session is from what was reported, as a fraction, for each finalist."""
    meter.side_by_side(finalists)
    reported = [meter.measure(arch) for arch in finalists]
    time.sleep(pause_s)
    second = meter.side_by_side(finalists)
    for arch, first, later in zip(finalists, reported, second, strict=True):
        print(
            f"{json.dumps(to_record(arch))}: {first.ratio:.4f} [{first.ratio_low:.4f}, "
            f"{first.ratio_high:.4f}], {pause_s:.0f} s later {later.ratio:.4f} "
            f"[{later.ratio_low:.4f}, {later.ratio_high:.4f}]"
        )
    return [
        abs(later.ratio / first.ratio - 1) for first, later in zip(reported, second, strict=True)
    ]


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
