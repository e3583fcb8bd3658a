"""A clock that stands still but for what is slept on it, and models whose passes take its time."""

import torch
from torch import Tensor, nn


class Clock:
    """A clock that only `sleep` moves; a copy of it is the same clock."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __deepcopy__(self, memo: dict[int, object]) -> "Clock":
        return self

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, time_ms: float) -> None:
        self.now_ns += round(time_ms * 1e6)


class Sleeper(nn.Module):
    """A model whose pass takes `time_ms` on the fake clock and notes how it was run in `seen`."""

    seen: dict[str, object]

    def __init__(self, clock: Clock, time_ms: float) -> None:
        super().__init__()
        self.clock, self.time_ms = clock, time_ms
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        self.clock.sleep(self.time_ms)
        Sleeper.seen = {
            "training": self.training,
            "inference": torch.is_inference_mode_enabled(),
            "threads": torch.get_num_threads(),
            "dtypes": (images.dtype, self.weight.dtype),
            "shape": tuple(images.shape),
        }
        return images * self.weight
