"""Digits among fragments of others: what is drawn, and that no scan is in two splits."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from nas.config.config import parse
from nas.config.run_folder import compose_config
from nas.data import cluttered_digits, images
from nas.data.cluttered_digits import COUNTS, SIDE, cluttered, fragments, placed
from nas.data.images import Source, open_source

NUM = 60


def opened(seed: int) -> Source:
    config = parse(compose_config(["data=cluttered_digits", "space.patch_size=4"]))
    return open_source(config.data, Generator().manual_seed(seed))


def scans_of(num: int) -> Tensor:
    return torch.rand(num, 8, 8, generator=Generator().manual_seed(3)) * 255


def test_the_data_are_a_function_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "COUNTS", dict.fromkeys(COUNTS, NUM))
    first, again, other = opened(0), opened(0), opened(1)
    for one in (first, again, other):
        assert one.pixels is not None
        assert one.pixels.shape == (3 * NUM, 1, SIDE, SIDE)
        assert one.pixels.dtype == torch.uint8
    assert torch.equal(first.pixels, again.pixels)  # type: ignore[arg-type]
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.pixels, other.pixels)  # type: ignore[arg-type]
    assert sum(map(len, first.splits.values())) == 3 * NUM


def test_no_scan_is_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[bytes]] = []

    def watched(scans: Tensor, generator: Generator, count: int) -> tuple[Tensor, Tensor]:
        seen.append({scan.numpy().tobytes() for scan in scans})
        return cluttered(scans, generator, count)

    monkeypatch.setattr(images, "COUNTS", dict.fromkeys(COUNTS, NUM))
    monkeypatch.setattr(images, "cluttered", watched)
    opened(0)
    train, val, test = seen
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train) + len(val) + len(test) > 1700  # of 1,797


def test_targets_are_the_classes_of_the_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "COUNTS", dict.fromkeys(COUNTS, NUM))
    monkeypatch.setattr(cluttered_digits, "NUM_FRAGMENTS", 0)
    monkeypatch.setattr(cluttered_digits, "TURN", 0.0)
    monkeypatch.setattr(cluttered_digits, "DIGIT", (SIDE, SIDE))
    source = opened(0)
    digits = load_digits()
    scans = torch.from_numpy(digits.images * (255 / 16)).float()
    large = F.interpolate(scans[:, None], SIDE, mode="bilinear", align_corners=False)
    for image, target in zip(source.pixels, source.targets, strict=True):  # type: ignore[arg-type]
        nearest = (large - image).square().sum((1, 2, 3)).argmin()
        assert int(digits.target[nearest]) == int(target)


def test_a_scan_is_scaled_turned_and_placed_within_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scans = torch.full((NUM, 8, 8), 200.0)
    monkeypatch.setattr(cluttered_digits, "TURN", 0.0)
    upright = placed(scans, (12.0, 12.0), Generator().manual_seed(0))
    # All of its brightness is in the image, at a mean size of 12 x 12 pixels.
    assert_close(upright.sum((1, 2)), torch.full((NUM,), 200.0 * 144), rtol=0.02, atol=0)
    rows = upright.sum(2).argmax(1)
    assert rows.min() < 4  # everywhere
    assert rows.max() > 8
    monkeypatch.setattr(cluttered_digits, "TURN", 45.0)
    turned = placed(scans, (12.0, 12.0), Generator().manual_seed(0))
    widths = (turned > 0).any(1).sum(1)
    assert widths.min() < 14
    assert widths.max() > 12 * math.sqrt(2) - 2


def test_a_fragment_is_a_window_of_a_scan() -> None:
    scans = scans_of(5) + 1
    parts = list(fragments(scans, Generator().manual_seed(0), NUM))
    assert len(parts) == cluttered_digits.NUM_FRAGMENTS
    for part in parts:
        for one in part:
            rows, columns = (one > 0).any(1), (one > 0).any(0)
            assert rows.sum() == columns.sum() == cluttered_digits.WINDOW
            match = [torch.equal(one[one > 0], scan[one > 0]) for scan in scans]
            assert sum(match) == 1


def test_every_scan_is_used_equally_often_but_for_one() -> None:
    _, chosen = cluttered(scans_of(7), Generator().manual_seed(0), 24)
    assert sorted(torch.bincount(chosen).tolist()) == [3, 3, 3, 3, 4, 4, 4]


def test_other_sizes_are_refused() -> None:
    options = "data=cluttered_digits", "data.img_size=28", "space.patch_size=4"
    config = parse(compose_config(options))
    with pytest.raises(ValueError, match=r"data\.img_size must be 24 for cluttered_digits, got 28"):
        open_source(config.data, Generator())
