"""Two calls timed in turns."""

import torch

from nas.hardware.timing import Call, paused_garbage_collection, time_round


def time_alternating(
    first: Call, second: Call, *, device: torch.device, warmup: int, passes: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each call of `first` and of `second`, after `warmup` untimed calls of each.

    The calls come in pairs whose order alternates (A B, B A, ...), so that neither slow drift nor
    the place in a pair favours one of the two.
    """
    for _ in range(warmup):
        first()
        second()
    with paused_garbage_collection():
        pairs = [
            time_round((first, second), device, backwards=number % 2 == 1)
            for number in range(passes)
        ]
    return [a for a, _ in pairs], [b for _, b in pairs]
