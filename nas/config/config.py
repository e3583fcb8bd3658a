"""The typed run configuration: what was asked for, checked once.

Hydra composes conf/*.yaml, `parse` turns the result into dataclasses, and nothing below sees an
OmegaConf object.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from optuna.samplers import BaseSampler
from torch import Generator

from nas.checks import check
from nas.config.errors import unknown_key, wrong_type
from nas.config.instantiate import build
from nas.config.sections import (
    BudgetConfig,
    DataConfig,
    RankConfig,
    SearchConfig,
    TargetConfig,
    TrainConfig,
    WandbConfig,
)
from search_spaces.cell import CellSpace
from search_spaces.vit import ViTSpace
from supernet.families.vit import FixedSizes, ViTSupernet
from supernet.sources.source import WeightSource


@dataclass
class Config:
    """Everything a stage may read. `parse` replaces the parts typed Any by what they name."""

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
    archs: str  # measure: a plan to measure, empty for none
    plan: int  # measure: architectures to plan for another machine, 0 for none
    out: str  # measure: the file that a plan, or what was measured of one, is written to
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
        check("plan", self.plan == 0 or self.plan >= 2, "0 for none, or at least 2", self.plan)
        check("plan", not (self.plan and self.archs), "0 where archs is given", self.plan)
        wanted = bool(self.plan or self.archs)
        rule = "the file to write, with plan or archs" if wanted else "empty without plan and archs"
        check("out", bool(self.out) == wanted, rule, self.out)
        check("out", not self.out or self.out != self.archs, "another file than archs", self.out)
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
    check_target(config)


def check_cells(config: Config) -> None:
    """Raises ValueError for what a supernet of cells cannot use."""
    roles = sorted(config.source)
    check("source", not roles, "empty for cells (source=none)", roles)
    size = config.data.img_size
    # Two steps of stride 2, whose shortcut and convolutions must give the same size.
    check("data.img_size", size % 4 == 0, "a multiple of 4 for cells", size)


def check_target(config: Config) -> None:
    direct = bool(config.target.table) and config.search.strategy == "direct"
    rule = "guided with target.table, since a sampler would propose what was not measured there"
    check("search.strategy", not direct, rule, config.search.strategy)
    verify = config.search.verify
    rule = "0 with target.table, where nothing can be measured again"
    check("search.verify", not (config.target.table and verify), rule, verify)
    size, trained = config.target.img_size, config.data.img_size
    if isinstance(config.space, CellSpace):
        check("target.img_size", size % 4 == 0, "a multiple of 4 for cells", size)
    else:
        rule = f"data.img_size ({trained}), which a transformer's position embeddings are for"
        check("target.img_size", size == trained, rule, size)


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
