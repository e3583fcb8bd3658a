"""Architectures to be measured on another machine: planned here, measured there.

A plan holds architectures, their space and their task, but no weights and no data. It may come from
a stranger: the classes that it names are those of this package alone.
"""

import json
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from rich.console import Console

from nas.checks import check
from nas.config.config import Config
from nas.config.instantiate import build, build_space
from nas.config.run_folder import read_settings
from nas.exits import Stopped, stop_signals
from nas.files import read_records, write_atomic
from nas.hardware.device import device_card
from nas.measure.bench import effort_of
from nas.measure.latency_table import LatencyTable, read_arch
from nas.measure.meter import MOST_SESSIONS
from nas.measure.sessions import Sessions
from nas.records import Measurement
from nas.tracking import progress
from search_spaces.space import Arch, Space, to_record
from supernet.supernet import Supernet
from supernet.task import Task

MOST_TRIES = 50  # draws for each planned architecture; a small space may have no more
NODES = ("space", "task")  # of the configuration, alike in all lines of a plan


def write_plan(config: Config, run: Path, console: Console) -> None:
    """Writes `plan` architectures to `out`: the largest, the smallest, and random ones."""
    settings = read_settings(run)
    nodes = {key: settings[key] for key in NODES}
    lines = [json.dumps({"arch": to_record(arch), **nodes}) for arch in planned(config)]
    write_atomic(Path(config.out), "\n".join(lines) + "\n")
    console.print(
        f"{config.out}: {len(lines)} architectures, to be measured on the target by "
        f"nas measure archs={config.out} out=table.jsonl target=...",
        markup=False,
        soft_wrap=True,
    )


def planned(config: Config) -> list[Arch]:
    space, generator = config.space, Random(config.seed)
    archs = dict.fromkeys([space.largest(), space.smallest()])
    for _ in range(MOST_TRIES * config.plan):
        if len(archs) >= config.plan:
            break
        archs[space.sample(generator)] = None
    return list(archs)


@dataclass(frozen=True)
class Plan:
    """Architectures and what they are of."""

    archs: tuple[Arch, ...]
    space: Space[Arch]
    supernet: type[Supernet[Arch]]
    task: Task


def read_plan(path: Path) -> Plan:
    """Raises ValueError that names the file and the line unless it is a plan."""
    check("archs", path.is_file(), "a file that nas measure plan=... made", str(path))
    records = read_records(path)
    check("archs", bool(records), "a plan with at least one architecture", str(path))
    nodes = {key: records[0].get(key) for key in NODES}
    for number, record in enumerate(records, 1):
        same = record.keys() == {"arch", *NODES} and nodes.items() <= record.items()
        rule = "a plan, each line with arch, space and task, the latter two equal in all"
        check("archs", same, rule, f"{path} line {number}")
    try:
        space, supernet = build_space(nodes["space"])
        task: Task = build(nodes["task"], "task")
        check("task", hasattr(task, "example_inputs"), "a task", task)
        supernet.plain(space.largest(), supernet.sizes(space, task), device="meta")
    # Of PyTorch for sizes that are none, of a class that is no task.
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"archs must be a plan, got {path} line 1: {error}") from error
    archs = tuple(
        read_arch(record["arch"], space, f"archs must be a plan, got {path} line {number}")
        for number, record in enumerate(records, 1)
    )
    return Plan(archs, space, supernet, task)


def measure_plan(config: Config, console: Console) -> None:
    """Measures a plan's architectures on this machine into the table `out`.

    What the table holds already is measured again only where it is not known well, so that the
    same command goes on after a stop. Needs no run folder and no data.
    """
    plan, target = read_plan(Path(config.archs)), config.target
    inputs = plan.task.example_inputs(target.batch_size)
    sizes = plan.supernet.sizes(plan.space, plan.task)
    table = LatencyTable(Path(config.out), device_card(target, inputs), plan.space, sizes)
    model_of = partial(plan.supernet.plain, fixed=sizes)
    sessions = Sessions(table, model_of, inputs, effort_of(target))
    say = partial(console.print, markup=False, soft_wrap=True)
    say(table.card.describe())
    missing = [arch for arch in plan.archs if wants_more(table.get(arch), target.precision)]
    with (
        stop_signals() as stop,
        progress(console, "measure", total=len(plan.archs)) as bar,
        closing(sessions),
    ):
        bar.advance(len(plan.archs) - len(missing))
        for arch in missing:
            bar.advance(1, latency_ms=sessions.measure_more(arch).latency_ms)
            if stop:
                raise Stopped(stop[0])
    wide = sum(wants_more(table.get(arch), target.precision) for arch in plan.archs)
    say(
        f"{config.out}: {len(table.archs())} architectures; {wide} are known less well than "
        f"target.precision={target.precision:g} (the same command measures them again); the "
        f"reference's milliseconds ranged over {table.drift():.1%}"
    )


def wants_more(known: Measurement | None, precision: float) -> bool:
    """Whether an architecture is to be measured, for the first time or again."""
    if known is None:
        return True
    return known.half_width > precision and known.num_sessions < MOST_SESSIONS
