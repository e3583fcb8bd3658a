"""What a run tells while it works: console, metrics.jsonl, a progress bar, and wandb when asked."""

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nas.files import append_record, read_records, write_atomic

LINE_INTERVAL_S = 10.0  # between two lines of progress where there is no terminal


class Tracker:
    """Logs figures by kind and step; a context manager, so that wandb learns how the run ended.

    Records of steps after `start_step` were written by a process that was killed before its next
    checkpoint; they are dropped, since the steps run again.
    """

    def __init__(
        self,
        run: Path,
        *,
        wandb_mode: str,
        project: str,
        settings: Mapping[str, object],
        start_step: int,
        console: Console | None = None,
    ) -> None:
        self.path = run / "metrics.jsonl"
        self.console = console or Console()
        self.wandb: Any = None
        drop_after(self.path, start_step)
        if wandb_mode != "disabled":
            self.wandb = start_wandb(run, wandb_mode, project, settings)

    def log(self, kind: str, step: int, **figures: object) -> None:
        append_record(self.path, {"kind": kind, "step": step, **figures})
        if self.wandb:
            prefix = f"{kind}/{figures['probe']}" if "probe" in figures else kind
            self.wandb.log(
                {f"{prefix}/{name}": value for name, value in figures.items()}, step=step
            )

    def say(self, text: str) -> None:
        """One line, as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.wandb:
            self.wandb.finish(exit_code=0 if kind is None else 1)


def drop_after(path: Path, step: int) -> None:
    records = read_records(path)
    kept = [record for record in records if record["step"] <= step]
    if len(kept) < len(records):
        write_atomic(path, "".join(json.dumps(record) + "\n" for record in kept))


def start_wandb(run: Path, mode: str, project: str, settings: Mapping[str, object]) -> Any:
    """A wandb run that goes on under the id it began with; files lie in the run folder."""
    import wandb

    memory = run / "wandb_id.txt"
    if not memory.exists():
        write_atomic(memory, secrets.token_hex(4))
    return wandb.init(
        project=project,
        name=run.name,
        id=memory.read_text(),
        # An offline run cannot ask the server what it has; `wandb sync` joins the parts by id.
        resume="allow" if mode == "online" else None,
        mode="online" if mode == "online" else "offline",
        dir=str(run),
        config=dict(settings),
        settings=wandb.Settings(silent=True, console="off"),
    )


class Bar(Protocol):
    """Progress of one piece of work."""

    def advance(self, count: int = 1, **figures: float) -> None:
        """`count` more are done; figures are shown beside."""


@contextmanager
def progress(console: Console, label: str, *, total: int, done: int = 0) -> Iterator[Bar]:
    """A bar with rate and time left on a terminal, else a line now and then with the same."""
    if not console.is_terminal:
        lines = Lines(console, label, total=total, done=done)
        try:
            yield lines
        finally:
            lines.show()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as display:
        task = display.add_task(label, total=total, completed=done, rate="", figures="")
        yield TerminalBar(display, task)


class TerminalBar:
    def __init__(self, display: Progress, task: TaskID) -> None:
        self.display = display
        self.task = task

    def advance(self, count: int = 1, **figures: float) -> None:
        self.display.advance(self.task, count)
        speed = self.display.tasks[0].speed or 0.0
        self.display.update(self.task, rate=f"{speed:.3g}/s", figures=as_text(figures))


class Lines:
    """Progress as plain lines of text: the first, one an interval, and the last."""

    def __init__(self, console: Console, label: str, *, total: int, done: int) -> None:
        self.console = console
        self.label = label
        self.total = total
        self.start = self.done = done
        self.begin = time.monotonic()
        self.due = self.begin
        self.shown: int | None = None
        self.figures: dict[str, float] = {}

    def advance(self, count: int = 1, **figures: float) -> None:
        self.done += count
        self.figures = figures
        if time.monotonic() >= self.due:
            self.show()

    def show(self) -> None:
        if self.shown == self.done:
            return
        now = time.monotonic()
        self.shown, self.due = self.done, now + LINE_INTERVAL_S
        rate = (self.done - self.start) / max(now - self.begin, 1e-9)
        seconds = round((self.total - self.done) / rate) if rate else 0
        left = f", {timedelta(seconds=seconds)} left" if seconds else ""
        text = f"{self.label} {self.done}/{self.total}, {rate:.3g}/s{left} {as_text(self.figures)}"
        self.console.print(text.rstrip(), markup=False, soft_wrap=True)


def as_text(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())
