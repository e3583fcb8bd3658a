"""Seeds derived from seeds, and global generators that are put back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators of random, NumPy and PyTorch's CPU, and restores them after."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPU as well
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def derive_seed(seed: int, purpose: int, number: int) -> int:
    """A seed in 0..2**64 of its own for each use and number."""
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, number))
    return int(sequence.generate_state(1, np.uint64)[0])


def mixed_seed(*seeds: int) -> int:
    """A seed in 0..2**32 of its own for each combination."""
    return int(np.random.SeedSequence(seeds).generate_state(1)[0])
