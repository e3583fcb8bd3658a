"""Honest parameter counts of a subnet: what its files store and what it holds in memory."""

from dataclasses import dataclass

from search_spaces.space import ArchT
from supernet.supernet import Supernet


@dataclass(frozen=True)
class Counts:
    """Elements, not bytes. Sharing lowers only the first: not FLOPs, not memory at run time.

    The statistics of batch norms are no parameters: files hold them, only `resident` counts them.
    """

    stored_factorised: int  # shared atoms once, adapters, and all that is not shared
    stored_merged: int  # one dense weight a layer
    resident: int  # of the running model; merged, since every source composes dense weights

    @property
    def params(self) -> int:
        """What the exported weights must store: the smaller of the two files."""
        return min(self.stored_factorised, self.stored_merged)


def count(supernet: Supernet[ArchT], arch: ArchT) -> Counts:
    factorised = sum(tensor.numel() for tensor in supernet.factorise(arch).values())
    plain = supernet.build(arch, device="meta")
    merged = sum(parameter.numel() for parameter in plain.parameters())
    buffers = sum(buffer.numel() for buffer in plain.buffers())
    return Counts(factorised, merged, merged + buffers)
