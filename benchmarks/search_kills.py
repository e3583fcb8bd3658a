"""What does a search lose when it is killed, again and again, at any moment?

On a copy of a trained run: `nas search` is started and ended by SIGKILL `--kills` times, each time
at a random moment, from starting up to writing its result, and is then left to finish. Nothing that
was on disk may be gone, the study must be the same one and have exactly the trials that were asked
for, and what was cut short must have run again with the same parameters.
Command: python benchmarks/search_kills.py --run runs/demo. Last line: JSON; `reevaluated` counts
architectures with two evaluations on disk.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from benchmarks.search_budgets import copy_trained
from nas.config.config import Config
from nas.config.run_folder import open_run
from nas.files import RecordReader, read_records
from nas.search.storage import open_storage

KEPT = ("study.journal", "candidates.jsonl", "latency.jsonl")  # files that may only grow
CONCLUDING = 0.2  # of the kills come when all trials are done
POLL_S = 0.005


@dataclass(frozen=True)
class Kill:
    moment: str  # what the search was at
    after_s: float  # since its start
    num_running: int  # trials in flight, which are lost
    num_complete: int
    intact: bool  # whether what was on disk just before is there just after


@dataclass
class Pace:
    """Seconds that a search takes to start up and for each trial; guesses until it has run."""

    startups_s: list[float] = field(default_factory=list)
    trials_s: list[float] = field(default_factory=list)

    @property
    def startup_s(self) -> float:
        return statistics.median(self.startups_s or [5.0])

    @property
    def trial_s(self) -> float:
        return statistics.median(self.trials_s or [1.0])


class Search:
    """A search as a process, observed through the journal of its study."""

    def __init__(self, settings: Sequence[str], run: Path) -> None:
        self.journal = RecordReader(run / "study.journal")
        self.log = run.with_name("stderr")
        self.num_complete = self.count(self.journal.new())
        self.begin = time.monotonic()
        self.begun_s = 0.0  # when it first wrote into the journal
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nas", "search", *settings],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.begin

    def observe(self) -> bool:
        """Whether it is still running, after a short while."""
        time.sleep(POLL_S)
        if records := self.journal.new():
            self.begun_s = self.begun_s or self.age_s
            self.num_complete += self.count(records)
        return self.process.poll() is None

    def kill(self) -> bool:
        """Whether it was killed, and had not ended before."""
        self.process.kill()
        code = self.process.wait()
        if code > 0:
            raise SystemExit(f"nas search ended with {code}: {self.log.read_text()}")
        return code < 0

    @staticmethod
    def count(records: Sequence[Mapping[str, Any]]) -> int:
        return sum(record.get("state") == TrialState.COMPLETE.value for record in records)


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory() as folder:
        run = copy_trained(options.run, Path(folder, "run"))
        trials = f"search.trials={options.trials}"
        settings = [f"run={run}", f"search={options.search}", trials, *options.settings]
        config, _ = open_run(settings, create=False)
        kills = kill_all(settings, config, run, options)
        before = content(run)
        last = Search(settings, run)
        while last.observe():
            pass
        if last.kill():
            raise SystemExit("nas search was killed by somebody else")
        found = figures(config, run, kills, options.trials)
        found["nothing_gone"] &= all(map(bytes.startswith, content(run), before))
    print(f"moments: {dict(Counter(kill.moment for kill in kills))}")
    print(json.dumps(found))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a trained run")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--search", default="guided", help="a group of conf/search")
    parser.add_argument("settings", nargs="*", help="further options of nas search")
    return parser.parse_args()


def kill_all(
    settings: Sequence[str], config: Config, run: Path, options: argparse.Namespace
) -> list[Kill]:
    """Kills spread over the whole search, the last few when all its trials are done."""
    generator, pace, kills = Random(options.seed), Pace(), list[Kill]()
    num_late = round(CONCLUDING * options.kills)
    # Where two of these lie close together, the second search is killed as it starts up.
    goals = sorted(generator.randrange(options.trials) for _ in range(options.kills - num_late))
    for goal in [*goals, *[options.trials] * num_late]:
        share = generator.random()
        while (kill := kill_one(settings, config, run, pace, goal, share)) is None:
            share /= 2  # it had ended before
        kills.append(kill)
        print(
            f"kill {len(kills)}: {kill.after_s:.1f} s after the start, {kill.moment}, "
            f"{kill.num_complete} trials done",
            flush=True,
        )
    return kills


def kill_one(
    settings: Sequence[str], config: Config, run: Path, pace: Pace, goal: int, share: float
) -> Kill | None:
    """Kills a search some time after it has `goal` trials; None if it ended before.

    That time is a `share` of what a trial takes, of a search that starts with them of starting up
    too.
    """
    search = Search(settings, run)
    num_before, wait_s = search.num_complete, pace.trial_s
    if num_before >= goal:
        wait_s += pace.startup_s
    while search.num_complete < goal and search.observe():
        pass
    if search.num_complete > num_before:
        pace.startups_s.append(search.begun_s)
        num_done = search.num_complete - num_before
        pace.trials_s.append((search.age_s - search.begun_s) / num_done)
    deadline = time.monotonic() + share * wait_s
    while time.monotonic() < deadline and search.observe():
        pass
    before, after_s = content(run), search.age_s
    if not search.kill():
        return None
    search.observe()
    running = in_state(trials_of(config, run), TrialState.RUNNING)
    return Kill(
        moment=moment(config, run, running, search),
        after_s=after_s,
        num_running=len(running),
        num_complete=search.num_complete,
        intact=all(map(bytes.startswith, content(run), before)),
    )


def content(run: Path) -> list[bytes]:
    """The whole lines of each file that may only grow; half a line may be cut off again."""
    paths = [run / name for name in KEPT]
    files = [path.read_bytes() if path.exists() else b"" for path in paths]
    return [lines[: lines.rfind(b"\n") + 1] for lines in files]


def moment(config: Config, run: Path, running: Sequence[FrozenTrial], search: Search) -> str:
    """What a search was at when it was killed."""
    if not running:
        if not search.begun_s:
            return "starting up"
        return "concluding" if search.num_complete >= config.search.trials else "between trials"
    params = {**running[0].system_attrs.get("fixed_params", {}), **running[0].params}
    if params.keys() != config.space.choices().keys():
        return "sampling"
    arch = config.space.decode(params)
    for name, then in (("candidates.jsonl", "telling"), ("latency.jsonl", "scoring")):
        if arch in {config.space.from_record(r["arch"]) for r in read_records(run / name)}:
            return then
    return "measuring"


def trials_of(config: Config, run: Path) -> list[FrozenTrial]:
    """All trials of all studies: of one, if nothing went wrong."""
    storage = open_storage(config, run)
    studies = storage.get_all_studies()
    return [trial for study in studies for trial in storage.get_all_trials(study._study_id)]


def in_state(trials: Sequence[FrozenTrial], state: TrialState) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == state]


def figures(config: Config, run: Path, kills: Sequence[Kill], asked: int) -> dict[str, Any]:
    """What came of it; complains about each trial that was not made up for."""
    trials = trials_of(config, run)
    cut_short = in_state(trials, TrialState.FAIL)
    lost_for_good = [trial.number for trial in cut_short if not ran_again(trial, trials)]
    judged = Counter(
        (config.space.from_record(record["arch"]), record["score"]["complete"])
        for record in read_records(run / "candidates.jsonl")
    )
    names = [study.study_name for study in open_storage(config, run).get_all_studies()]
    found = json.loads((run / "search.json").read_text())
    return {
        "kills": len(kills),
        "lost_per_kill_max": max((kill.num_running for kill in kills), default=0),
        "trials": len(in_state(trials, TrialState.COMPLETE)),
        "trials_asked": asked,
        "left_running": len(in_state(trials, TrialState.RUNNING)),
        "cut_short": len(cut_short),
        "not_run_again": len(lost_for_good),
        "reevaluated": sum(count - 1 for count in judged.values()),
        "nothing_gone": all(kill.intact for kill in kills),
        "same_study": names == [found["study"]],
    }


def ran_again(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether what a trial was to try was finished by another one; true if it had nothing yet."""
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    heirs = [other for other in trials if other.user_attrs.get("restarts") == trial.number]
    if not params or len(heirs) != 1:
        return not params and not heirs
    (heir,) = heirs
    if heir.state == TrialState.FAIL:
        return ran_again(heir, trials)
    return heir.state == TrialState.COMPLETE and params.items() <= heir.params.items()


if __name__ == "__main__":
    main()
