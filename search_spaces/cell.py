"""Cells of NAS-Bench-201: one architecture (`CellArch`) and the options (`CellSpace`).

A cell is a graph of four nodes; each of its six edges carries one of five operations, and a node is
the sum of what its edges bring. Every cell of the network is alike.
Dong & Yang, 2020, https://arxiv.org/abs/2001.00326.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from search_spaces.space import Option, Space, check_positive, check_values

# (target, source) of each edge, in the order of the benchmark's tables.
EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
OUTPUT = 3

# By cost, from the least.
OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")

# The ways from the input to the output, as the edges that they pass.
ROUTES = (((3, 0),), ((1, 0), (3, 1)), ((2, 0), (3, 2)), ((1, 0), (2, 1), (3, 2)))
# What a way can do to its input: skips change nothing.
PATHS = tuple(path for length in range(4) for path in product(OPERATIONS[2:], repeat=length))


@dataclass(frozen=True)
class CellArch:
    """One architecture: the operation of each edge, in the order of `EDGES`."""

    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.operations) != len(EDGES):
            raise ValueError(
                f"operations needs one entry per edge ({len(EDGES)}), got {len(self.operations)}"
            )

    def __str__(self) -> str:
        """The benchmark's notation: |op~0|+|op~0|op~1|+|op~0|op~1|op~2|."""
        nodes = [
            "".join(f"{op}~{i}|" for (j, i), op in self.edges().items() if j == target)
            for target in range(1, OUTPUT + 1)
        ]
        return "+".join(f"|{node}" for node in nodes)

    @classmethod
    def from_string(cls, text: str) -> "CellArch":
        """The architecture that the benchmark's notation describes; raises ValueError."""
        operations = tuple(
            part.split("~")[0] for node in text.split("+") for part in node.split("|") if part
        )
        if len(operations) != len(EDGES) or str(arch := cls(operations)) != text:
            raise ValueError(f"a cell is written |op~0|+|op~0|op~1|+..., got {text!r}")
        return arch

    def edges(self) -> dict[tuple[int, int], str]:
        return dict(zip(EDGES, self.operations, strict=True))

    def live_edges(self) -> dict[tuple[int, int], str]:
        """The edges whose operation has an input other than zero and an effect on the output."""
        live = {edge for route in self.routes() for edge in route}
        return {edge: op for edge, op in self.edges().items() if edge in live}

    def routes(self) -> list[tuple[tuple[int, int], ...]]:
        """The ways from the input to the output on which no edge is zero."""
        edges = self.edges()
        return [route for route in ROUTES if all(edges[edge] != "none" for edge in route)]

    def paths(self) -> Counter[tuple[str, ...]]:
        """How many ways from the input to the output apply each sequence of operations.

        White et al., 2021, https://arxiv.org/abs/1910.11858 (BANANAS), encode cells by these.
        """
        edges = self.edges()
        return Counter(
            tuple(edges[edge] for edge in route if edges[edge] != "skip_connect")
            for route in self.routes()
        )


@dataclass(frozen=True)
class CellSpace(Space[CellArch]):
    """The operations of each edge; `channels` of the first stage and `num_cells` of each stage."""

    operations: Sequence[str] = OPERATIONS
    channels: int = 16
    num_cells: int = 5

    def __post_init__(self) -> None:
        operations = self.operations
        known = not isinstance(operations, str) and isinstance(operations, Sequence)
        if not known or not operations or not set(operations) <= set(OPERATIONS):
            raise ValueError(
                f"space.operations must be a list of some of {OPERATIONS}, got {operations!r}"
            )
        if list(operations) != sorted(set(operations), key=OPERATIONS.index):
            raise ValueError(
                f"space.operations must be in the order of {OPERATIONS} without repeats, "
                f"got {operations}"
            )
        object.__setattr__(self, "operations", tuple(operations))
        for name in ("channels", "num_cells"):
            check_positive(f"space.{name}", getattr(self, name), int)

    def choices(self) -> dict[str, tuple[Option, ...]]:
        return {edge_name(edge): tuple(self.operations) for edge in EDGES}

    def decode(self, values: Mapping[str, Option]) -> CellArch:
        choices = self.choices()
        check_values(choices, values)
        return CellArch(tuple(str(values[name]) for name in choices))

    def encode(self, arch: CellArch) -> dict[str, Option]:
        values: dict[str, Option] = {edge_name(edge): op for edge, op in arch.edges().items()}
        self.decode(values)  # raises for an option that the space does not have
        return values

    def from_record(self, record: Mapping[str, object]) -> CellArch:
        if set(record) != {"operations"}:
            raise ValueError(f"an architecture has the field operations, got {sorted(record)}")
        operations = record["operations"]
        if not isinstance(operations, list | tuple) or not all(
            isinstance(op, str) for op in operations
        ):
            raise ValueError(f"operations must be a list of names, got {operations!r}")
        arch = CellArch(tuple(operations))
        return self.decode(self.encode(arch))

    def from_text(self, text: str) -> CellArch:
        """Of the benchmark's notation."""
        arch = CellArch.from_string(text)
        if not set(arch.operations) <= set(OPERATIONS):
            raise ValueError(f"operations of a cell must be some of {OPERATIONS}, got {text!r}")
        return arch

    def describe(self, arch: CellArch) -> dict[str, str]:
        return {"cell": str(arch)}

    def num_archs(self) -> int:
        return len(self.operations) ** len(EDGES)

    def features(self, arch: CellArch) -> tuple[float, ...]:
        """The operation of each live edge one-hot, how often each occurs, and the paths."""
        live, paths = arch.live_edges(), arch.paths()
        counts = Counter(live.values())
        return (
            *(float(live.get(edge) == op) for edge in EDGES for op in OPERATIONS[1:]),
            *(counts[op] / len(EDGES) for op in OPERATIONS[1:]),
            *(paths[path] / len(ROUTES) for path in PATHS),
        )


def edge_name(edge: tuple[int, int]) -> str:
    target, source = edge
    return f"edges.{target}<-{source}"
