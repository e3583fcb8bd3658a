"""The command line: nas train | measure | search | export | rank | report."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from nas.config.config import Config
from nas.config.help import describe_options
from nas.config.run_folder import open_run
from nas.exits import Outcome

TRAINING_GROUPS = ("experiment", "space", "source", "data", "paths", "examples", "distillation")


def run_train(config: Config, run: Path, console: Console) -> None:
    from nas.train.stage import train

    train(config, run, console)


def run_measure(config: Config, run: Path, console: Console) -> None:
    from nas.measure.stage import measure_space

    measure_space(config, run, console)


def run_search(config: Config, run: Path, console: Console) -> None:
    from nas.search.stage import search

    search(config, run, console)


def run_export(config: Config, run: Path, console: Console) -> None:
    from nas.export.stage import export

    export(config, run, console)


def run_rank(config: Config, run: Path, console: Console) -> None:
    from nas.rank.stage import rank

    rank(config, run, console)


def run_report(config: Config, run: Path, console: Console) -> None:
    from nas.report import write_report

    console.print(str(write_report(run)))


@dataclass(frozen=True)
class Stage:
    """One subcommand. Its module is imported when it runs, so that help is quick."""

    run: Callable[[Config, Path, Console], None]
    summary: str
    keys: tuple[str, ...]  # of config.yaml
    groups: tuple[str, ...]  # folders of conf/
    creates_run: bool


STAGES = {
    "train": Stage(
        run_train,
        "train a supernet, or go on with it: checkpoint.pt, metrics.jsonl",
        ("run", "seed", "train", "wandb"),
        TRAINING_GROUPS,
        creates_run=True,
    ),
    "measure": Stage(
        run_measure,
        "what subnets cost on the target and which budgets can be met, before any training",
        ("run", "seed", "budget", "plan", "archs", "out"),
        (*TRAINING_GROUPS, "target"),
        creates_run=True,
    ),
    "search": Stage(
        run_search,
        "search subnets under budgets: study.journal, candidates.jsonl, search.json",
        ("run", "budget"),
        ("search", "target"),
        creates_run=False,
    ),
    "export": Stage(
        run_export,
        "write one subnet as a plain model, checked against the supernet: subnet/",
        ("run", "pick", "arch", "budget"),
        ("search", "target"),
        creates_run=False,
    ),
    "rank": Stage(
        run_rank,
        "rank correlation of the supernet's scores with ground truth: rank.json",
        ("run", "rank"),
        (),
        creates_run=False,
    ),
    "report": Stage(
        run_report,
        "one page of what happened: report.html",
        ("run",),
        (),
        creates_run=False,
    ),
}

EPILOG = """\
A run folder remembers its options: later stages need run=... and what is new.
Exit codes: 0 done, 1 failed, 2 bad input, 3 no subnet meets the budgets, 128 + N on signal N.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse_arguments(arguments)
    stage = STAGES[options.stage]
    # Tables need room; a file or a pipe has no width of its own.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    try:
        config, run = open_run(options.overrides, options.conf, create=stage.creates_run)
        stage.run(config, run, console)
    except (Outcome, ValueError, OSError) as ending:
        print(f"nas {options.stage}: {ending}", file=sys.stderr)
        return ending.exit_code if isinstance(ending, Outcome) else exit_code(ending)
    return 0


def exit_code(error: ValueError | OSError) -> int:
    """2 for bad input, 1 for a machine that failed."""
    return 2 if isinstance(error, ValueError) else 1


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
