import re
from pathlib import Path

import pytest

from nas.report.arch_section import arch_picture
from search_spaces.cell import OPERATIONS, CellArch, CellSpace
from search_spaces.vit import ViTArch
from tests.report.made_up import LARGEST, SMALLEST, SPACE, best, counts_of
from tests.report.pages import change_search, part_of, rows, written


def bars(picture: str, kind: str) -> list[float]:
    """The lengths of the bars, filled or dashed."""
    found = re.findall(rf'width="([\d.]+)" height="14" rx="2" fill="{kind}"', picture)
    return [float(width) for width in found]


def words(picture: str, kind: str) -> list[str]:
    return re.findall(rf'class="{kind}">(.*?)</text>', picture)


def test_the_picture_draws_every_choice_relative_to_its_largest_option() -> None:
    arch = ViTArch(embed_dim=32, num_heads=(4, 1), mlp_ratio=(4.0, 2.0), rank=(2, 4), num_atoms=3)
    picture = arch_picture(SPACE, arch)
    assert words(picture, "note") == ["", "blocks.0", "blocks.1", "blocks.2"]
    names = words(picture, "names")
    assert names[:3] == ["embed_dim 32", "depth 2", "num_atoms 3"]
    assert names[3:6] == ["num_heads 4", "mlp_ratio 4", "rank 2"]
    assert names[-3:] == ["num_heads left out", "mlp_ratio left out", "rank left out"]
    (whole,) = set(bars(picture, "none"))
    assert len(bars(picture, "none")) == len(SPACE.choices())
    shares = [length / whole for length in bars(picture, "#56b4e9")]
    expected = [0.5, 2 / 3, 1.0, 1.0, 1.0, 0.25, 0.25, 0.5, 0.5]
    assert shares == pytest.approx(expected, abs=1e-3)


def test_words_are_drawn_by_their_place_among_the_options() -> None:
    picture = arch_picture(CellSpace(), CellArch((*OPERATIONS, "none")))
    assert words(picture, "note") == ["edges"]
    assert words(picture, "names")[0] == "1&lt;-0 none"
    (whole,) = set(bars(picture, "none"))
    shares = [length / whole for length in bars(picture, "#56b4e9")]
    assert shares == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 0.0], abs=1e-3)


def test_the_largest_fills_every_bar() -> None:
    picture = arch_picture(SPACE, LARGEST)
    assert bars(picture, "#56b4e9") == bars(picture, "none")


def test_the_three_counts_stand_beside_the_largests(run: Path) -> None:
    found = rows(written(run), "Parameters: three counts")
    own, most = counts_of(best().arch), counts_of(LARGEST)
    assert [row["chosen"] for row in found[:3]] == [
        f"{count:,}" for count in (own.stored_factorised, own.stored_merged, own.resident)
    ]
    assert [row["largest"] for row in found[:3]] == [
        f"{count:,}" for count in (most.stored_factorised, most.stored_merged, most.resident)
    ]
    assert found[0]["chosen of largest"] == (
        f"{100 * own.stored_factorised / most.stored_factorised:.1f}&nbsp;%"
    )
    assert found[3]["parameters"].startswith("FLOPs")


def test_without_a_choice_there_is_neither_picture_nor_count(run: Path) -> None:
    (run / "subnet" / "card.json").unlink()
    counted = rows(written(run), "Parameters: three counts")
    assert counted[0]["chosen"] == f"{counts_of(best().arch).stored_factorised:,}"
    change_search(run, chosen=None)
    page = written(run)
    for title in ("The chosen architecture", "Parameters: three counts"):
        assert "No subnet is chosen" in part_of(page, title)
    assert SMALLEST != LARGEST
