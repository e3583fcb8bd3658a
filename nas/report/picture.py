"""A picture of one architecture as inline SVG: a row a block, over the largest one's outline."""

from nas.report.formatting import Record, finite, number

WIDTH, ROW, TOP = 960, 34, 78  # pixels
LABEL_X, HEADS_X, HEADS_WIDTH, MLP_X, MLP_WIDTH, NOTE_X = 4, 92, 210, 326, 380, 722
MOST = 256  # blocks, or heads of a block; a stranger's file may ask for any number
LARGEST_SIZE = 1_000_000  # of an embedding, a ratio or a rank, for the same reason
PER_BLOCK = ("num_heads", "mlp_ratio", "rank")

FILLED = 'fill="#56b4e9" stroke="#0072b2"'
OUTLINE = 'fill="none" stroke="#9aa5b1" stroke-dasharray="3 3"'


def can_draw(arch: object) -> bool:
    """Whether this is a vision transformer's architecture of a size that fits a page."""
    if not isinstance(arch, dict) or not {"embed_dim", "num_atoms", *PER_BLOCK} <= arch.keys():
        return False
    lists = [arch[name] for name in PER_BLOCK]
    if not all(isinstance(values, list) and 0 < len(values) <= MOST for values in lists):
        return False
    numbers = [
        arch["embed_dim"],
        arch["num_atoms"],
        *(value for values in lists for value in values),
    ]
    sizes = [size for value in numbers if (size := finite(value)) is not None]
    return (
        len(sizes) == len(numbers)
        and all(0 <= size <= LARGEST_SIZE for size in sizes)
        and len({len(values) for values in lists}) == 1
        and all(isinstance(value, int) and value <= MOST for value in arch["num_heads"])
    )


def arch_picture(arch: Record, largest: Record) -> str:
    """SVG of `arch`; widths are on the scale of `largest`, whose outline is drawn behind it."""
    blocks, whole = rows(arch), rows(largest)
    depth = max(len(blocks), len(whole))
    most_heads = max(heads for heads, _, _ in blocks + whole)
    most_hidden = max(
        [hidden for _, hidden, _ in blocks + whole] + [arch["embed_dim"], largest["embed_dim"]]
    )
    step = min(18.0, HEADS_WIDTH / max(most_heads, 1))
    scale = MLP_WIDTH / max(most_hidden, 1)
    parts = heading(arch, largest, scale)
    for index in range(depth):
        y = TOP + ROW * index
        if index < len(whole):
            parts += block(whole[index], y, step, scale, OUTLINE)
        parts.append(label(LABEL_X, y, f"block {index + 1}"))
        if index < len(blocks):
            parts += block(blocks[index], y, step, scale, FILLED)
            heads, hidden, rank = blocks[index]
            note = f"heads {heads}, hidden {number(hidden)}, rank {number(rank)}"
            parts.append(label(NOTE_X, y, note))
        else:
            parts.append(label(NOTE_X, y, "left out"))
    height = TOP + ROW * depth
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="The chosen architecture, block by block">{"".join(parts)}</svg>'
    )


def rows(arch: Record) -> list[tuple[int, int, float]]:
    """(heads, MLP hidden size, adapter rank) of each block."""
    return [
        (heads, int(arch["embed_dim"] * ratio), rank)
        for heads, ratio, rank in zip(*(arch[name] for name in PER_BLOCK), strict=True)
    ]


def heading(arch: Record, largest: Record, scale: float) -> list[str]:
    """The embedding's bar and the columns' names."""
    return [
        label(LABEL_X, 4, "embedding"),
        rectangle(MLP_X, 8, largest["embed_dim"] * scale, OUTLINE),
        rectangle(MLP_X, 8, arch["embed_dim"] * scale, FILLED),
        label(
            NOTE_X,
            4,
            f"embed_dim {number(arch['embed_dim'])}, num_atoms {number(arch['num_atoms'])}",
        ),
        label(HEADS_X, 42, "attention heads", "names"),
        label(MLP_X, 42, "MLP hidden size", "names"),
    ]


def block(
    row: tuple[int, int, float], y: float, step: float, scale: float, style: str
) -> list[str]:
    heads, hidden, _ = row
    squares = [
        f'<rect x="{HEADS_X + step * index:.1f}" y="{y + 5 + (22 - 0.8 * step) / 2:.1f}" '
        f'width="{0.8 * step:.1f}" height="{0.8 * step:.1f}" {style}/>'
        for index in range(heads)
    ]
    return [*squares, rectangle(MLP_X, y + 5, hidden * scale, style)]


def rectangle(x: float, y: float, length: float, style: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{length:.1f}" height="22" rx="2" {style}/>'


def label(x: float, y: float, words: str, kind: str = "note") -> str:
    return f'<text x="{x}" y="{y + 21}" class="{kind}">{words}</text>'
