"""The sections of a configuration, each checked on its own. Defaults live in conf/."""

import math
from dataclasses import dataclass, fields
from typing import Any

from timm.optim._optim_factory import list_optimizers

from nas.checks import check
from nas.hardware.timing import Effort

RUNTIMES = ("eager", "compile", "cuda_graph", "onnxruntime", "tensorrt")
MIN = "min_"  # begins the key of a lower bound
PREDICTORS = ("gaussian_process", "ridge", "svr", "boosting")


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
    runtime: str  # eager, compile, cuda_graph, onnxruntime, tensorrt
    table: str  # measurements of another machine instead, made by nas measure there; empty for none
    batch_size: int  # images in each timed pass
    img_size: int  # pixels a side
    dtype: str  # float32, bfloat16
    threads: int  # CPU threads, 0 for PyTorch's default
    warmup: int  # untimed passes in a block; blocks go on until one is no faster than the last
    passes: int  # least number of timed pairs of passes
    precision: float  # wanted half width of the 95 % interval of a latency, as a fraction of it
    time_limit_s: float  # of the timed passes of a subnet, whatever the interval then is
    compare: Any  # export: a list of runtimes whose latencies are put side by side

    def __post_init__(self) -> None:
        check_device("target.device", self.device)
        check("target.runtime", self.runtime in RUNTIMES, f"one of {RUNTIMES}", self.runtime)
        known = isinstance(self.compare, list) and all(name in RUNTIMES for name in self.compare)
        check("target.compare", known, f"a list of some of {RUNTIMES}", self.compare)
        for key in ("batch_size", "img_size"):
            check(f"target.{key}", getattr(self, key) > 0, "positive", getattr(self, key))
        dtypes = ("float32", "bfloat16")
        check("target.dtype", self.dtype in dtypes, f"one of {dtypes}", self.dtype)
        check_threads("target.threads", self.threads)
        check("target.warmup", self.warmup >= 1, "at least 1", self.warmup)
        rule = "at least 6, fewer have no 95 % interval"
        check("target.passes", self.passes >= 6, rule, self.passes)
        check("target.precision", 0 < self.precision < 1, "in (0, 1)", self.precision)
        limit = self.time_limit_s
        check("target.time_limit_s", math.isfinite(limit) and limit > 0, "positive", limit)

    def effort(self) -> Effort:
        return Effort(self.warmup, self.passes, self.precision, self.time_limit_s)


@dataclass
class BudgetConfig:
    """Bounds, None for none. `*_of_largest` are fractions of the largest subnet's figure.

    Those that begin with min_ are lower bounds: together with the upper one they make a window.
    """

    latency_ms: float | None  # milliseconds a batch on the target
    latency_of_largest: float | None
    params: int | None  # elements that the exported weights must store
    params_of_largest: float | None
    memory_mib: float | None  # peak MiB of weights, input and activations on the target
    memory_of_largest: float | None
    min_latency_ms: float | None
    min_latency_of_largest: float | None
    min_params: int | None
    min_params_of_largest: float | None
    min_memory_mib: float | None
    min_memory_of_largest: float | None

    def __post_init__(self) -> None:
        bounds = self.bounds()
        for key, value in bounds.items():
            check(f"budget.{key}", math.isfinite(value) and value > 0, "positive", value)
            upper = bounds.get(key.removeprefix("min_"), math.inf)
            check(f"budget.{key}", value <= upper, f"at most the upper bound, {upper:g}", value)

    def bounds(self) -> dict[str, float]:
        """The bounds that were set, by key."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in values.items() if value is not None}


@dataclass
class SearchConfig:
    strategy: str  # guided (the sampler runs on predictors), direct
    sampler: Any  # a class of optuna.samplers
    objective: str  # best (accuracy under the budgets), pareto (accuracy, latency and params)
    trials: int  # of the study, all processes and earlier runs together
    hours: float  # of this command, 0 for no limit
    patience: int  # trials without a better subnet within the budgets, 0 for no limit
    start: int  # first trials, drawn at random: what a sampler learns from, and its baseline
    round: int  # guided: trials from one fit of the predictors to the next
    predictor: str  # guided: kind of regression, auto for the best by cross-validation
    finalists: int  # best subnets that are measured again, side by side, before one is chosen
    verify: int  # times that the chosen one is measured again in the end
    verify_pause_s: float  # before each of them
    storage: str  # URL of an Optuna storage; empty for a journal file in the run folder

    def __post_init__(self) -> None:
        known = {
            "strategy": ("guided", "direct"),
            "objective": ("best", "pareto"),
            "predictor": ("auto", *PREDICTORS),
        }
        for key, values in known.items():
            value = getattr(self, key)
            check(f"search.{key}", value in values, f"one of {values}", value)
        for key in ("trials", "round", "finalists"):
            check(f"search.{key}", getattr(self, key) > 0, "positive", getattr(self, key))
        for key in ("hours", "patience", "start", "verify", "verify_pause_s"):
            value = getattr(self, key)
            check(f"search.{key}", 0 <= value < math.inf, "zero or positive", value)


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
