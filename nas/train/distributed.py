"""Data-parallel training by several processes, called ranks, as torchrun starts them.

Every rank draws the same paths and the same examples, and computes on a part of each batch. What
they learned is averaged, so that all hold the same weights and the same statistics. Where one of
them fails alone, torchrun ends the others.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from nas.checks import check

TIMEOUT = timedelta(hours=6)  # the others wait for the first rank's evaluations that long


@dataclass(frozen=True)
class Ranks:
    """This process among all that train together; its communication is nothing where it is alone.

    All ranks must make the same calls in the same order.
    """

    rank: int = 0
    world: int = 1  # number of ranks
    local: int = 0  # among those of this machine

    @classmethod
    def from_environment(cls) -> "Ranks":
        """What torchrun says; one rank where the process was started without it."""
        names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
        return cls(*(int(os.environ.get(name, default)) for name, default in names.items()))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The rank's own GPU if `device` is one, among several ranks; raises ValueError without."""
        if self.world == 1 or device.type == "cpu":
            return device
        num_gpus = torch.cuda.device_count()
        rule = f"cpu, or there must be a GPU for each rank of a machine, which has {num_gpus}"
        check("train.device", self.local < num_gpus, rule, f"{device} for rank {self.local}")
        return torch.device("cuda", self.local)

    def part(self, whole: Tensor) -> Tensor:
        """This rank's entries of a batch (B,), or of several that follow each other."""
        return whole[self.rank :: self.world]

    def gather(self, part: Tensor) -> Tensor:
        """The batch (B,) whose parts the ranks have."""
        if self.world == 1:
            return part
        whole = part.new_zeros(self.world * len(part))
        whole[self.rank :: self.world] = part
        distributed.all_reduce(whole)
        return whole

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Puts the ranks' mean into tensors of one type and device, by one exchange of all."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        parts = flat.div_(self.world).split([tensor.numel() for tensor in tensors])
        means = [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
        torch._foreach_copy_(list(tensors), means)

    def largest(self, value: int) -> int:
        """The largest value that a rank has; the ranks leave together."""
        if self.world == 1:
            return value
        found = torch.tensor(value)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    @contextmanager
    def first_of_machine(self) -> Iterator[None]:
        """Runs the block on one rank of each machine before the others, who find what it left."""
        if self.local > 0:
            self.largest(0)
        try:
            yield
        finally:  # where it failed, it will fail for the others as well
            if self.local == 0:
                self.largest(0)


ALONE = Ranks()


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Lets several ranks exchange tensors, those on the CPU by gloo, those on `device` by NCCL."""
    if ranks.world == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # otherwise NCCL takes memory on the first GPU
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield
    finally:
        distributed.destroy_process_group()
