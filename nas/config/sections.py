"""The sections of a configuration, each checked on its own. Defaults live in conf/."""

import math
from dataclasses import dataclass
from typing import Any

from timm.optim._optim_factory import list_optimizers

from nas.checks import check, check_positive

RUNTIMES = ("eager", "compile", "cuda_graph", "onnxruntime", "tensorrt")


def check_not_negative(prefix: str, values: object, *keys: str) -> None:
    for key in keys:
        value = getattr(values, key)
        check(f"{prefix}{key}", 0 <= value < math.inf, "zero or positive", value)


def check_named(key: str, value: str, *names: str) -> None:
    check(key, value in names, f"one of {names}", value)


def check_device(key: str, device: str) -> None:
    index = device.removeprefix("cuda:")
    known = device in ("auto", "cpu", "cuda") or (index != device and index.isdecimal())
    check(key, known, "auto, cpu, cuda or cuda:N", device)


def check_threads(key: str, threads: int) -> None:
    # OpenMP ends the process where it is asked for more than it can start.
    check(key, 0 <= threads <= 1024, "in 0..1024", threads)


@dataclass
class DataConfig:
    name: str  # digits, cluttered_digits, image_folder, cifar10, cifar100
    root: str  # folder of the images; unused by digits and cluttered_digits
    targets: str  # csv of numbers to predict, below root or absolute; empty for classes
    columns: list[str]  # of targets, what is predicted
    img_size: int  # pixels
    in_chans: int
    num_classes: int  # 0 with targets
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
        made = "digits", "cluttered_digits"
        check_named("data.name", self.name, *made, "image_folder", "cifar10", "cifar100")
        rule = f"set for all but digits and cluttered_digits ({self.name})"
        check("data.root", bool(self.root) == (self.name not in made), rule, self.root)
        self.check_targets()
        check_positive("data.", self, "img_size", "in_chans", "batch_size", "resident_mib")
        # A stranger's configuration is tried out with an image.
        check("data.img_size", self.img_size <= 4096, "at most 4096", self.img_size)
        check_not_negative("data.", self, "workers", "shift", "mixup", "cutmix")
        for key in ("val_fraction", "test_fraction"):
            check(f"data.{key}", 0 < getattr(self, key) < 1, "between 0 and 1", getattr(self, key))
        for key in ("mean", "std"):
            value = getattr(self, key)
            rule = f"one number for each of {self.in_chans} channels"
            known = len(value) == self.in_chans and all(map(math.isfinite, value))
            check(f"data.{key}", known, rule, value)
        check("data.std", all(value > 0 for value in self.std), "positive", self.std)
        check_named("data.loader", self.loader, "resident", "stream", "auto")
        even = not self.mixes or self.batch_size % 2 == 0
        check("data.batch_size", even, "even with mixup or cutmix", self.batch_size)

    def check_targets(self) -> None:
        if not self.targets:
            check("data.columns", not self.columns, "empty without data.targets", self.columns)
            check_positive("data.", self, "num_classes")
            return
        known = self.name == "image_folder"
        check("data.targets", known, f"empty for {self.name}", self.targets)
        known = bool(self.columns) and len(set(self.columns)) == len(self.columns)
        check("data.columns", known, "columns of data.targets, each once", self.columns)
        for key, rule in {
            "num_classes": "0 with data.targets",
            "mixup": "0 for targets that are no classes",
            "cutmix": "0 for targets that are no classes",
        }.items():
            check(f"data.{key}", getattr(self, key) == 0, rule, getattr(self, key))

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


@dataclass
class TrainConfig:
    init: str  # folder of the run whose averaged weights training begins with, empty for new ones
    epochs: int
    opt: str  # a name of timm's optimizer factory
    lr: float
    min_lr: float
    warmup_epochs: int
    weight_decay: float  # not applied to norms, biases, position embeddings and coefficients
    update: str  # path (the weights move after each path), step (once, by the mean gradient)
    batches: str  # own (each path of a step has examples of its own), shared (all have the same)
    clip_grad: float  # largest gradient norm, 0 for none
    ema_decay: float  # of the averaged weights that are evaluated and exported
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
        check_positive(
            "train.", self, "epochs", "lr", "eval_every", "checkpoint_every", "log_every"
        )
        check_not_negative("train.", self, "min_lr", "warmup_epochs", "weight_decay", "clip_grad")
        check_not_negative("train.", self, "snapshots", "variance_draws")
        check_threads("train.threads", self.threads)
        check("train.min_lr", self.min_lr <= self.lr, f"at most train.lr ({self.lr})", self.min_lr)
        warmup = self.warmup_epochs
        check("train.warmup_epochs", warmup < self.epochs, "fewer than train.epochs", warmup)
        check("train.ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)", self.ema_decay)
        rule = "0 for none, or at least 2"
        check("train.variance_draws", self.variance_draws != 1, rule, self.variance_draws)
        known = self.opt in list_optimizers()
        check("train.opt", known, "a name of timm's optimizer factory", self.opt)
        check_device("train.device", self.device)
        check_named("train.update", self.update, "path", "step")
        check_named("train.batches", self.batches, "own", "shared")
        check_named("train.precision", self.precision, "fp32", "bf16", "auto")
        taken = {"smallest", "largest"} & self.probes.keys()
        check("train.probes", not taken, "named other than smallest and largest", sorted(taken))


@dataclass
class TargetConfig:
    device: str  # auto (CUDA if there is one, else the CPU), cpu, cuda, cuda:1, ...
    runtime: str  # eager, compile, cuda_graph, onnxruntime, tensorrt
    table: str  # measurements of another machine instead, made by nas measure there; empty for none
    batch_size: int  # examples in each timed pass
    dtype: str  # float32, bfloat16
    threads: int  # CPU threads, 0 for PyTorch's default
    warmup: int  # untimed passes in a block; blocks go on until one is no faster than the last
    passes: int  # least number of timed pairs of passes
    precision: float  # wanted half width of the 95 % interval of a latency, as a fraction of it
    time_limit_s: float  # of the timed passes of a subnet, whatever the interval then is
    compare: list[str]  # export: runtimes whose latencies are put side by side

    def __post_init__(self) -> None:
        check_device("target.device", self.device)
        check_named("target.runtime", self.runtime, *RUNTIMES)
        known = set(self.compare) <= set(RUNTIMES)
        check("target.compare", known, f"a list of some of {RUNTIMES}", self.compare)
        check_positive("target.", self, "batch_size", "time_limit_s")
        check_named("target.dtype", self.dtype, "float32", "bfloat16")
        check_threads("target.threads", self.threads)
        check("target.warmup", self.warmup >= 1, "at least 1", self.warmup)
        rule = "at least 6, fewer have no 95 % interval"
        check("target.passes", self.passes >= 6, rule, self.passes)
        check("target.precision", 0 < self.precision < 1, "in (0, 1)", self.precision)


@dataclass
class SearchConfig:
    strategy: str  # guided (the sampler runs on predictors), direct
    sampler: Any  # a class of optuna.samplers
    objective: str  # best (score under the budgets), pareto (score, latency and params)
    trials: int  # of the study, all processes and earlier runs together
    hours: float  # of this command, 0 for no limit
    patience: int  # trials without a better subnet within the budgets, 0 for no limit
    start: int  # first trials, drawn at random: what a sampler learns from, and its baseline
    round: int  # guided: trials from one fit of the predictors to the next
    finalists: int  # best subnets that are measured again, side by side, before one is chosen
    verify: int  # times that the chosen one is measured again in the end
    verify_pause_s: float  # before each of them
    storage: str  # URL of an Optuna storage; empty for a journal file in the run folder

    def __post_init__(self) -> None:
        check_named("search.strategy", self.strategy, "guided", "direct")
        check_named("search.objective", self.objective, "best", "pareto")
        check_positive("search.", self, "trials", "round", "finalists")
        check_not_negative(
            "search.", self, "hours", "patience", "start", "verify", "verify_pause_s"
        )


@dataclass
class RankConfig:
    table: str  # csv of true accuracies in percent, empty for none
    column: str  # of the table
    num_archs: int  # of the table, 0 for all
    standalone: int  # subnets to train alone for the ground truth, 0 for none
    standalone_epochs: int  # of each, 0 for train.epochs
    weights: str  # ema (averaged), raw
    score: str  # metric (the task's), loss (negated)
    batch_norm: str  # batch (the batch's own statistics), calibrated
    batch_size: int  # examples, at most
    calibration: int  # training batches for calibrated statistics
    resamples: int  # of the bootstrap
    seed: int

    def __post_init__(self) -> None:
        check_named("rank.weights", self.weights, "ema", "raw")
        check_named("rank.score", self.score, "metric", "loss")
        check_named("rank.batch_norm", self.batch_norm, "batch", "calibrated")
        for key in ("num_archs", "standalone"):  # one alone has no rank
            value = getattr(self, key)
            check(f"rank.{key}", value == 0 or value >= 2, "0 or at least 2", value)
        epochs = self.standalone_epochs
        check_not_negative("rank.", self, "standalone_epochs")
        check_positive("rank.", self, "calibration", "resamples")
        # A batch of one example has no statistics.
        check("rank.batch_size", self.batch_size > 1, "at least 2", self.batch_size)
        check("rank.seed", 0 <= self.seed < 2**32, "in [0, 2**32)", self.seed)
        both = bool(self.table and self.standalone)
        check("rank.standalone", not both, "0 where rank.table is given", self.standalone)
        unused = not self.table and self.num_archs > 0
        check("rank.num_archs", not unused, "0 without rank.table", self.num_archs)
        unused = not self.standalone and epochs > 0
        check("rank.standalone_epochs", not unused, "0 without rank.standalone", epochs)


@dataclass
class FinetuneConfig:
    epochs: int  # 0 for a tenth of train.epochs, from scratch for all of them
    lr: float  # 0 for half of train.lr, from scratch for all of it
    teacher: str  # largest (of the supernet, frozen), none

    def __post_init__(self) -> None:
        check_not_negative("finetune.", self, "epochs", "lr")
        check_named("finetune.teacher", self.teacher, "largest", "none")


@dataclass
class WandbConfig:
    mode: str  # disabled, offline, online
    project: str

    def __post_init__(self) -> None:
        check_named("wandb.mode", self.mode, "disabled", "offline", "online")
