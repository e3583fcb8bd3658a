"""The interface of a search space."""

from collections.abc import Hashable, Mapping
from dataclasses import asdict
from random import Random
from typing import Any, Protocol, TypeGuard, TypeVar, cast

Option = int | float | str
Arch = Hashable  # to who knows no family: a frozen dataclass, the key of all that is known of it
ArchT = TypeVar("ArchT", bound=Hashable)


class Space(Protocol[ArchT]):
    """A set of architectures, described by independent choices with flat names.

    An architecture is a frozen, hashable value. Choices that a shallow architecture does not use
    are dropped by `decode`, so several assignments may decode to the same architecture. What has a
    body here need not be written for a space that inherits from this one.
    """

    def choices(self) -> dict[str, tuple[Option, ...]]:
        """Each choice's name with its options in ascending order; the order of names is fixed."""

    def decode(self, values: Mapping[str, Option]) -> ArchT:
        """The architecture that an assignment of every choice describes."""

    def encode(self, arch: ArchT) -> dict[str, Option]:
        """An assignment that decodes to `arch`; unused choices take their first option.

        Raises ValueError that names the choice if `arch` lies outside the space.
        """

    def active(self, arch: ArchT) -> dict[str, Option]:
        """As `encode`, without the choices that `arch` does not use."""
        return self.encode(arch)

    def from_record(self, record: Mapping[str, object]) -> ArchT:
        """The architecture that a JSON record, as `to_record` makes it, describes, checked."""

    def from_text(self, text: str) -> ArchT:
        """The architecture that a text describes, as tables of benchmarks write it.

        The space may lack it: `encode` says so. Raises ValueError for what describes none.
        """

    def describe(self, arch: ArchT) -> dict[str, str]:
        """An architecture in words for console, card and report: names of columns with values."""

    def sample(self, generator: Random) -> ArchT:
        """Draws each choice uniformly and independently."""
        choices = self.choices().items()
        return self.decode({name: generator.choice(options) for name, options in choices})

    def smallest(self) -> ArchT:
        return self.decode({name: options[0] for name, options in self.choices().items()})

    def largest(self) -> ArchT:
        return self.decode({name: options[-1] for name, options in self.choices().items()})

    def num_archs(self) -> int:
        """The number of distinct architectures."""

    def features(self, arch: ArchT) -> tuple[float, ...]:
        """What a regression on accuracy or cost sees of `arch`: equally many figures in 0..1.

        Parts that have no effect leave no trace in them.
        """


def to_record(arch: Arch) -> dict[str, object]:
    """The JSON record of an architecture of any space; `Space.from_record` reads it."""
    return asdict(cast(Any, arch))


def check_values(choices: Mapping[str, tuple[Option, ...]], values: Mapping[str, Option]) -> None:
    """Raises ValueError unless `values` has one option of every choice and nothing else."""
    if values.keys() != choices.keys():
        odd = sorted(values.keys() ^ choices.keys())
        raise ValueError(f"decode needs every choice of the space and no other; differing: {odd}")
    for name, options in choices.items():
        if values[name] not in options:
            raise ValueError(f"{name} must be one of {list(options)}, got {values[name]!r}")


def check_positive(key: str, value: object, kind: type[float]) -> None:
    if not is_number(value, kind) or value <= 0:
        name = "integer" if kind is int else "number"
        raise ValueError(f"{key} must be a positive {name}, got {value!r}")


def is_number(value: object, kind: type[float]) -> TypeGuard[float]:
    """Whether a value is an int or, of kind float, a float or an int; a bool is neither."""
    return isinstance(value, kind | int) and not isinstance(value, bool)
