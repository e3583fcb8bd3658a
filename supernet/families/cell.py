"""The supernet of NAS-Bench-201's cells: every edge of every cell holds each operation's weights.

The network is a 3x3 convolution, then three stages of cells with C, 2C and 4C channels, a residual
block of stride 2 before the second and the third, and a classifier of the averaged features
(Dong & Yang, 2020, https://arxiv.org/abs/2001.00326). Batch norms have no parameters and use the
statistics of the batch, in training and in evaluation alike, since subnets differ in them.

Letters: B batch, C channels, H, W height and width, K kernel size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from search_spaces.cell import EDGES, OUTPUT, CellArch, CellSpace, edge_name
from search_spaces.space import Space
from supernet.batch_norm import batch_norms
from supernet.image_tasks import square_images
from supernet.layers import new_weight
from supernet.sources.source import SourceFactory
from supernet.supernet import Supernet, space_of
from supernet.task import Task

NUM_STAGES = 3
KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}


@dataclass(frozen=True)
class CellSizes:
    """What every architecture of a run has in common; `channels` of the first stage."""

    in_chans: int
    num_classes: int
    channels: int
    num_cells: int  # of each stage

    def width(self, stage: int) -> int:
        return self.channels * 2**stage


class CellSupernet(Supernet[CellArch]):
    """Weights of all operations on all edges of all cells, stacked by stage and operation."""

    def __init__(
        self,
        space: CellSpace,
        fixed: CellSizes,
        sources: Mapping[str, SourceFactory],
        *,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.check_sources(space, sources)
        self.fixed = fixed
        new = partial(new_weight, generator=generator)
        self.stem = new(fixed.channels, fixed.in_chans, 3, 3)
        kernels = {}  # (num_cells * edges, C, C, K, K) of each stage
        for stage in range(NUM_STAGES):
            width = fixed.width(stage)
            for op in (op for op in space.operations if op in KERNELS):
                shape = width, width, KERNELS[op], KERNELS[op]
                kernels[f"{op}_{stage}"] = new(*shape, stack=(fixed.num_cells * len(EDGES),))
        self.kernels = nn.ParameterDict(kernels)
        self.reductions = nn.ParameterDict()
        for stage in range(1, NUM_STAGES):
            i, o = fixed.width(stage - 1), fixed.width(stage)
            self.reductions[f"first_{stage}"] = new(o, i, 3, 3)
            self.reductions[f"second_{stage}"] = new(o, o, 3, 3)
            self.reductions[f"shortcut_{stage}"] = new(o, i, 1, 1)
        self.head = new(fixed.num_classes, fixed.width(NUM_STAGES - 1))
        self.head_bias = nn.Parameter(torch.zeros(fixed.num_classes))

    @classmethod
    def sizes(cls, space: Space[CellArch], task: Task) -> CellSizes:
        known = space_of(cls, CellSpace, space)
        channels, size = square_images(task)
        # Two steps of stride 2, whose shortcut and convolutions must give the same size.
        if size % 4 != 0:
            raise ValueError(f"data.img_size must be a multiple of 4 for cells, got {size}")
        return CellSizes(channels, task.num_outputs, known.channels, known.num_cells)

    @classmethod
    def plain(
        cls, arch: CellArch, fixed: CellSizes, *, device: torch.device | str = "cpu"
    ) -> nn.Module:
        with torch.device(device):
            return CellNetwork(arch, fixed)

    def forward(self, images: Tensor, arch: CellArch) -> Tensor:
        """Outputs (B, num_classes) of one subnet for images (B, C, H, W)."""
        x = normalise(F.conv2d(channels_last(images), self.stem, padding=1))
        live = arch.live_edges()
        for stage in range(NUM_STAGES):
            if stage > 0:
                x = self.reduce(x, stage)
            # Unbound once, so that the gradient of a stack is written once.
            kernels = {
                op: self.kernels[f"{op}_{stage}"].unbind()
                for op in set(live.values()) & KERNELS.keys()
            }
            for cell in range(self.fixed.num_cells):
                x = run_cell(x, live, kernels, cell * len(EDGES))
        return F.linear(F.relu(normalise(x)).mean((2, 3)), self.head, self.head_bias)

    def reduce(self, x: Tensor, stage: int) -> Tensor:
        """A residual block (B, C, H, W) -> (B, 2C, H/2, W/2)."""
        kernel = self.reductions
        y = normalise(F.conv2d(F.relu(x), kernel[f"first_{stage}"], stride=2, padding=1))
        y = normalise(F.conv2d(F.relu(y), kernel[f"second_{stage}"], padding=1))
        return F.conv2d(F.avg_pool2d(x, 2), kernel[f"shortcut_{stage}"]) + y

    @torch.no_grad()
    def factorise(self, arch: CellArch) -> dict[str, Tensor]:
        """Copies of the weights in use, by the plain model's names: a cell shares nothing."""
        return {name: view.clone().contiguous() for name, view in self.views(arch).items()}

    @torch.no_grad()
    def load_plain(self, state: Mapping[str, Tensor], arch: CellArch) -> None:
        self.check_plain(state, arch)
        for name, view in self.views(arch).items():
            view.copy_(state[name])

    def views(self, arch: CellArch) -> dict[str, Tensor]:
        """The weights in use, by the plain model's names."""
        tensors: dict[str, Tensor] = {
            "stem.0.weight": self.stem,
            "head.weight": self.head,
            "head.bias": self.head_bias,
        }
        for stage in range(1, NUM_STAGES):
            for name in ("first", "second", "shortcut"):
                # Index 1 is the convolution: after ReLU or average pooling.
                key = f"reductions.{stage - 1}.{name}.1.weight"
                tensors[key] = self.reductions[f"{name}_{stage}"]
        for edge, op in arch.live_edges().items():
            for place in range(NUM_STAGES * self.fixed.num_cells) if op in KERNELS else ():
                stage, cell = divmod(place, self.fixed.num_cells)
                kernels = self.kernels[f"{op}_{stage}"]
                key = f"cells.{place}.operations.{module_name(edge)}.1.weight"
                tensors[key] = kernels[cell * len(EDGES) + EDGES.index(edge)]
        return tensors

    def merge(self, tensors: Mapping[str, Tensor], arch: CellArch) -> dict[str, Tensor]:
        """The tensors as they are; batch norms without statistics have mean 0 and variance 1."""
        # Made on the CPU, its weights would be drawn from the global generator.
        blank = self.build(arch, device="meta").to_empty(device=self.stem.device)
        for norm in batch_norms(blank):
            norm.reset_running_stats()
        return dict(blank.named_buffers()) | dict(tensors)

    def choice_gradients(self, arch: CellArch) -> dict[str, list[Tensor]]:
        """The kernels of each edge's operation, in every cell."""
        gradients: dict[str, list[Tensor]] = {}
        for edge, op in arch.edges().items():
            stages = range(NUM_STAGES) if op in KERNELS else ()
            grads = [self.kernels[f"{op}_{stage}"].grad for stage in stages]
            rows = slice(EDGES.index(edge), None, len(EDGES))
            found = [kernel for grad in grads if grad is not None for kernel in grad[rows]]
            gradients[edge_name(edge)] = found
        return gradients


def run_cell(
    x: Tensor,
    live: Mapping[tuple[int, int], str],
    kernels: Mapping[str, tuple[Tensor, ...]],
    first: int,
) -> Tensor:
    """The output node of a cell with input x (B, C, H, W); `first` is its first edge's kernel."""
    nodes, rectified = {0: x}, {}
    for (target, source), op in live.items():
        if op in KERNELS:
            if source not in rectified:
                rectified[source] = F.relu(nodes[source])
            kernel = kernels[op][first + EDGES.index((target, source))]
            y = normalise(F.conv2d(rectified[source], kernel, padding=kernel.shape[-1] // 2))
        elif op == "avg_pool_3x3":
            y = F.avg_pool2d(nodes[source], 3, 1, padding=1, count_include_pad=False)
        else:
            y = nodes[source]
        nodes[target] = nodes[target] + y if target in nodes else y
    return nodes.get(OUTPUT, torch.zeros_like(x))


def channels_last(images: Tensor) -> Tensor:
    """The layout in which convolutions of few channels are fastest, by a third on CPUs."""
    return images.contiguous(memory_format=torch.channels_last)


def normalise(x: Tensor) -> Tensor:
    """Batch norm without parameters, by the batch's own statistics."""
    return F.batch_norm(x, None, None, training=True)


class Cell(nn.Module):
    """One cell as a plain module; it holds the operations that have an effect."""

    def __init__(self, arch: CellArch, channels: int) -> None:
        super().__init__()
        self.live = tuple(arch.live_edges())
        operations = arch.live_edges().items()
        self.operations = nn.ModuleDict(
            {module_name(edge): new_operation(op, channels) for edge, op in operations}
        )

    def forward(self, x: Tensor) -> Tensor:
        nodes = {0: x}
        for target, source in self.live:
            y = self.operations[module_name((target, source))](nodes[source])
            nodes[target] = nodes[target] + y if target in nodes else y
        return nodes.get(OUTPUT, torch.zeros_like(x))


class Reduction(nn.Module):
    """A residual block of stride 2 that doubles the channels."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.first = new_convolution(i, o, 3, stride=2)
        self.second = new_convolution(o, o, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(i, o, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(self.first(x))


class CellNetwork(nn.Module):
    """One subnet as a plain model. Its batch norms keep statistics, for `calibrate` to estimate."""

    def __init__(self, arch: CellArch, fixed: CellSizes) -> None:
        super().__init__()
        widths = [fixed.width(stage) for stage in range(NUM_STAGES)]
        self.num_cells = fixed.num_cells
        self.stem = nn.Sequential(
            nn.Conv2d(fixed.in_chans, widths[0], 3, padding=1, bias=False), new_norm(widths[0])
        )
        self.cells = nn.ModuleList(
            Cell(arch, width) for width in widths for _ in range(fixed.num_cells)
        )
        self.reductions = nn.ModuleList(Reduction(i, o) for i, o in pairwise(widths))
        self.last = nn.Sequential(new_norm(widths[-1]), nn.ReLU())
        self.head = nn.Linear(widths[-1], fixed.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(channels_last(images))
        for place, cell in enumerate(self.cells):
            stage, first = divmod(place, self.num_cells)
            if stage > 0 and first == 0:
                x = self.reductions[stage - 1](x)
            x = cell(x)
        return self.head(self.last(x).mean((2, 3)))


def new_operation(op: str, channels: int) -> nn.Module:
    if op in KERNELS:
        return new_convolution(channels, channels, KERNELS[op])
    if op == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)
    return nn.Identity()


def new_convolution(i: int, o: int, size: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(i, o, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, new_norm(o))


def new_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False)


def module_name(edge: tuple[int, int]) -> str:
    """A name that a module may have."""
    target, source = edge
    return f"{target}_{source}"
