"""The command line: nas train | measure | search | finetune | export | rank | report."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from nas.config.config import Config
from nas.config.help import describe_options
from nas.config.run_folder import TRAINING_GROUPS, open_run
from nas.exits import Outcome


def run_stage(name: str, config: Config, run: Path, console: Console) -> None:
    """Imports a stage when it runs, so that help is quick."""
    if name == "train":
        from nas.train.stage import train as stage
    elif name == "measure":
        from nas.measure.stage import measure_space as stage
    elif name == "search":
        from nas.search.stage import search as stage
    elif name == "export":
        from nas.export.stage import export as stage
    elif name == "finetune":
        from nas.finetune.stage import finetune as stage
    elif name == "rank":
        from nas.rank.stage import rank as stage
    else:
        from nas.report.stage import write_report

        console.print(str(write_report(run)))
        return
    stage(config, run, console)


@dataclass(frozen=True)
class Stage:
    """What help tells of a subcommand."""

    summary: str
    keys: tuple[str, ...]  # of config.yaml
    groups: tuple[str, ...] = ()  # folders of conf/
    creates_run: bool = False


STAGES = {
    "train": Stage(
        "train a supernet, or go on with it: checkpoint.pt, metrics.jsonl",
        ("run", "seed", "train", "wandb"),
        ("experiment", *TRAINING_GROUPS),
        creates_run=True,
    ),
    "measure": Stage(
        "what subnets cost on the target and which budgets can be met, before any training",
        ("run", "seed", "budget", "plan", "archs", "out"),
        ("experiment", *TRAINING_GROUPS, "target"),
        creates_run=True,
    ),
    "search": Stage(
        "search subnets under budgets: study.journal, candidates.jsonl, search.json",
        ("run", "budget"),
        ("search", "target"),
    ),
    "export": Stage(
        "write one subnet as a plain model, checked against the supernet: subnet/",
        ("run", "pick", "arch", "budget"),
        ("search", "target"),
    ),
    "finetune": Stage(
        "train one subnet further, or alone from scratch: finetuned/, scratch/ in the run folder",
        ("run", "pick", "arch", "from", "finetune", "wandb"),
    ),
    "rank": Stage(
        "rank correlation of the supernet's scores with ground truth: rank.json", ("run", "rank")
    ),
    "report": Stage("one page of what happened: report.html", ("run",)),
}

EPILOG = """\
A run folder remembers its options: later stages need run=... and what is new.
Exit codes: 0 done, 1 failed, 2 bad input, 3 no subnet meets the budgets, 128 + N on signal N.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse_arguments(arguments)
    # Tables need room; a file or a pipe has no width of its own.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    create = STAGES[options.stage].creates_run
    try:
        config, run = open_run(options.overrides, options.conf, create=create)
        run_stage(options.stage, config, run, console)
    except (Outcome, ValueError, OSError) as ending:
        print(f"nas {options.stage}: {ending}", file=sys.stderr)
        if isinstance(ending, Outcome):
            return ending.exit_code
        return 2 if isinstance(ending, ValueError) else 1  # bad input, a machine that failed
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Stage, conf and overrides; argparse leaves aside what overrides follow an option."""
    parser = make_parser(arguments)
    options, rest = parser.parse_known_args(arguments)
    if any(argument.startswith("-") for argument in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides += rest
    return options


def make_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Only the stage that is asked for lists its options, which takes reading conf/."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="nas",
        description="Train a weight-entangled supernet, search it under measured budgets, export.",
        epilog=EPILOG,
        formatter_class=plain,
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="stage")
    for name, stage in STAGES.items():
        asked = name in arguments[:1]
        epilog = describe_options(stage.keys, stage.groups) if asked else None
        sub = stages.add_parser(
            name,
            help=stage.summary,
            description=stage.summary,
            epilog=epilog,
            formatter_class=plain,
        )
        sub.add_argument("--conf", type=Path, help="folder of your own groups, laid out as conf/")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="options, see below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
