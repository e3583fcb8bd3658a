"""How a stage may end other than by finishing, each with its exit code."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Outcome(Exception):
    """The message is for the user; bad input is a ValueError instead, exit code 2."""

    exit_code = 1


class Diverged(Outcome):
    """A loss or a gradient was not finite."""


class NotEqual(Outcome):
    """An exported file does not compute what the supernet computes."""


class Infeasible(Outcome):
    """No subnet meets the budgets."""

    exit_code = 3


class Stopped(Outcome):
    """The work saved its state and stopped because a signal asked for it."""

    def __init__(self, signum: int) -> None:
        name = signal.Signals(signum).name
        super().__init__(f"stopped by {name}; the same command goes on from here")
        self.exit_code = 128 + signum


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that a first SIGINT or SIGTERM enters; a second one acts as it does by default."""
    received: list[int] = []

    def note(signum: int, _frame: object) -> None:
        received.append(signum)
        signal.signal(signum, before[signal.Signals(signum)])

    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    for signum in before:
        signal.signal(signum, note)
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
