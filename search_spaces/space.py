"""The interface of a search space."""

from collections.abc import Mapping
from random import Random
from typing import Protocol, TypeVar

Option = int | float | str
ArchT = TypeVar("ArchT")


class Space(Protocol[ArchT]):
    """A set of architectures, described by independent choices with flat names.

    An architecture is a frozen, hashable value. Choices that a shallow architecture does not use
    are dropped by `decode`, so several assignments may decode to the same architecture.
    """

    def choices(self) -> dict[str, tuple[Option, ...]]:
        """Each choice's name with its options in ascending order; the order of names is fixed."""
        ...

    def decode(self, values: Mapping[str, Option]) -> ArchT:
        """The architecture that an assignment of every choice describes."""
        ...

    def encode(self, arch: ArchT) -> dict[str, Option]:
        """An assignment that decodes to `arch`; unused choices take their first option.

        Raises ValueError that names the choice if `arch` lies outside the space.
        """
        ...

    def active(self, arch: ArchT) -> dict[str, Option]:
        """As `encode`, without the choices that `arch` does not use."""
        ...

    def from_record(self, record: Mapping[str, object]) -> ArchT:
        """The architecture that a JSON record (`dataclasses.asdict`) describes, checked."""
        ...

    def sample(self, generator: Random) -> ArchT:
        """Draws each choice uniformly and independently."""
        ...

    def smallest(self) -> ArchT: ...

    def largest(self) -> ArchT: ...

    def num_archs(self) -> int:
        """The number of distinct architectures."""
        ...

    def features(self, arch: ArchT) -> tuple[float, ...]:
        """What a regression on accuracy or cost sees of `arch`: equally many figures in 0..1.

        Parts that have no effect leave no trace in them.
        """
        ...


def check_values(choices: Mapping[str, tuple[Option, ...]], values: Mapping[str, Option]) -> None:
    """Raises ValueError unless `values` has one option of every choice and nothing else."""
    if values.keys() != choices.keys():
        odd = sorted(values.keys() ^ choices.keys())
        raise ValueError(f"decode needs every choice of the space and no other; differing: {odd}")
    for name, options in choices.items():
        if values[name] not in options:
            raise ValueError(f"{name} must be one of {list(options)}, got {values[name]!r}")


def check_positive_int(key: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{key} must be a positive integer, got {value!r}")
