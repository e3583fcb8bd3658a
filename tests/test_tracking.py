import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from nas.files import append_record, read_records
from nas.tracking import LINE_INTERVAL_S, Tracker, progress


class Clock:
    """A clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, time_s: float) -> None:
        self.now_s += time_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def console_of(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, force_terminal=terminal, width=120), output


def track(
    run: Path, *, start_step: int = 0, wandb_mode: str = "disabled", console: Console | None = None
) -> Tracker:
    return Tracker(
        run,
        wandb_mode=wandb_mode,
        project="digits",
        settings={"seed": 3},
        start_step=start_step,
        console=console or console_of()[0],
    )


def test_figures_are_logged_with_their_kind_and_step(tmp_path: Path) -> None:
    with track(tmp_path) as tracker:
        tracker.log("train", 10, loss=0.5, lr=1e-3)
        tracker.log("eval", 10, probe="smallest", top1=0.25)
    assert read_records(tmp_path / "metrics.jsonl") == [
        {"kind": "train", "step": 10, "loss": 0.5, "lr": 1e-3},
        {"kind": "eval", "step": 10, "probe": "smallest", "top1": 0.25},
    ]


def test_a_resumed_run_drops_what_follows_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3, 4):
        append_record(path, {"kind": "train", "step": step, "first": True})
        append_record(path, {"kind": "eval", "step": step, "first": True})
    with path.open("a") as file:
        file.write('{"kind": "train", "st')  # the writer was killed
    with track(tmp_path, start_step=2) as tracker:
        for step in (3, 4):
            tracker.log("train", step, first=False)
    found = [(record["kind"], record["step"], record["first"]) for record in read_records(path)]
    assert found == [
        ("train", 1, True),
        ("eval", 1, True),
        ("train", 2, True),
        ("eval", 2, True),
        ("train", 3, False),
        ("train", 4, False),
    ]


def test_a_run_with_nothing_to_drop_keeps_its_file_untouched(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step":  1}\n')
    before = path.stat().st_ino
    with track(tmp_path, start_step=1):
        pass
    assert (path.read_text(), path.stat().st_ino) == ('{"step":  1}\n', before)


def test_a_line_is_said_as_it_is(tmp_path: Path) -> None:
    console, output = console_of()
    text = f"from [a] to [/b] {'long ' * 50}end"
    with track(tmp_path, console=console) as tracker:
        tracker.say(text)
    assert output.getvalue() == text + "\n"


def test_without_wandb_it_is_not_even_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it would fail
    with track(tmp_path) as tracker:
        tracker.log("train", 1, loss=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def wandb_records(path: Path) -> Iterator[object]:
    """The messages of an offline file: a header of 7 bytes, then 7 bytes before each message.

    Bytes 4 and 5 of those are its length. Messages above 32 KiB are split; the tests have none.
    """
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()[7:]
    while content:
        end = 7 + int.from_bytes(content[4:6], "little")
        if len(content) < end:  # half written as yet
            return
        yield wandb_internal_pb2.Record.FromString(content[7:end])  # type: ignore[attr-defined]
        content = content[end:]


def wandb_history(path: Path) -> list[dict[str, object]]:
    """One dictionary a step, without wandb's own times."""
    return [
        {
            item.nested_key[0]: json.loads(item.value_json)
            for item in record.history.item  # type: ignore[attr-defined]  # protobuf
            if item.nested_key[0] not in ("_timestamp", "_runtime")
        }
        for record in wandb_records(path)
        if record.HasField("history")  # type: ignore[attr-defined]
    ]


def wandb_exit_codes(path: Path) -> list[int]:
    return [
        record.exit.exit_code  # type: ignore[attr-defined]
        for record in wandb_records(path)
        if record.HasField("exit")  # type: ignore[attr-defined]
    ]


def wait_for_end(path: Path, limit_s: float = 60.0) -> None:
    """wandb's own process writes the file, and on a busy machine after the run has ended."""
    end = time.monotonic() + limit_s
    while not wandb_exit_codes(path) and time.monotonic() < end:
        time.sleep(0.05)


def test_wandb_offline_logs_resumes_under_one_id_and_learns_of_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")  # what the run asks for counts
    with track(tmp_path, wandb_mode="offline") as tracker:
        tracker.log("train", 1, loss=0.5)
        tracker.log("eval", 1, probe="smallest", top1=0.25)
        tracker.log("train", 2, loss=0.125)

    def fail() -> None:
        with track(tmp_path, wandb_mode="offline", start_step=2) as tracker:
            tracker.log("train", 3, loss=0.0625)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    first, second = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    wait_for_end(second)
    assert first.name == second.name == f"run-{(tmp_path / 'wandb_id.txt').read_text()}.wandb"
    assert wandb_history(first) == [
        {
            "_step": 1,
            "train/loss": 0.5,
            "eval/smallest/probe": "smallest",
            "eval/smallest/top1": 0.25,
        },
        {"_step": 2, "train/loss": 0.125},
    ]
    assert wandb_history(second) == [{"_step": 3, "train/loss": 0.0625}]
    assert (wandb_exit_codes(first), wandb_exit_codes(second)) == ([0], [1])
    assert len(read_records(tmp_path / "metrics.jsonl")) == 4
    assert capfd.readouterr() == ("", "")


def test_progress_is_a_first_line_one_an_interval_and_a_last_where_there_is_no_terminal(
    clock: Clock,
) -> None:
    console, output = console_of()
    with progress(console, "train", total=100, done=20) as bar:
        for step in range(80):
            clock.sleep(0.5)
            bar.advance(loss=1 / (step + 1))
    lines = output.getvalue().splitlines()
    assert lines == [
        "train 21/100, 2/s, 0:00:40 left loss 1",
        "train 41/100, 2/s, 0:00:30 left loss 0.04762",
        "train 61/100, 2/s, 0:00:20 left loss 0.02439",
        "train 81/100, 2/s, 0:00:10 left loss 0.01639",
        "train 100/100, 2/s loss 0.0125",
    ]


def test_progress_leaves_an_interval_between_its_lines(clock: Clock) -> None:
    console, output = console_of()
    with progress(console, "search", total=1000) as bar:
        for _ in range(300):
            clock.sleep(0.07)
            bar.advance(2)
    assert len(output.getvalue().splitlines()) == 2 + int(300 * 0.07 / LINE_INTERVAL_S)


def test_slow_work_shows_a_rate_and_long_work_its_hours(clock: Clock) -> None:
    console, output = console_of()
    with progress(console, "search", total=1000) as bar:
        clock.sleep(40)
        bar.advance()
    assert output.getvalue() == "search 1/1000, 0.025/s, 11:06:00 left\n"


def test_interrupted_work_tells_how_far_it_came(clock: Clock) -> None:
    console, output = console_of()

    def work() -> None:
        with progress(console, "train", total=10) as bar:
            for _ in range(4):
                clock.sleep(1)
                bar.advance()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert output.getvalue().splitlines()[-1] == "train 4/10, 1/s, 0:00:06 left"


def test_work_that_was_done_before_says_so(clock: Clock) -> None:
    console, output = console_of()
    with progress(console, "train", total=7, done=7):
        pass
    assert output.getvalue() == "train 7/7, 0/s\n"


def test_a_terminal_shows_a_bar_with_figures_and_the_trackers_lines_above_it(
    tmp_path: Path,
) -> None:
    console, output = console_of(terminal=True)
    with (
        track(tmp_path, console=console) as tracker,
        progress(console, "train", total=4, done=1) as bar,
    ):
        bar.advance(2, loss=0.125)
        tracker.say("epoch 1")
        bar.advance(loss=0.0625)
    text = output.getvalue()
    assert "epoch 1" in text
    last = text[text.rindex("train") :]
    assert "4/4" in last
    assert "/s" in last
    assert "loss 0.0625" in last
