"""What a configuration may say: every file of conf/ works, a bad value is refused by its key."""

import copy
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from nas.config.config import Config, parse
from nas.config.run_folder import compose_config, conf_dir, flatten, resolve
from nas.train.optimization import make_optimizer
from nas.train.weights import new_supernet
from search_spaces.cell import CellSpace

FILES = sorted(path.relative_to(conf_dir()) for path in conf_dir().glob("*/*.yaml"))
AGES = ["data.root=images", "data.columns=[age]"]
# What a file needs beside it, since it says so itself.
NEEDS = {
    "data/image_folder": ["data.root=images", "data.num_classes=3"],
    "data/image_targets": [*AGES, "task=regression"],
    "task/regression": [*AGES, "data=image_targets"],
    **{
        f"paths/{name}": ["distillation=none"]
        for name in ("uniform", "emphasis", "importance", "published")
    },
    "paths/single": [
        "distillation=none",
        "paths.arch={embed_dim:16,num_heads:[2],mlp_ratio:[1],rank:[4],num_atoms:3}",
    ],
    "distillation/frozen": ["train.init=runs/digits"],
    "space/nasbench201": ["source=none"],
    "source/none": ["space=nasbench201"],
}
BASE = compose_config([])
MISSING = object()


def changed(key: str, value: Any) -> DictConfig:
    raw = copy.deepcopy(BASE)
    parent, _, name = key.rpartition(".")
    node: Any = OmegaConf.select(raw, parent) if parent else raw
    OmegaConf.set_struct(raw, False)
    if value is MISSING:
        del node[name]
    else:
        node[name] = value
    return raw


def refusal(key: str, value: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 # the callers look at the message
        parse(changed(key, value))
    return str(caught.value)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_of_conf_makes_a_supernet(path: Path) -> None:
    group, name = path.parts[0], path.stem
    small = [] if group == "space" else ["space.embed_dim=[16]"]
    # The published spaces are large; one of their depths has every other option.
    small.append("space.depth=[2]" if group == "space" else "space.depth=[1]")
    small += ["space.patch_size=2"]  # the digits' size
    needs = NEEDS.get(f"{group}/{name}", [])
    if name.endswith("nasbench201") or "space=nasbench201" in needs:
        small = ["space.num_cells=1"]
    config = parse(compose_config([f"{group}={name}", *needs, *small]))
    supernet = new_supernet(config)
    assert all(parameter.isfinite().all() for parameter in supernet.parameters())


def test_image_folders_must_name_their_classes() -> None:
    with pytest.raises(ValueError, match=r"^data\.num_classes must be positive, got 0"):
        parse(compose_config(["data=image_folder", "data.root=images"]))


# Values

NAN, INFINITY = float("nan"), float("inf")
BAD_VALUES: list[tuple[str, Any, str]] = [
    ("run", "", "a folder"),
    ("seed", -1, "in [0, 2**32)"),
    ("seed", 2**32, "in [0, 2**32)"),
    ("pick", "worst", "best, or smallest, largest or a trial number"),
    ("data.name", "mnist", "one of"),
    ("data.name", "cifar10", "data.root must be set"),
    ("data.root", "images", "set for all but digits"),
    ("space.patch_size", 3, "a divisor of"),
    ("data.targets", "ages.csv", "empty for digits"),
    ("data.columns", ["age"], "empty without data.targets"),
    ("data.val_fraction", 0, "between 0 and 1"),
    ("data.val_fraction", 1, "between 0 and 1"),
    ("data.test_fraction", NAN, "between 0 and 1"),
    ("data.mean", [0.1, 0.2], "one number for each of 1 channels"),
    ("data.mean", [NAN], "one number"),
    ("data.std", [], "one number"),
    ("data.std", [0.0], "positive"),
    ("data.loader", "fast", "one of"),
    ("train.opt", "adamq", "timm's optimizer factory"),
    ("train.min_lr", 1.0, "at most train.lr"),
    ("train.warmup_epochs", 60, "fewer than train.epochs"),
    ("train.device", "gpu", "auto, cpu, cuda or cuda:N"),
    ("train.device", "cuda:", "auto, cpu, cuda or cuda:N"),
    ("train.precision", "fp16", "one of"),
    ("train.probes", {"largest": {}}, "named other than smallest and largest"),
    ("target.device", "cuda:-1", "auto, cpu, cuda or cuda:N"),
    ("target.batch_size", 0, "positive"),
    ("target.dtype", "int8", "one of"),
    ("target.threads", -1, "in 0..1024"),
    ("train.threads", 100_000, "in 0..1024"),
    ("target.warmup", 0, "at least 1"),
    ("target.passes", 5, "at least 6"),
    ("target.runtime", "jax", "one of"),
    ("target.compare", ["eager", "jax"], "a list of some of"),
    ("target.precision", 0.0, "in (0, 1)"),
    ("target.time_limit_s", 0.0, "positive"),
    ("budget.min_params", 0, "positive"),
    ("search.strategy", "wild", "one of"),
    ("search.finalists", 0, "positive"),
    ("search.patience", -1, "zero or positive"),
    ("plan", 1, "0 for none, or at least 2"),
    ("out", "x.jsonl", "empty without plan and archs"),
    ("search.objective", "fastest", "one of"),
    ("search.trials", 0, "positive"),
    ("wandb.mode", "on", "one of"),
    *((f"data.{name}", 0, "positive") for name in ("img_size", "in_chans", "num_classes")),
    *((f"data.{name}", 0, "positive") for name in ("batch_size", "resident_mib")),
    ("space.patch_size", 0, "positive"),
    *((f"data.{name}", -1, "zero or positive") for name in ("workers", "shift", "mixup")),
    *((f"data.{name}", INFINITY, "zero or positive") for name in ("mixup", "cutmix")),
    *((f"train.{name}", 0, "positive") for name in ("epochs", "lr", "eval_every")),
    *((f"train.{name}", 0, "positive") for name in ("checkpoint_every", "log_every")),
    *((f"train.{name}", -1, "zero or positive") for name in ("min_lr", "warmup_epochs")),
    *((f"train.{name}", NAN, "zero or positive") for name in ("weight_decay", "clip_grad")),
    ("train.ema_decay", 1.0, "in [0, 1)"),
    ("task.label_smoothing", 1.0, "in [0, 1)"),
    *((f"budget.{name}", 0, "positive") for name in BASE.budget),
    ("budget.latency_ms", INFINITY, "positive"),
]


@pytest.mark.parametrize(("key", "value", "rule"), BAD_VALUES, ids=str)
def test_a_bad_value_is_refused_with_key_rule_and_value(key: str, value: Any, rule: str) -> None:
    message = refusal(key, value)
    assert rule in message
    assert message.startswith(key) or rule.startswith("data.root")
    assert ", got " in message


def test_a_window_has_its_lower_end_below_its_upper_one() -> None:
    raw = changed("budget.params", 100)
    raw.budget.min_params = 100
    assert parse(raw).budget.record() == {"params": 100, "min_params": 100}
    raw.budget.min_params = 101
    with pytest.raises(ValueError, match=r"budget\.min_params must be at most the upper bound"):
        parse(raw)


def test_mixing_needs_an_even_batch() -> None:
    raw = changed("data.batch_size", 7)
    assert parse(raw).data.batch_size == 7
    raw.data.cutmix = 1.0
    with pytest.raises(ValueError, match=r"data\.batch_size must be even with mixup or cutmix"):
        parse(raw)


LEAVES = [key for key, _ in flatten(OmegaConf.to_container(BASE)) if "_target_" not in key]
TYPED = [key for key in LEAVES if key.split(".")[0] not in ("space", "source", "task")]
LISTS = ("data.mean", "data.std", "data.columns", "target.compare")


@pytest.mark.parametrize("key", TYPED)
def test_every_key_has_a_type(key: str) -> None:
    assert refusal(key, 0.5 if key in LISTS else {"a": 1}).startswith(key)


@pytest.mark.parametrize("key", ["run", "space", "source", "train", "train.lr", "data.mean"])
def test_no_key_may_be_missing(key: str) -> None:
    assert refusal(key, MISSING).startswith(key)


@pytest.mark.parametrize("section", ["data", "train", "target", "search", "wandb"])
def test_an_unknown_key_is_refused_with_the_nearest_ones(section: str) -> None:
    name = str(next(iter(BASE[section])))
    message = refusal(f"{section}.{name}x", 1)
    assert message.startswith(f"{section}.{name}x must be an option of {section} ({name}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.epochs", "many", "train.epochs must be of type int, got 'many'"),
        ("train.epochs", None, "train.epochs must be of type int, got None"),
        ("train.lr", "fast", "train.lr must be of type float, got 'fast'"),
        ("data.flip", "maybe", "data.flip must be of type bool, got 'maybe'"),
        ("data.mean", 0.3, "data.mean must be of type list[float], got 0.3"),
        ("data.mean", ["a"], "data.mean must be of type list[float], got ['a']"),
        ("budget.params", "few", "budget.params must be of type float | None, got 'few'"),
        ("budget.power", 3, "budget.power must be one of ('latency_ms', "),
        ("train", 3, "train must be a mapping, got 3"),
        ("paths.num_random", True, "paths.num_random must be of type int, got True"),
        (
            "distillation.temperature",
            "1",
            "distillation.temperature must be of type float, got '1'",
        ),
        ("distillation.temperature", 0, "distillation.temperature must be positive, got 0"),
        ("space.depth", [3, 2], "space.depth must be in ascending order without repeats"),
        ("space.size", 3, "space.size must be an argument of ViTSpace (embed_dim, depth,"),
        ("space", None, "space must be a mapping with a _target_, got None"),
        ("search.sampler", "tpe", "search.sampler must be a mapping with a _target_, got 'tpe'"),
        ("search.sampler.seed", 3, "search.sampler.seed must be left out"),
        ("paths.space", {}, "paths.space must be left out"),
    ],
)
def test_the_message_says_what_is_wrong(key: str, value: Any, message: str) -> None:
    assert refusal(key, value).startswith(message)


# Sections that must fit


def test_distillation_needs_paths_that_begin_with_the_largest() -> None:
    message = refusal("paths", {"_target_": "supernet.sampling.paths.UniformPaths"})
    assert message.startswith("distillation must be none unless paths begin with the largest")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (3, "train.probes.mine must be a mapping"),
        ({"embed_dim": 32}, "train.probes.mine: an architecture has the fields"),
        ({"num_heads": [2, 9]}, "train.probes.mine: blocks.1.num_heads must be one of [2, 3, 4]"),
        ({"embed_dim": 33}, "train.probes.mine: embed_dim must be one of [32, 48, 64], got 33"),
    ],
)
def test_a_probe_outside_the_space_is_named_with_its_choice(record: Any, message: str) -> None:
    arch = {"embed_dim": 32, "num_heads": [2, 2], "mlp_ratio": [1, 1], "rank": [0, 0]}
    if isinstance(record, dict) and len(record) == 1 and record != {"embed_dim": 32}:
        record = {**arch, "num_atoms": 2, **record}
    assert refusal("train.probes", {"mine": record}).startswith(message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("space.rank", [0], "space.rank must reach above 0, since source has factors"),
        ("space.num_atoms", [0, 2], "space.num_atoms must be positive, since source has atoms"),
        ("source.q", MISSING, "source must have exactly the roles"),
        ("source.q._partial_", False, "source.q: Sum.__init__() missing"),
        ("source.q.parts", [], "parts must have at least one source"),
        ("source.q.parts", [3], "source: 'int' object is not callable"),
        (
            "source.o",
            {"_target_": "supernet.sources.atoms.OneHot", "_partial_": True},
            "source.o must",
        ),
    ],
)
def test_sources_that_do_not_fit_the_space_are_refused(key: str, value: Any, message: str) -> None:
    assert refusal(key, value).startswith(message)


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("paths", "supernet.losses.Labels"),
        ("distillation", "supernet.sources.source.WeightSource"),
        ("search.sampler", "optuna.samplers.BaseSampler"),
    ],
)
def test_a_class_of_another_kind_is_refused(key: str, target: str) -> None:
    assert refusal(key, {"_target_": target}).startswith(key)


# Tasks and families

REGRESSION = ["task=regression", "data=image_targets", *AGES]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["task=regression"], "data.columns must name the targets of a regression, got none"),
        (
            [*REGRESSION, "task=classification"],
            "data.num_classes must be a positive integer, got 0; numbers as targets go with "
            "task=regression",
        ),
        ([*REGRESSION, "data.columns=[]"], "data.columns must be columns of data.targets, each"),
        ([*REGRESSION, "data.columns=[a,a]"], "data.columns must be columns of data.targets, each"),
        ([*REGRESSION, "data.num_classes=3"], "data.num_classes must be 0 with data.targets"),
        ([*REGRESSION, "data.mixup=0.8"], "data.mixup must be 0 for targets that are no classes"),
        ([*REGRESSION, "data.cutmix=1"], "data.cutmix must be 0 for targets that are no classes"),
        (
            [*REGRESSION, "distillation.temperature=2"],
            "distillation.temperature must be 1 for a regression, got 2",
        ),
        ([*REGRESSION, "+task.label_smoothing=0.1"], "task.label_smoothing must be an argument of"),
    ],
)
def test_a_task_and_what_does_not_go_with_it(options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}"):
        parse(compose_config(options))


def test_a_regression_has_an_output_for_each_column() -> None:
    config = parse(compose_config([*REGRESSION, "data.columns=[age,height]"]))
    assert config.task.num_outputs == 2
    assert config.task.facts()["columns"] == ["age", "height"]
    assert not config.data.mixes


@pytest.mark.parametrize(
    "target",
    ["os.system", "supernet.supernet.Supernet", "supernet.layers.Linear", "search_spaces.vit", 3],
)
def test_a_space_names_its_family_of_supernets(target: object) -> None:
    message = refusal("space.supernet", target)
    assert message.startswith("space.supernet must be a")
    assert message.endswith(repr(target))


def test_a_space_must_name_a_family() -> None:
    assert refusal("space.supernet", MISSING).startswith("space.supernet must be a class of")


def test_samplers_are_made_anew_for_whoever_uses_them() -> None:
    config = parse(changed("paths", BASE.paths))
    first, second = (config.paths(space=config.space) for _ in range(2))
    assert first is not second
    assert config.examples(num_examples=3) is not config.examples(num_examples=3)


# What a stranger may write

PLACES: list[tuple[str, Callable[[dict[str, object]], object]]] = [
    ("space", lambda node: node),
    ("paths", lambda node: node),
    ("distillation", lambda node: node),
    ("search.sampler", lambda node: node),
    ("search.sampler.crossover", lambda node: [[{"a": node}]]),
    ("source.q", lambda node: node),
    ("source.q.parts", lambda node: [node]),
    ("source.o.coefficients", lambda node: {**node, "_partial_": True}),
]
TARGETS: list[tuple[str, object]] = [
    ("space", "os.system"),
    ("space", "builtins.eval"),
    ("space", "supernet.sources.atoms.Atoms"),
    ("task", "torch.load"),
    ("task", "supernet.image_tasks.square_images"),
    ("space", "search_spaces.vit.Random"),
    ("space", "search_spaces.vit.ViTSpace.__class__"),
    ("space", ""),
    ("space", 3),
    ("space", None),
    ("source.q", "nas.files.write_atomic"),
    ("source.q", "supernet"),
    ("source.q", "supernet..sources.Atoms"),
    ("source.q", "supernet.evil.Evil"),
    ("source.q", "supernet.sources.torch.load"),
    ("source.q", "supernet.sources.Callable"),
    ("source.q", "supernet.sources.atoms.Atoms.weight"),
    ("source.q", "supernet.families.vit.VisionTransformer"),
    ("source.q", "supernet.families.vit.role_sizes"),
    ("search.sampler", "optuna.study.Study"),
    ("search.sampler", "optuna.samplersevil.Evil"),
    ("search.sampler", "optuna.samplers._base.abc.ABC"),
    ("search.sampler", "optuna.samplers._base.np.random.seed"),
    ("search.sampler", "optuna.samplers.TPESampler.__init__.__globals__"),
]


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears when the module evil, which can be imported, is."""
    path = tmp_path / "canary"
    code = f"import pathlib\npathlib.Path({str(path)!r}).touch()\nclass Evil: pass\n"
    (tmp_path / "evil.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return path


@pytest.mark.parametrize(("key", "wrap"), PLACES, ids=[key for key, _ in PLACES])
def test_nothing_else_is_imported_wherever_it_is_named(
    key: str, wrap: Callable[[dict[str, object]], object], canary: Path
) -> None:
    message = refusal(key, wrap({"_target_": "evil.Evil"}))
    assert message.startswith(key)
    assert "_target_ must be a class of" in message
    assert not canary.exists()


@pytest.mark.parametrize(("key", "target"), TARGETS, ids=str)
def test_only_a_class_of_the_components_package_may_be_named(key: str, target: object) -> None:
    assert refusal(key, {"_target_": target}).startswith(f"{key}._target_ must be a class of")


@pytest.mark.parametrize("name", ["_args_", "_recursive_", "_convert_"])
@pytest.mark.parametrize("key", ["space", "paths", "search.sampler", "source.q"])
def test_special_names_of_hydra_are_refused(key: str, name: str) -> None:
    assert refusal(f"{key}.{name}", False).startswith(f"{key}.{name} must be an argument of")


@pytest.mark.parametrize("backslashes", range(4))
@pytest.mark.parametrize("text", ["${oc.env:TOKEN}", "${${wandb.mode}:TOKEN}", "x ${oc.env:A,b}"])
def test_interpolations_may_not_call_anything(
    text: str, backslashes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    raw = changed("data.root", "\\" * backslashes + text)
    raw.wandb.mode = "oc.env"
    with pytest.raises(ValueError, match=r"^data\.root must be a value") as caught:
        resolve(raw)
    assert "s3cret" not in str(caught.value)


def test_an_interpolation_may_not_become_a_call() -> None:
    raw = changed("data.root", r"\${oc.env${wandb.mode}TOKEN}")
    raw.wandb.mode = ":"
    with pytest.raises(ValueError, match=r"data\.root"):
        resolve(raw)


def test_an_interpolation_may_name_another_key() -> None:
    assert compose_config(["seed=7", "wandb.project=seed-${seed}"]).wandb.project == "seed-7"


@pytest.mark.parametrize("backslashes", [1, 3, 5])
def test_a_component_holds_nothing_to_be_worked_out_later(backslashes: int, canary: Path) -> None:
    text = "\\" * backslashes + "${oc.create:{_target_: evil.Evil}}"
    assert refusal("search.sampler.gamma", text).startswith("search.sampler.gamma")
    assert not canary.exists()


@pytest.mark.parametrize("override", ["hydra.searchpath=[pkg://evil]", "+ hydra.x=1", "hydra/x=y"])
def test_options_of_hydra_itself_are_refused(override: str, canary: Path) -> None:
    with pytest.raises(ValueError, match="an option must be none of Hydra's own"):
        compose_config([override])
    assert not canary.exists()


def test_parse_leaves_the_raw_configuration_alone() -> None:
    raw = copy.deepcopy(BASE)
    config = parse(raw)
    assert isinstance(config, Config)
    assert raw == BASE


# Cells

CELLS = ["space=nasbench201", "source=none"]


def test_a_source_of_cells_is_refused_as_it_has_no_effect() -> None:
    with pytest.raises(ValueError, match=r"^source must be .*\['fc1', 'fc2', 'k', .*\]$"):
        parse(compose_config(["space=nasbench201"]))


def test_a_vision_transformer_without_sources_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^source must have exactly the roles"):
        parse(compose_config(["source=none"]))


def test_images_of_cells_must_halve_twice() -> None:
    folder = ["data=image_folder", "data.root=images", "data.num_classes=3"]
    with pytest.raises(ValueError, match=r"^data\.img_size must be a multiple of 4 for cells, got"):
        parse(compose_config([*CELLS, *folder, "data.img_size=30"]))


def test_cells_have_no_patches() -> None:
    with pytest.raises(ValueError, match=r"^space\.patch_size must be an argument of CellSpace"):
        parse(compose_config([*CELLS, "+space.patch_size=3"]))


def test_the_cells_of_the_benchmark_are_trained_as_published() -> None:
    config = parse(compose_config(["experiment=nasbench201"]))
    assert isinstance(config.space, CellSpace)
    assert (config.space.channels, config.space.num_cells) == (16, 5)
    assert config.task.label_smoothing == 0
    assert (config.data.name, config.data.mixup, config.data.cutmix) == ("cifar10", 0, 0)
    optimizer = make_optimizer(config.train, new_supernet(config))
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 2.5e-4]
    for group in optimizer.param_groups:
        assert (group["momentum"], group["nesterov"], group["lr"]) == (0.9, False, 0.05)
