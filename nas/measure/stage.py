"""Stage 2: what subnets cost on the target, here or on another machine. Writes latency.jsonl.

For another machine a plan, which holds architectures and sizes but no weights, is written here,
measured there with nothing but this package, and the table that comes back is searched here.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.console import Console
from torch import nn

from nas.checks import check
from nas.config.config import Config
from nas.exits import Stopped, stop_signals
from nas.files import locked, read_records, write_atomic
from nas.hardware.device import device_card, device_lock
from nas.measure.bench import Bench
from nas.measure.feasibility import print_feasibility, three_subnets
from nas.measure.latency_table import LatencyTable, Measurement
from nas.measure.meter import MOST_SESSIONS, CostMeter, reference_record
from nas.tracking import progress
from nas.train.weights import build_plain, make_supernet

MOST_TRIES = 50  # draws for each planned architecture; a small space may have no more


def measure_space(config: Config, run: Path, console: Console) -> None:
    """Prints what subnets cost and the budgets they meet, or writes or measures a plan."""
    if config.plan:
        write_plan(config, console)
    elif config.archs:
        measure_plan(config, console)
    else:
        supernet = make_supernet(config)
        meter = CostMeter(config, run, supernet)
        archs = three_subnets(config, supernet)
        bounds = config.budget.bounds()
        costs = {name: meter.costs(arch, bounds).record() for name, arch in archs.items()}
        meter.close()
        print_feasibility(config, meter, costs, console)


def write_plan(config: Config, console: Console) -> None:
    """Writes `plan` architectures to `out`: the largest, the smallest, and random ones."""
    space, generator = config.space, Random(config.seed)
    archs = list(dict.fromkeys([space.largest(), space.smallest()]))
    for _ in range(MOST_TRIES * config.plan):
        if len(archs) >= config.plan:
            break
        arch = space.sample(generator)
        if arch not in archs:
            archs.append(arch)
    head = reference_record(make_supernet(config), archs[0])
    common = {"model": head["model"], "img_size": config.target.img_size}
    lines = [json.dumps({"arch": asdict(arch), **common}) for arch in archs]
    write_atomic(Path(config.out), "\n".join(lines) + "\n")
    console.print(
        f"{config.out}: {len(archs)} architectures, to be measured on the target by "
        f"nas measure archs={config.out} out=table.jsonl target=...",
        markup=False,
        soft_wrap=True,
    )


@dataclass(frozen=True)
class Plan:
    """Architectures as records, the first one being the reference of the others."""

    archs: list[dict[str, Any]]
    model: dict[str, Any]  # sizes that all have in common
    img_size: int

    def build(self, arch: Mapping[str, Any]) -> nn.Module:
        return build_plain(arch, self.model)


def read_plan(path: Path) -> Plan:
    """Raises ValueError that names the file and the line unless it is a plan."""
    check("archs", path.is_file(), "a file that nas measure plan=... made", str(path))
    records = read_records(path)
    check("archs", bool(records), "a plan with at least one architecture", str(path))
    common: dict[str, Any] = {key: records[0].get(key) for key in ("model", "img_size")}
    for number, record in enumerate(records, 1):
        same = {key: record.get(key) for key in common} == common
        rule = "a plan, each line with arch, model and img_size, the latter two equal in all"
        check("archs", same and isinstance(record.get("arch"), dict), rule, f"{path}:{number}")
        try:
            with torch.device("meta"):
                build_plain(record["arch"], record["model"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"archs must be a plan, got {path} line {number}: {error}") from error
    return Plan([record["arch"] for record in records], **common)


def measure_plan(config: Config, console: Console) -> None:
    """Measures a plan's architectures on this machine into the table `out`.

    What the table holds already is measured again only where it is not known well, so that the
    same command goes on after a stop. Needs no run folder and no data.
    """
    plan = read_plan(Path(config.archs))
    target = replace(config.target, img_size=plan.img_size)
    card = device_card(target, in_chans=plan.model["in_chans"])
    reference = {"arch": plan.archs[0], "model": plan.model}
    table = LatencyTable(Path(config.out), card, reference)
    say = partial(console.print, markup=False, soft_wrap=True)
    say(f"{card.describe()}")
    owner = device_lock(torch.device(card.device))
    missing = [arch for arch in plan.archs if wants_more(table.get(arch), target.precision)]
    with (
        stop_signals() as stop,
        progress(console, "measure", total=len(plan.archs)) as bar,
        Bench(plan.build(plan.archs[0]), card, target.effort()) as bench,
    ):
        bar.advance(len(plan.archs) - len(missing))
        for arch in missing:
            with locked(owner, blocking=True):
                (session,) = bench.sessions([plan.build(arch)])
            bar.advance(1, latency_ms=table.put(arch, session).latency_ms)
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
