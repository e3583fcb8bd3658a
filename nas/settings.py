"""The sections of a configuration, each checked on its own. Defaults live in conf/."""

import math
from dataclasses import dataclass, fields
from typing import Any

from timm.optim._optim_factory import list_optimizers


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
