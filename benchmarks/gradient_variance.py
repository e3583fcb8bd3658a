"""How much less the gradient's estimate varies when paths and examples are drawn by importance.

Two supernets are trained with both samplings: the digits ViT, and NAS-Bench-201 cells on CIFAR-10
images. After one third, two thirds and all of the training the weights are held fixed, and the
trace of the covariance of the gradient's estimate is measured over draws of (path, batch): uniform,
paths by importance, examples by importance, both, PA&DA as published, and examples with
probabilities proportional to their true gradient norms (root mean square over uniform paths).
Figures are ratios over uniform draws at equal cost: of the variances at equally many draws of
equally large batches, times the FLOPs of the paths drawn over uniform's; no way needs a further
pass. The published form is not weighted, so that its mean is not the uniform one: how far off it
is, squared, is printed in units of uniform's variance.
Command: python benchmarks/gradient_variance.py. Last line: JSON.
"""

import argparse
import json
import math
import tempfile
from copy import deepcopy
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cifar10 import PACKED, unpack
from nas.config.config import Config, parse
from nas.config.run_folder import compose_config
from nas.data.batches import load
from nas.train.gradient_variance import Draws, gradient_variances
from nas.train.training import Training
from nas.train.weights import new_supernet
from search_spaces.space import Arch
from supernet.sampling.example_importance import draw_systematic
from supernet.sampling.examples import UniformData
from supernet.sampling.paths import PathSampler, UniformPaths
from supernet.supernet import Supernet
from supernet.task import Batch

IMAGES_PER_CLASS = 500  # of CIFAR-10, so that true norms can be had of every example
COMMON = ("distillation=none", "train.device=cpu", "train.precision=fp32", "seed=0")
FAMILIES = {
    "vit": ("task.label_smoothing=0",),
    "nasbench201": (
        "experiment=nasbench201",
        "data=image_folder",
        "data.num_classes=10",
        "data.img_size=16",
        "data.shift=2",
        "data.mixup=0",
        "data.cutmix=0",
        "data.loader=resident",
        "data.batch_size=64",
        "space.channels=8",
        "space.num_cells=1",
        "train.epochs=60",
        "train.lr=0.1",
    ),
}
OURS = ("paths=importance", "examples=importance")
PUBLISHED = ("paths=published", "examples=published")
STAGES = {"one_third": 1 / 3, "two_thirds": 2 / 3, "end": 1.0}
SETTLING = 4  # epochs of observation after which the published samplers are measured
WAYS = ("path", "data", "both", "published", "optimum")


class Optimum(UniformData):
    """Examples with given probabilities, weighted: what no sampler can know without cost."""

    def __init__(self, probabilities: Tensor) -> None:
        super().__init__(num_examples=len(probabilities))
        self.probabilities = probabilities

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        indices = draw_systematic(self.probabilities, generator)
        return indices, (1 / (self.num_examples * self.probabilities[indices])).float()


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    found = {family: measure_family(family, options) for family in options.families}
    print(json.dumps(found))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", type=Path, default=PACKED, help="cifar10_jpeg.npz")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--draws", type=int, default=1200, help="gradients a way and stage")
    parser.add_argument("--norm-paths", type=int, default=4, help="paths for the true norms")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def measure_family(family: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    overrides = [*FAMILIES[family], *COMMON]
    if family == "nasbench201":
        folder = Path(tempfile.gettempdir(), f"cifar10_{IMAGES_PER_CLASS}")
        overrides.append(f"data.root={unpack(options.cifar10, folder, IMAGES_PER_CLASS)}")
    config = parse(compose_config([*overrides, *OURS]))
    published = parse(compose_config([*overrides, *PUBLISHED]))
    device = torch.device("cpu")
    data = load(config.data, config.task, seed=config.seed, device=device)
    training = Training(config, new_supernet(config), data, device)
    stages = {round(share * training.config.train.epochs): name for name, share in STAGES.items()}
    found = {}
    for epoch in range(1, config.train.epochs + 1):
        for batch in training.epoch_batches():
            loss = training.train_step(batch)["loss"]
        if epoch in stages:
            print(f"{family} {stages[epoch]}: epoch {epoch}, last loss {loss:.3f}", flush=True)
            found[stages[epoch]] = measure_stage(training, published, epoch, options)
    return found


def measure_stage(
    training: Training, published: Config, epoch: int, options: argparse.Namespace
) -> dict[str, float]:
    """Ratios by way; the training goes on afterwards as if nothing had been."""
    epochs, space = training.config.train.epochs, training.config.space
    paths, examples = deepcopy(training.paths), deepcopy(training.data_sampler)
    # What the next epoch would begin with.
    paths.begin_epoch(epoch, epochs)
    examples.draw_epoch(torch.Generator(), epoch, epochs)
    uniform = UniformPaths(space=space), UniformData(num_examples=training.data.num_train)
    theirs = observe_epochs(training, published, epoch)
    norms = true_norms(training, options.norm_paths)
    ways = {
        "uniform": uniform,
        "path": (paths, uniform[1]),
        "data": (uniform[0], examples),
        "both": (paths, examples),
        "published": (theirs.paths, theirs.data_sampler),
        "optimum": (uniform[0], Optimum(norms / norms.sum())),
    }
    draws = {name: Draws.seeded(*way, 1000 * epoch) for name, way in ways.items()}
    moments = gradient_variances(training, draws, options.draws)
    print("  ", {**paths.figures(), **examples.figures()}, flush=True)
    base, flops = moments["uniform"], flops_of(training, uniform[0])
    found = {}
    for name in WAYS:
        own = moments[name]
        ratio, share = own.variance / base.variance, flops_of(training, ways[name][0]) / flops
        error = ratio * math.hypot(own.error / own.variance, base.error / base.variance)
        bias = float((own.mean - base.mean).square().sum()) / base.variance
        found[name] = round(ratio * share, 4)
        print(
            f"  {name}: variance of {own.count} draws over uniform's {ratio:.3f} (standard error "
            f"{error:.3f}), FLOPs {share:.3f}, squared distance of the means {bias:.4f}",
            flush=True,
        )
    return found


def observe_epochs(training: Training, published: Config, epoch: int) -> Training:
    """The published samplers after some epochs at these weights, from uniform probabilities on.

    What they know is of the last epoch alone, but which examples it had depends on those before.
    """
    weights = training.network.state_dict()
    theirs = Training(published, new_supernet(published), training.data, training.device)
    theirs.network.load_state_dict(weights)
    for earlier in range(epoch - SETTLING, epoch):
        theirs.step = earlier * theirs.steps_per_epoch
        for batch in theirs.epoch_batches():
            theirs.train_step(batch)
            theirs.network.load_state_dict(weights)
    theirs.paths.begin_epoch(epoch, theirs.config.train.epochs)
    theirs.data_sampler.draw_epoch(torch.Generator(), epoch, theirs.config.train.epochs)
    return theirs


def true_norms(training: Training, num_paths: int) -> Tensor:
    """Root mean square (n,) over uniform paths of each example's gradient norm.

    The gradient is that of the example's own loss within a batch, whose statistics it shares.
    """
    generator, space, data = Random(0), training.config.space, training.data
    squares, counts = torch.zeros(2, data.num_train, dtype=torch.float64)
    order = torch.randperm(data.num_train, generator=torch.Generator().manual_seed(0))
    size = training.config.data.batch_size
    for arch in [space.sample(generator) for _ in range(num_paths)]:
        # The last batch is filled from the front, so that every example is in one.
        filled = torch.cat([order, order[: -len(order) % size]])
        for batch in data.train_batches(filled, batch_size=size, seed=0):
            squares.index_add_(0, batch.indices, batch_squares(training, batch, arch))
            counts.index_add_(0, batch.indices, torch.ones(size, dtype=torch.float64))
    return (squares / counts).sqrt()


def batch_squares(training: Training, batch: Batch, arch: Arch) -> Tensor:
    outputs = training.network(*batch.inputs, arch=arch)
    losses = training.data.task.training_loss(outputs, batch.targets)
    squares = []
    for loss in losses:
        gradients = torch.autograd.grad(
            loss, training.parameters, retain_graph=True, allow_unused=True
        )
        norms = torch._foreach_norm([gradient for gradient in gradients if gradient is not None])
        squares.append(torch.stack(norms).double().square().sum())
    return torch.stack(squares)


def flops_of(training: Training, paths: PathSampler[Arch], num_paths: int = 200) -> float:
    """Mean FLOPs of an image's forward pass over drawn paths."""
    generator, network = Random(0), training.network
    assert isinstance(network, Supernet)
    inputs = [example.to("meta") for example in training.data.task.example_inputs(1)]
    total = 0
    for _ in range(num_paths):
        (path,) = paths.draw(generator)
        model = network.build(path.arch, device="meta").eval()
        with FlopCounterMode(display=False) as counter:
            model(*inputs)
        total += counter.get_total_flops()
    return total / num_paths


if __name__ == "__main__":
    main()
