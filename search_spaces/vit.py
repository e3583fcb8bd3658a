"""Vision transformers: one architecture (`ViTArch`) and the options to choose from (`ViTSpace`).

The dimensions follow AutoFormer (Chen et al., 2021, https://arxiv.org/abs/2107.00651): one width
for the whole network, heads and MLP ratio per block. Adapter rank per block and the number of
dictionary atoms make the sharing of weights part of the architecture.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from search_spaces.space import Option, Space, check_positive, check_values, is_number

PER_BLOCK = ("num_heads", "mlp_ratio", "rank")


@dataclass(frozen=True)
class ViTArch:
    """One architecture: the sizes of a plain ViT. Per-block fields have one entry a block.

    `rank` is the rank of the block's low-rank adapters and `num_atoms` the number of dictionary
    atoms in use; both are 0 where the weights have none.
    """

    embed_dim: int
    num_heads: tuple[int, ...]
    mlp_ratio: tuple[float, ...]
    rank: tuple[int, ...]
    num_atoms: int

    def __post_init__(self) -> None:
        lengths = [len(getattr(self, name)) for name in PER_BLOCK]
        if len(set(lengths)) != 1 or lengths[0] == 0:
            raise ValueError(f"{', '.join(PER_BLOCK)} need one entry per block, got {lengths}")

    @property
    def depth(self) -> int:
        return len(self.num_heads)

    @property
    def mlp_hidden(self) -> tuple[int, ...]:
        """Hidden width of each block's MLP, rounded down as timm does."""
        return tuple(int(self.embed_dim * ratio) for ratio in self.mlp_ratio)


@dataclass(frozen=True)
class ViTSpace(Space[ViTArch]):
    """The options of each dimension; per-block dimensions have the same options in every block.

    Every architecture has heads of `head_dim` channels and patches of `patch_size` pixels a side.
    """

    embed_dim: Sequence[int]
    depth: Sequence[int]
    num_heads: Sequence[int]
    mlp_ratio: Sequence[float]
    rank: Sequence[int] = (0,)
    num_atoms: Sequence[int] = (0,)
    head_dim: int = 64
    patch_size: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            key = f"space.{field.name}"
            if field.name in ("head_dim", "patch_size"):
                check_positive(key, value, int)
                continue
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise ValueError(f"{key} must be a list of at least one option, got {value!r}")
            for option in value:
                if not (field.name in ("rank", "num_atoms") and option == 0):
                    check_positive(key, option, float if field.name == "mlp_ratio" else int)
            if list(value) != sorted(set(value)):
                raise ValueError(f"{key} must be in ascending order without repeats, got {value}")
            # A list from a config file would make the space unhashable.
            object.__setattr__(self, field.name, tuple(value))

    def choices(self) -> dict[str, tuple[Option, ...]]:
        choices: dict[str, tuple[Option, ...]] = {
            "embed_dim": tuple(self.embed_dim),
            "depth": tuple(self.depth),
            "num_atoms": tuple(self.num_atoms),
        }
        for block in range(max(self.depth)):
            for name in PER_BLOCK:
                choices[f"blocks.{block}.{name}"] = tuple(getattr(self, name))
        return choices

    def decode(self, values: Mapping[str, Option]) -> ViTArch:
        choices = self.choices()
        check_values(choices, values)
        blocks = range(int(values["depth"]))
        return ViTArch(
            embed_dim=int(values["embed_dim"]),
            num_heads=tuple(int(values[f"blocks.{block}.num_heads"]) for block in blocks),
            mlp_ratio=tuple(float(values[f"blocks.{block}.mlp_ratio"]) for block in blocks),
            rank=tuple(int(values[f"blocks.{block}.rank"]) for block in blocks),
            num_atoms=int(values["num_atoms"]),
        )

    def encode(self, arch: ViTArch) -> dict[str, Option]:
        if arch.depth not in self.depth:
            raise ValueError(f"depth must be one of {list(self.depth)}, got {arch.depth}")
        values = {name: options[0] for name, options in self.choices().items()}
        values.update(embed_dim=arch.embed_dim, depth=arch.depth, num_atoms=arch.num_atoms)
        for block in range(arch.depth):
            for name in PER_BLOCK:
                values[f"blocks.{block}.{name}"] = getattr(arch, name)[block]
        self.decode(values)  # raises for an option that the space does not have
        return values

    def active(self, arch: ViTArch) -> dict[str, Option]:
        unused = {
            f"blocks.{block}.{name}"
            for block in range(arch.depth, max(self.depth))
            for name in PER_BLOCK
        }
        return {name: value for name, value in self.encode(arch).items() if name not in unused}

    def from_record(self, record: Mapping[str, object]) -> ViTArch:
        return self.decode(self.encode(parse(record)))

    def from_text(self, text: str) -> ViTArch:
        """Of the JSON text of a record."""
        try:
            record = json.loads(text)
        except ValueError as error:
            raise ValueError(f"an architecture is written as JSON, got {text!r}") from error
        if not isinstance(record, dict):
            raise ValueError(f"an architecture is a JSON object, got {text!r}")
        return parse(record)

    def describe(self, arch: ViTArch) -> dict[str, str]:
        per_block = {"heads": arch.num_heads, "mlp_ratio": arch.mlp_ratio, "rank": arch.rank}
        return {
            "depth": str(arch.depth),
            "embed_dim": str(arch.embed_dim),
            **{name: " ".join(f"{x:g}" for x in sizes) for name, sizes in per_block.items()},
            "atoms": str(arch.num_atoms),
        }

    def num_archs(self) -> int:
        per_block = len(self.num_heads) * len(self.mlp_ratio) * len(self.rank)
        shared = len(self.embed_dim) * len(self.num_atoms)
        return shared * sum(per_block**depth for depth in self.depth)

    def features(self, arch: ViTArch) -> tuple[float, ...]:
        """The sizes, each block's (0 where it is absent), their sums, and terms of the FLOPs.

        Each is a fraction of the largest architecture's figure, 0 where that is 0.
        """
        largest = self.figures(self.largest())
        pairs = zip(self.figures(arch), largest, strict=True)
        return tuple(figure / most if most else 0.0 for figure, most in pairs)

    def figures(self, arch: ViTArch) -> tuple[float, ...]:
        absent = (0.0,) * (max(self.depth) - arch.depth)
        blocks = [(*getattr(arch, name), *absent) for name in PER_BLOCK]
        heads, hidden, rank = sum(arch.num_heads), sum(arch.mlp_hidden), sum(arch.rank)
        width = arch.embed_dim
        return (
            width,
            arch.depth,
            arch.num_atoms,
            *(size for sizes in blocks for size in sizes),
            heads,  # tokens attend to tokens
            sum(arch.mlp_ratio),
            rank,
            width * arch.depth,
            width * heads,  # q, k, v and o
            width * hidden,  # fc1 and fc2
            width * rank,
            heads * rank,
            width * width * arch.num_atoms,
        )


def parse(record: Mapping[str, object]) -> ViTArch:
    """The architecture of a JSON record, in whatever space; raises ValueError for others."""
    names = [field.name for field in fields(ViTArch)]
    if set(record) != set(names):
        raise ValueError(f"an architecture has the fields {names}, got {sorted(record)}")
    values: dict[str, object] = {}
    for name in names:
        value, per_block = record[name], name in PER_BLOCK
        entries = value if per_block else [value]
        kind = float if name == "mlp_ratio" else int
        if not isinstance(entries, list | tuple) or not all(is_number(e, kind) for e in entries):
            rule = "a list of numbers, one a block" if per_block else "an integer"
            raise ValueError(f"{name} must be {rule}, got {value!r}")
        values[name] = tuple(entries) if per_block else value
    return ViTArch(**values)  # type: ignore[arg-type]  # each value was checked above
