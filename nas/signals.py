"""SIGINT and SIGTERM as a request to finish the step at hand, save and stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


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
