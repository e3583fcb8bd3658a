"""The typed run configuration: what was asked for, checked once.

Hydra composes conf/*.yaml, `parse` turns the result into dataclasses, and nothing below sees an
OmegaConf object. Defaults live in conf/; a field here has none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from optuna.samplers import BaseSampler
from timm.optim._optim_factory import list_optimizers
from torch import Generator

from nas.complaints import unknown_key, wrong_type
from nas.components import build
from search_spaces.cell import CellSpace
from search_spaces.vit import ViTSpace
from supernet.plain import FixedSizes
from supernet.sources import WeightSource
from supernet.vit import ViTSupernet


def check(key: str, holds: bool, rule: str, value: object) -> None:
    """Raises ValueError that names the key, the rule and what came, unless the rule holds."""
    if not holds:
        raise ValueError(f"{key} must be {rule}, got {value!r}")


def check_device(key: str, device: str) -> None:
    index = device.removeprefix("cuda:")
    known = device in ("auto", "cpu", "cuda") or (index != device and index.isdecimal())
    check(key, known, "auto, cpu, cuda or cuda:N", device)


def check_threads(key: str, threads: int) -> None:
    # OpenMP ends the process where it is asked for more than it can start.
    check(key, 0 <= threads <= 1024, "in 0..1024", threads)


@dataclass
class DataConfig:
    name: str  # digits, image_folder, cifar10, cifar100
    root: str  # folder of the images; unused by digits
    img_size: int  # pixels
    patch_size: int  # pixels, of vision transformers
    in_chans: int
    num_classes: int
    mean: list[float]  # per channel, of pixels in 0..1
    std: list[float]
    val_fraction: float  # of the training images, held out for search
    test_fraction: float  # of all images, where the data set has no test split of its own
    batch_size: int
    loader: str  # resident (tensors on the device), stream (timm's loader), auto
    resident_mib: int  # auto keeps a data set resident up to this size
    workers: int  # loader processes of stream
    shift: int  # largest random translation in pixels (resident)
    flip: bool  # random horizontal flip
    auto_augment: str  # timm's auto-augment policy (stream), empty for none
    mixup: float  # alpha, 0 for none
    cutmix: float  # alpha, 0 for none

    def __post_init__(self) -> None:
        names = ("digits", "image_folder", "cifar10", "cifar100")
        check("data.name", self.name in names, f"one of {names}", self.name)
        needs_root = self.name != "digits"
        check(
            "data.root",
            bool(self.root) == needs_root,
            f"set for all but digits ({self.name})",
            self.root,
        )
        for key in (
            "img_size",
            "patch_size",
            "in_chans",
            "num_classes",
            "batch_size",
            "resident_mib",
        ):
            check(f"data.{key}", getattr(self, key) > 0, "positive", getattr(self, key))
        for key in ("workers", "shift", "mixup", "cutmix"):
            value = getattr(self, key)
            check(f"data.{key}", math.isfinite(value) and value >= 0, "zero or positive", value)
        for key in ("val_fraction", "test_fraction"):
            check(f"data.{key}", 0 < getattr(self, key) < 1, "between 0 and 1", getattr(self, key))
        for key in ("mean", "std"):
            value = getattr(self, key)
            rule = f"one number for each of {self.in_chans} channels"
            check(
                f"data.{key}",
                len(value) == self.in_chans and all(map(math.isfinite, value)),
                rule,
                value,
            )
        check("data.std", all(value > 0 for value in self.std), "positive", self.std)
        loaders = ("resident", "stream", "auto")
        check("data.loader", self.loader in loaders, f"one of {loaders}", self.loader)
        mixes = self.mixup > 0 or self.cutmix > 0
        check(
            "data.batch_size",
            not mixes or self.batch_size % 2 == 0,
            "even with mixup or cutmix",
            self.batch_size,
        )


@dataclass
class TrainConfig:
    epochs: int
    opt: str  # a name of timm's optimizer factory
    lr: float
    min_lr: float
    warmup_epochs: int
    weight_decay: float  # not applied to norms, biases, position embeddings and coefficients
    label_smoothing: float
    clip_grad: float  # largest gradient norm, 0 for none
    ema_decay: float  # of the averaged weights that are evaluated and exported
    schedule: str  # cosine, complexity (slower decay for larger subnets)
    momentum_choice: str  # choice whose options have an optimizer state each, empty for none
    snapshots: int  # last epochs whose weights are kept for nas rank
    variance_draws: int  # at each evaluation, to measure the gradient's variance; 0 for none
    device: str  # auto (CUDA if there is one, else the CPU), cpu, cuda, cuda:1, ...
    precision: str  # fp32, bf16, auto (bf16 where the device gains from it)
    threads: int  # CPU threads, 0 for PyTorch's default
    eval_every: int  # epochs
    checkpoint_every: int  # steps
    log_every: int  # steps
    probes: dict[str, Any]  # named subnets, evaluated beside smallest and largest

    def __post_init__(self) -> None:
        for key in ("epochs", "lr", "eval_every", "checkpoint_every", "log_every"):
            value = getattr(self, key)
            check(f"train.{key}", math.isfinite(value) and value > 0, "positive", value)
        check_threads("train.threads", self.threads)
        for key in (
            "min_lr",
            "warmup_epochs",
            "weight_decay",
            "clip_grad",
            "snapshots",
            "variance_draws",
        ):
            value = getattr(self, key)
            check(f"train.{key}", math.isfinite(value) and value >= 0, "zero or positive", value)
        check("train.min_lr", self.min_lr <= self.lr, f"at most train.lr ({self.lr})", self.min_lr)
        check(
            "train.warmup_epochs",
            self.warmup_epochs < self.epochs,
            "fewer than train.epochs",
            self.warmup_epochs,
        )
        for key in ("label_smoothing", "ema_decay"):
            check(f"train.{key}", 0 <= getattr(self, key) < 1, "in [0, 1)", getattr(self, key))
        rule = "0 for none, or at least 2"
        check("train.variance_draws", self.variance_draws != 1, rule, self.variance_draws)
        schedules = ("cosine", "complexity")
        check("train.schedule", self.schedule in schedules, f"one of {schedules}", self.schedule)
        for key in ("warmup_epochs", "min_lr"):
            unused = self.schedule == "complexity" and getattr(self, key)
            rule = "0 with train.schedule=complexity"
            check(f"train.{key}", not unused, rule, getattr(self, key))
        known = self.opt in list_optimizers()
        check("train.opt", known, "a name of timm's optimizer factory", self.opt)
        check_device("train.device", self.device)
        precisions = ("fp32", "bf16", "auto")
        check(
            "train.precision", self.precision in precisions, f"one of {precisions}", self.precision
        )
        taken = {"smallest", "largest"} & self.probes.keys()
        check("train.probes", not taken, "named other than smallest and largest", sorted(taken))


@dataclass
class TargetConfig:
    device: str  # auto (CUDA if there is one, else the CPU), cpu, cuda, cuda:1, ...
    batch_size: int  # images in each timed pass
    dtype: str  # float32, bfloat16
    threads: int  # CPU threads, 0 for PyTorch's default
    warmup: int  # untimed passes of each model
    passes: int  # timed pairs of passes

    def __post_init__(self) -> None:
        check_device("target.device", self.device)
        check("target.batch_size", self.batch_size > 0, "positive", self.batch_size)
        dtypes = ("float32", "bfloat16")
        check("target.dtype", self.dtype in dtypes, f"one of {dtypes}", self.dtype)
        check_threads("target.threads", self.threads)
        check("target.warmup", self.warmup >= 1, "at least 1", self.warmup)
        check(
            "target.passes",
            self.passes >= 6,
            "at least 6, fewer have no 95 % interval",
            self.passes,
        )


@dataclass
class BudgetConfig:
    """Upper bounds, None for none. `*_of_largest` are fractions of the largest subnet's figure."""

    latency_ms: float | None  # milliseconds a batch on the target
    latency_of_largest: float | None
    params: int | None  # elements that the exported weights must store
    params_of_largest: float | None
    memory_mib: float | None  # peak MiB of weights, input and activations on the target
    memory_of_largest: float | None

    def __post_init__(self) -> None:
        for key, value in self.bounds().items():
            check(f"budget.{key}", math.isfinite(value) and value > 0, "positive", value)

    def bounds(self) -> dict[str, float]:
        """The bounds that were set, by key."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in values.items() if value is not None}


@dataclass
class SearchConfig:
    sampler: Any  # a class of optuna.samplers
    objective: str  # best (accuracy under the budgets), pareto (accuracy, latency and params)
    trials: int  # of the study, all processes and earlier runs together
    storage: str  # URL of an Optuna storage; empty for a journal file in the run folder

    def __post_init__(self) -> None:
        objectives = ("best", "pareto")
        check(
            "search.objective", self.objective in objectives, f"one of {objectives}", self.objective
        )
        check("search.trials", self.trials > 0, "positive", self.trials)


@dataclass
class RankConfig:
    table: str  # csv of true accuracies in percent, empty for none
    column: str  # of the table
    num_archs: int  # of the table, 0 for all
    standalone: int  # subnets to train alone for the ground truth, 0 for none
    standalone_epochs: int  # of each, 0 for train.epochs
    weights: str  # ema (averaged), raw
    score: str  # top1, loss (negated)
    batch_norm: str  # batch (the batch's own statistics), calibrated
    batch_size: int  # images, at most
    calibration: int  # batches of training images for calibrated statistics
    resamples: int  # of the bootstrap
    seed: int

    def __post_init__(self) -> None:
        known = {
            "weights": ("ema", "raw"),
            "score": ("top1", "loss"),
            "batch_norm": ("batch", "calibrated"),
        }
        for key, values in known.items():
            value = getattr(self, key)
            check(f"rank.{key}", value in values, f"one of {values}", value)
        for key in ("num_archs", "standalone"):  # one alone has no rank
            value = getattr(self, key)
            check(f"rank.{key}", value == 0 or value >= 2, "0 or at least 2", value)
        epochs = self.standalone_epochs
        check("rank.standalone_epochs", epochs >= 0, "zero or positive", epochs)
        for key in ("calibration", "resamples"):
            check(f"rank.{key}", getattr(self, key) > 0, "positive", getattr(self, key))
        # A batch of one image has no statistics.
        check("rank.batch_size", self.batch_size > 1, "at least 2", self.batch_size)
        check("rank.seed", 0 <= self.seed < 2**32, "in [0, 2**32)", self.seed)
        both = bool(self.table and self.standalone)
        check("rank.standalone", not both, "0 where rank.table is given", self.standalone)
        unused = not self.table and self.num_archs > 0
        check("rank.num_archs", not unused, "0 without rank.table", self.num_archs)
        unused = not self.standalone and epochs > 0
        check("rank.standalone_epochs", not unused, "0 without rank.standalone", epochs)


@dataclass
class WandbConfig:
    mode: str  # disabled, offline, online
    project: str

    def __post_init__(self) -> None:
        modes = ("disabled", "offline", "online")
        check("wandb.mode", self.mode in modes, f"one of {modes}", self.mode)


@dataclass
class Config:
    """Everything a stage may read. `parse` replaces the five parts typed Any by what they name."""

    run: str  # folder of the run
    seed: int
    space: Any  # a ViTSpace or a CellSpace
    source: dict[str, Any]  # a factory of weight sources for each role; none for cells
    paths: Any  # a PathSampler
    examples: Any  # a factory of DataSamplers, called with num_examples
    distillation: Any  # a Teaching
    data: DataConfig
    train: TrainConfig
    target: TargetConfig
    budget: BudgetConfig
    search: SearchConfig
    rank: RankConfig
    pick: str  # export: best of the search, or a trial's number
    arch: str  # export: an architecture file instead; empty for none
    wandb: WandbConfig

    def __post_init__(self) -> None:
        check("run", bool(self.run), "a folder", self.run)
        named = self.pick in ("smallest", "largest") or self.pick.isdecimal()
        known = self.pick == "best" or (named and not self.arch)
        check(
            "pick",
            known,
            "best, or smallest, largest or a trial number where arch is not given",
            self.pick,
        )
        check("seed", 0 <= self.seed < 2**32, "in [0, 2**32)", self.seed)


def parse(raw: DictConfig) -> Config:
    """The checked configuration; raises ValueError that names the key."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), raw)
        config = cast(Config, OmegaConf.to_object(merged))
    except (ConfigAttributeError, ConfigKeyError) as error:
        raise ValueError(unknown_key(error)) from error
    except OmegaConfBaseException as error:
        raise ValueError(wrong_type(error, raw, Config)) from error
    config.space = build(config.space, "space")
    config.source = {role: build(node, f"source.{role}") for role, node in config.source.items()}
    config.paths = build(config.paths, "paths", space=config.space)
    config.examples = partial(build, config.examples, "examples")
    config.distillation = build(config.distillation, "distillation")
    sampler = build(config.search.sampler, "search.sampler", seed=config.seed)
    known = isinstance(config.space, ViTSpace | CellSpace)
    check("space", known, "a ViTSpace or a CellSpace", config.space)
    check("paths", hasattr(config.paths, "draw"), "a path sampler", config.paths)
    data_sampler = config.examples(num_examples=1)
    check("examples", hasattr(data_sampler, "draw_epoch"), "a data sampler", data_sampler)
    teaches = hasattr(config.distillation, "needs_teacher")
    check("distillation", teaches, "a way of teaching", config.distillation)
    check("search.sampler", isinstance(sampler, BaseSampler), "a sampler", sampler)
    check_together(config)
    return config


def check_together(config: Config) -> None:
    """Rules that hold between sections."""
    if config.distillation.needs_teacher and not config.paths.begins_with_largest:
        raise ValueError(
            "distillation must be none unless paths begin with the largest subnet, which teaches "
            f"the others, got {type(config.paths).__name__}"
        )
    settings = config.train
    single = not config.paths.begins_with_largest
    for key, used in {
        "schedule": settings.schedule == "complexity",
        "momentum_choice": bool(settings.momentum_choice),
    }.items():
        rule = "left alone unless paths are of one subnet a step (paths=uniform)"
        check(f"train.{key}", single or not used, rule, getattr(settings, key))
    names = ("", *config.space.choices())
    known = settings.momentum_choice in names
    check("train.momentum_choice", known, "a choice of the space", settings.momentum_choice)
    for name, record in settings.probes.items():
        key = f"train.probes.{name}"
        check(key, isinstance(record, Mapping), "a mapping, an architecture", record)
        try:
            config.space.from_record(record)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
    if isinstance(config.space, CellSpace):
        check_cells(config)
    else:
        check_transformers(config)


def check_cells(config: Config) -> None:
    """Raises ValueError for what a supernet of cells cannot use."""
    roles = sorted(config.source)
    check("source", not roles, "empty for cells (source=none)", roles)
    size = config.data.img_size
    # Two steps of stride 2, whose shortcut and convolutions must give the same size.
    check("data.img_size", size % 4 == 0, "a multiple of 4 for cells", size)


def check_transformers(config: Config) -> None:
    size, patch_size = config.data.img_size, config.data.patch_size
    check("data.patch_size", size % patch_size == 0, f"a divisor of img_size ({size})", patch_size)
    check_source(config)


def check_source(config: Config) -> None:
    """Builds the sources in the smallest supernet that has the space's atoms and ranks."""
    small = {"embed_dim": (1,), "depth": (1,), "num_heads": (1,), "mlp_ratio": (1,), "head_dim": 1}
    fixed = FixedSizes(img_size=1, patch_size=1, in_chans=1, num_classes=1, head_dim=1)
    space = replace(config.space, **small)
    try:
        supernet = ViTSupernet(space, fixed, config.source, generator=Generator())
    except TypeError as error:
        raise ValueError(f"source: {error}") from error
    for role in config.source:
        source = supernet.linear(role).source
        check(f"source.{role}", isinstance(source, WeightSource), "a weight source", source)
