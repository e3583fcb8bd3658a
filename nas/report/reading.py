"""Reads a run's folder, each file once: what passes here needs no further checks."""

import json
import reprlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from nas.checks import check
from nas.config.instantiate import build, build_space
from nas.config.run_folder import read_settings
from nas.files import read_records
from nas.records import Candidate, checked, from_json, to_json
from nas.report.run_files import (
    Alone,
    AloneSettings,
    Logged,
    Measured,
    Probabilities,
    RunFiles,
    Settings,
)
from nas.results import ExportResult, RankResult, SearchResult
from search_spaces.space import Arch, Space
from supernet.task import Task

KINDS = ("train", "eval", "variance")  # of lines of metrics.jsonl
MOST = 1e18  # of any number: beyond it, sums and ratios are no numbers

FileT = TypeVar("FileT")


def read_run(run: Path) -> RunFiles:
    """Reads a run's folder; ValueError names the file that is damaged or of another format."""
    settings = checked(Settings, read_settings(run), str(run / "config.yaml"))
    space, _ = build_space(settings.space)
    task: Task = build(settings.task, "task")
    check("task", hasattr(task, "metric"), "a task", task)
    reader = Reader(run, space, to_json(task.metric))
    search: SearchResult[Arch] | None = reader.file(SearchResult, "search.json", "search")
    export: ExportResult[Arch] | None = reader.file(ExportResult, "subnet/card.json", "export")
    outdated = bool(search and export and is_outdated(export, search))
    known, num_others = reader.candidates(search)
    measured, num_old = reader.measured()
    return RunFiles(
        folder=run,
        settings=settings,
        space=space,
        task=task,
        logged=reader.logged(),
        measured=measured,
        num_old=num_old,
        known=known,
        num_others=num_others,
        search=search,
        export=None if outdated else export,
        is_outdated=outdated,
        probabilities=reader.file(Probabilities, "paths.json", "train"),
        rank=reader.file(RankResult, "rank.json", "rank"),
        alone=tuple(filter(None, (read_alone(path, reader) for path in alone_folders(run)))),
    )


def alone_folders(run: Path) -> list[Path]:
    """Those that nas finetune makes in a run, as far as it has begun to train there."""
    found = sorted((*run.glob("finetuned*"), *run.glob("scratch*")))
    return [path for path in found if (path / "metrics.jsonl").is_file()]


def read_alone(folder: Path, reader: "Reader") -> Alone | None:
    """None for another run that has such a name."""
    where = str(folder / "config.yaml")
    settings = checked(AloneSettings, read_settings(folder), where)
    if settings.paths.arch is None:
        return None
    try:
        arch = reader.space.from_record(settings.paths.arch)
    except ValueError as error:
        raise ValueError(f"{where}: paths.arch: {error}") from error
    lines = replace(reader, run=folder).logged()
    evals = tuple(line for line in lines if line.kind == "eval")
    for line in evals:
        known = {reader.metric["name"], "low", "high"} <= line.figures.keys()
        check(f"{folder}/metrics.jsonl", known, "evaluations with low and high", line.figures)
    return Alone(arch, bool(settings.train.init), settings.train.epochs, evals)


def is_outdated(export: ExportResult[Arch], search: SearchResult[Arch]) -> bool:
    """Whether an export is of an earlier search, or of what this one has since bettered."""
    if export.study is None:  # exported from a file
        return False
    chosen = search.chosen.arch if search.chosen else None
    bettered = export.command.endswith("pick=best") and export.arch != chosen
    return export.study != search.study or bettered


@dataclass(frozen=True)
class Reader:
    """Reads the records of a run; their scores are of one metric, here its record."""

    run: Path
    space: Space[Arch]
    metric: dict[str, object]

    def file(self, kind: type[FileT], name: str, stage: str) -> FileT | None:
        """The value in a JSON file that a stage writes; None if there is none."""
        path = self.run / name
        if not path.exists():
            return None
        where = f"{path}, which nas {stage} writes anew"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}, must be JSON, got: {error}") from error
        return self.value(kind, record, where)

    def lines(self, name: str) -> list[tuple[str, dict[str, object]]]:
        """The records of a file with where each stands."""
        path = self.run / name
        return [(f"{path} line {n}", record) for n, record in enumerate(read_records(path), 1)]

    def value(self, kind: type[FileT], record: object, where: str) -> FileT:
        try:
            self.check(record)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: {error}") from error
        return from_json(kind, record, self.space, where)

    def check(self, value: object) -> None:
        """Raises ValueError for what no page can show, at any depth."""
        if isinstance(value, dict):
            if value.get("metric", self.metric) != self.metric:
                raise ValueError(f"metric must be the task's, {self.metric}, got {value['metric']}")
            self.check([*value, *value.values()])
        elif isinstance(value, list):
            for one in value:
                self.check(one)
        elif isinstance(value, str):
            value.encode()  # a lone surrogate cannot be
        elif isinstance(value, int | float) and not abs(value) <= MOST:
            raise ValueError(f"a number must be at most {MOST:g}, got {reprlib.repr(value)}")

    def candidates(
        self, search: SearchResult[Arch] | None
    ) -> tuple[tuple[Candidate[Arch], ...], int]:
        """The lines that compare, once an architecture, whole splits first; and how many do not.

        Those compare that were judged as the search was or, before one has ended, as the newest
        line; the others are of other weights, another target or an older format.
        """
        lines = self.lines("candidates.jsonl")
        newest = lines[-1][1].get("conditions") if lines else None
        wanted = to_json(search.conditions) if search else newest
        own = [line for line in lines if wanted and line[1].get("conditions") == wanted]
        found: dict[Arch, Candidate[Arch]] = {}
        for where, record in own:
            candidate: Candidate[Arch] = self.value(Candidate, record, where)
            if candidate.score.complete or candidate.arch not in found:
                found[candidate.arch] = candidate
        return tuple(found.values()), len(lines) - len(own)

    def measured(self) -> tuple[tuple[Measured[Arch], ...], int]:
        """The lines of latency.jsonl, and how many there are of an older format."""
        lines = self.lines("latency.jsonl")
        own = [line for line in lines if not is_old(line[1].get("card"))]
        found = [self.value(Measured, record, where) for where, record in own]
        return tuple(found), len(lines) - len(own)

    def logged(self) -> tuple[Logged, ...]:
        """The lines of metrics.jsonl of the kinds that the page shows."""
        names = {field.name for field in fields(Logged)}
        found = []
        for where, line in self.lines("metrics.jsonl"):
            if line.get("kind") in KINDS:
                figures = {name: value for name, value in line.items() if name not in names}
                head = {name: value for name, value in line.items() if name in names}
                found.append(self.value(Logged, {**head, "figures": figures}, where))
        return tuple(found)


def is_old(card: object) -> bool:
    """Whether a device's card says the size of images in place of the shapes of inputs."""
    return isinstance(card, dict) and "img_size" in card
