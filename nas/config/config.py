"""The typed run configuration: what was asked for, checked once.

Hydra composes conf/*.yaml, `parse` turns the result into values, and nothing below sees an
OmegaConf object.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from keyword import iskeyword
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from optuna.samplers import BaseSampler

from nas.budgets import Budgets
from nas.checks import check
from nas.config.errors import unknown_key, wrong_type
from nas.config.instantiate import build, build_space
from nas.config.sections import (
    DataConfig,
    FinetuneConfig,
    RankConfig,
    SearchConfig,
    TargetConfig,
    TrainConfig,
    WandbConfig,
)
from search_spaces.space import Arch, Space
from supernet.losses import Teaching
from supernet.sampling.examples import DataSampler
from supernet.sampling.paths import PathSampler
from supernet.sources.source import SourceFactory
from supernet.supernet import Supernet
from supernet.task import Task


@dataclass
class Plain:
    """The options that are used as they are written."""

    run: str  # folder of the run
    seed: int
    data: DataConfig
    train: TrainConfig
    target: TargetConfig
    search: SearchConfig
    rank: RankConfig
    archs: str  # measure: a plan to measure, empty for none
    plan: int  # measure: architectures to plan for another machine, 0 for none
    out: str  # measure: the file that a plan, or what was measured of one, is written to
    pick: str  # export: best of the search, or a trial's number
    arch: str  # export: an architecture file instead; empty for none
    from_: str  # finetune: supernet (inherited weights), scratch; the key is `from`
    finetune: FinetuneConfig
    wandb: WandbConfig

    def __post_init__(self) -> None:
        check("run", bool(self.run), "a folder", self.run)
        named = self.pick in ("smallest", "largest") or self.pick.isdecimal()
        known = self.pick == "best" or (named and not self.arch)
        rule = "best, or smallest, largest or a trial number where arch is not given"
        check("pick", known, rule, self.pick)
        check("plan", self.plan == 0 or self.plan >= 2, "0 for none, or at least 2", self.plan)
        check("plan", not (self.plan and self.archs), "0 where archs is given", self.plan)
        wanted = bool(self.plan or self.archs)
        rule = "the file to write, with plan or archs" if wanted else "empty without plan and archs"
        check("out", bool(self.out) == wanted, rule, self.out)
        check("out", not self.out or self.out != self.archs, "another file than archs", self.out)
        check("from", self.from_ in ("supernet", "scratch"), "supernet or scratch", self.from_)
        taught = self.finetune.teacher != "none"
        inherits = self.from_ == "supernet"
        rule = "none with from=scratch, which has no supernet"
        check("finetune.teacher", inherits or not taught, rule, self.finetune.teacher)
        check("seed", 0 <= self.seed < 2**32, "in [0, 2**32)", self.seed)


@dataclass
class Options(Plain):
    """Every key with the type of what may be written there; those of Any name a class."""

    space: Any
    task: Any
    source: dict[str, Any]  # of each role
    paths: Any
    examples: Any
    distillation: Any
    budget: dict[str, float | None]  # None for no bound


@dataclass
class Config(Plain):
    """Everything a stage may read. Samplers are factories: what has state is its user's."""

    space: Space[Arch]
    supernet: type[Supernet[Arch]]
    task: Task  # as the options say; that of a data set knows its targets as well
    source: dict[str, SourceFactory]  # for each role; empty where a family has none
    paths: Callable[..., PathSampler[Arch]]  # called with space
    examples: Callable[..., DataSampler]  # called with num_examples
    distillation: Teaching
    budget: Budgets


def parse(raw: DictConfig) -> Config:
    """The checked configuration; raises ValueError that names the key."""
    try:
        # A field cannot have the name of a reserved word (from); ours end in an underscore.
        nodes = {str(key): raw._get_node(key) for key in raw}
        renamed = {f"{key}_" if iskeyword(key) else key: node for key, node in nodes.items()}
        merged = OmegaConf.merge(OmegaConf.structured(Options), renamed)
        options = cast(Options, OmegaConf.to_object(merged))
    except (ConfigAttributeError, ConfigKeyError) as error:
        raise ValueError(unknown_key(error)) from error
    except OmegaConfBaseException as error:
        raise ValueError(wrong_type(error, raw, Options)) from error
    for key, limit in options.budget.items():
        check(f"budget.{key}", limit is None or isinstance(limit, float), "a number", limit)
    space, supernet = build_space(options.space)
    config = Config(
        **{field.name: getattr(options, field.name) for field in fields(Plain)},
        space=space,
        supernet=supernet,
        task=build(options.task, "task"),
        source={role: build(node, f"source.{role}") for role, node in options.source.items()},
        paths=partial(build, options.paths, "paths"),
        examples=partial(build, options.examples, "examples"),
        distillation=build(options.distillation, "distillation"),
        budget=Budgets.of(options.budget),
    )
    check_task(config)
    check_training(config)
    check_search(config)
    return config


def check_task(config: Config) -> None:
    """Whether data, space and supernet suit the task."""
    parts = ("example_inputs", "num_outputs", "metric", "label_smoothing")
    check("task", all(hasattr(config.task, part) for part in parts), "a task", config.task)
    known, data = vars(config.task), vars(config.data)
    for key in known.keys() & data.keys():
        value = list(known[key]) if isinstance(known[key], tuple) else known[key]
        check(f"task.{key}", value == data[key], f"data.{key} ({data[key]})", value)
    config.supernet.sizes(config.space, config.task)
    try:
        config.supernet.check_sources(config.space, config.source)
    except TypeError as error:  # of a source that lacks an argument
        raise ValueError(f"source: {error}") from error


def check_training(config: Config) -> None:
    """Whether samplers and distillation are such, and go together."""
    examples, distillation = config.examples(num_examples=1), config.distillation
    check("examples", hasattr(examples, "draw_epoch"), "a data sampler", examples)
    check("distillation", hasattr(distillation, "teacher"), "a way of teaching", distillation)
    paths = config.paths(space=config.space)
    check("paths", hasattr(paths, "draw"), "a path sampler", paths)
    rule = "the run whose largest subnet teaches (distillation)"
    check("train.init", distillation.teacher != "init" or config.train.init != "", rule, "none")
    if distillation.teacher == "step" and not paths.begins_with_largest:
        raise ValueError(
            "distillation must be none unless paths begin with the largest subnet, which teaches "
            f"the others, got {type(paths).__name__}"
        )
    outputs = torch.zeros(1, config.task.num_outputs)
    try:
        distillation(config.task, outputs, torch.zeros(1), outputs)
    except ValueError as error:  # of an option that has no effect with this task
        raise ValueError(f"distillation.{error}") from error
    for name, record in config.train.probes.items():
        key = f"train.probes.{name}"
        check(key, isinstance(record, Mapping), "a mapping, an architecture", record)
        try:
            config.space.from_record(record)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error


def check_search(config: Config) -> None:
    search, table = config.search, config.target.table
    sampler = build(search.sampler, "search.sampler", seed=config.seed)
    check("search.sampler", isinstance(sampler, BaseSampler), "a sampler", sampler)
    rule = "guided with target.table, since a sampler would propose what was not measured there"
    check("search.strategy", not table or search.strategy == "guided", rule, search.strategy)
    rule = "0 with target.table, where nothing can be measured again"
    check("search.verify", not table or search.verify == 0, rule, search.verify)
