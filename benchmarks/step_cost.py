"""What one training step of a subnet costs inside the supernet, over one of the same plain model.

    python benchmarks/step_cost.py                                  two cores: fp32, batch 64
    python benchmarks/step_cost.py --device cuda --batch-size 1024  bf16

AutoFormer-tiny on 32x32 images in patches of 4. Ten subnets; for each, the plain model is extracted
and both train on the same batch with the same class of optimizer, alternating in one process. The
last line of output is JSON: the median over subnets of the median ratio of a pair of steps.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from random import Random

import torch
from torch import Tensor

from benchmarks.alternating import time_alternating
from nas.config.config import parse
from nas.config.run_folder import compose_config
from nas.train.optimization import autocast, make_optimizer
from nas.train.weights import new_supernet
from supernet.losses import cross_entropy

NUM_SUBNETS = 10
SETTINGS = ["space=autoformer_tiny", "space.patch_size=4", "data=cifar10", "seed=0"]


def main() -> None:
    options = read_options()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    ratios = {
        "entangled": measure(options, device, "own"),
        "atoms_adapters": measure(options, device, "atoms_adapters"),
    }
    print(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for the default")
    parser.add_argument("--warmup", type=int, default=1, help="untimed pairs a subnet")
    parser.add_argument("--passes", type=int, default=4, help="timed pairs a subnet")
    return parser.parse_args()


def measure(options: argparse.Namespace, device: torch.device, source: str) -> float:
    """The median over subnets of what a step costs in the supernet over a plain step."""
    config = parse(compose_config([*SETTINGS, f"source={source}"]))
    supernet = new_supernet(config).to(device)
    optimizer = make_optimizer(config.train, supernet)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.batch_size, 3, 32, 32, generator=generator).to(device)
    targets = torch.randint(10, (options.batch_size,), generator=generator).to(device)
    medians, paths = [], Random(0)
    for number in range(NUM_SUBNETS):
        arch = config.space.sample(paths)
        sizes = config.space.describe(arch)
        plain = supernet.extract(arch).train()
        plain_optimizer = make_optimizer(config.train, plain)
        entangled_ms, plain_ms = time_alternating(
            partial(step, optimizer, partial(supernet, images, arch), targets),
            partial(step, plain_optimizer, partial(plain, images), targets),
            device=device,
            warmup=options.warmup,
            passes=options.passes,
        )
        pairs = [one / other for one, other in zip(entangled_ms, plain_ms, strict=True)]
        medians.append(statistics.median(pairs))
        print(
            f"{source} subnet {number}: depth {sizes['depth']} width {sizes['embed_dim']}, "
            f"supernet {statistics.median(entangled_ms):.0f} ms, plain "
            f"{statistics.median(plain_ms):.0f} ms a step of {options.batch_size} images, "
            f"ratio {medians[-1]:.3f}",
            flush=True,
        )
    return statistics.median(medians)


def step(optimizer: torch.optim.Optimizer, forward: Callable[[], Tensor], targets: Tensor) -> None:
    """Forward, backward, clipping and update; bf16 autocast on a GPU."""
    optimizer.zero_grad()
    with autocast(targets.device, enabled=targets.is_cuda):
        logits = forward()
    cross_entropy(logits, targets).mean().backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


if __name__ == "__main__":
    main()
