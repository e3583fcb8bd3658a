"""Images with numbers to predict, listed in a csv."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nas.config.config import parse
from nas.config.run_folder import compose_config
from nas.data.batches import Dataset, Resident, Split, Stream, load

NUM_IMAGES = 20
ROWS = [["file", "age", "name", "size"]] + [
    [f"faces/{number}.png", number * 1.5, "x", -number] for number in range(NUM_IMAGES)
]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of images, each of one grey, which tells its number."""
    (tmp_path / "faces").mkdir()
    for number in range(NUM_IMAGES):
        Image.fromarray(np.full((9, 11), number * 10, np.uint8)).save(
            tmp_path / "faces" / f"{number}.png"
        )
    write(tmp_path / "ages.csv", ROWS)
    return tmp_path


def write(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def open_targets(root: Path, *options: str) -> Dataset:
    config = parse(
        compose_config(
            [
                "task=regression",
                "data=image_targets",
                f"data.root={root}",
                "data.targets=ages.csv",
                "data.columns=[age]",
                "data.img_size=8",
                "data.flip=false",
                "data.workers=0",
                *options,
            ]
        )
    )
    return load(config.data, config.task, seed=config.seed, device=torch.device("cpu"))


def numbers_of(images: Tensor) -> list[int]:
    """Which image each is, by its grey."""
    pixels = images[:, 0].mean((1, 2)) * 0.229 + 0.485
    return (pixels * 255 / 10).round().int().tolist()


@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_each_image_has_its_own_numbers(root: Path, loader: str) -> None:
    data = open_targets(root, f"data.loader={loader}", "data.columns=[size,age]")
    assert isinstance(data, Resident if loader == "resident" else Stream)
    seen: list[int] = []
    for split in SPLITS:
        for batch in data.eval_batches(split, 4):
            numbers = numbers_of(*batch.inputs)
            assert batch.targets.tolist() == [[-number, number * 1.5] for number in numbers]
            seen += numbers
    assert sorted(seen) == list(range(NUM_IMAGES))
    (batch,) = data.train_batches(torch.arange(6), batch_size=6, seed=0)
    assert batch.targets.dtype == torch.float32
    assert (batch.targets[:, 1] / 1.5).tolist() == numbers_of(*batch.inputs)


def test_the_task_is_fitted_to_the_training_targets_alone(root: Path) -> None:
    data = open_targets(root)
    (batch,) = data.eval_batches("train", data.num_train)
    facts = data.task.facts()
    assert facts["columns"] == ["age"]
    assert facts["target_mean"] == [pytest.approx(float(batch.targets.mean()))]
    assert facts["target_std"] == [pytest.approx(float(batch.targets.std(correction=0)))]


def test_test_and_val_are_cut_where_the_csv_names_no_test_split(root: Path) -> None:
    data = open_targets(root, "data.test_fraction=0.25", "data.val_fraction=0.2")
    assert [data.num_examples(split) for split in SPLITS] == [12, 3, 5]


def test_a_column_split_is_the_test_split_and_val_is_cut_from_train(root: Path) -> None:
    tests = [3, 4, 19]
    column = ["split", *("test" if n in tests else "train" for n in range(NUM_IMAGES))]
    write(root / "ages.csv", [[*row, name] for row, name in zip(ROWS, column, strict=True)])
    data = open_targets(root, "data.val_fraction=0.2")
    (batch,) = data.eval_batches("test", 10)
    assert numbers_of(*batch.inputs) == tests
    assert [data.num_examples(split) for split in ("train", "val")] == [14, 3]


def test_a_csv_may_lie_elsewhere_and_begin_with_a_byte_order_mark(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("elsewhere") / "ages.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (root / "ages.csv").read_bytes())
    data = open_targets(root, f"data.targets={path}")
    assert sum(data.num_examples(split) for split in SPLITS) == NUM_IMAGES


@pytest.mark.parametrize(
    ("line", "place", "text", "message"),
    [
        (1, 1, "aged", r"line 1 must be a header with the column age once, got \['file', 'aged'"),
        (1, 0, "path", "line 1 must be a header with the column file once, got"),
        (1, 3, "age", "line 1 must be a header with the column age once, got"),
        (1, 3, "split", "line 2: split must be train or test, got '0'"),
        (3, 0, "faces/x.png", "line 3: file must be an image in .*, got 'faces/x.png'"),
        (3, 0, "", "line 3: file must be an image in .*, got ''"),
        (3, 0, "faces", "line 3: file must be an image in .*, got 'faces'"),
        (3, 0, "faces/../faces/0.png", "line 3: file must be listed once, got 'faces/../faces"),
        (3, 0, "../faces/0.png", "line 3: file must be an image in .*, got '../faces/0.png'"),
        (4, 1, "old", "line 4: age must be a number that float32 holds, got 'old'"),
        (4, 1, "", "line 4: age must be a number that float32 holds, got ''"),
        (4, 1, "nan", "line 4: age must be a number that float32 holds, got 'nan'"),
        (4, 1, "-inf", "line 4: age must be a number that float32 holds, got '-inf'"),
        (4, 1, "1e39", "line 4: age must be a number that float32 holds, got '1e39'"),
    ],
)
def test_a_bad_line_is_named_with_what_came(
    root: Path, line: int, place: int, text: str, message: str
) -> None:
    (root.parent / "faces").mkdir(exist_ok=True)
    (root.parent / "faces" / "0.png").touch()
    rows = [list(row) for row in ROWS]
    rows[line - 1][place] = text
    write(root / "ages.csv", rows)
    with pytest.raises(ValueError, match=rf"^data\.targets: \S*ages\.csv {message}"):
        open_targets(root)


@pytest.mark.parametrize("fields", [["faces/0.png"], ["faces/0.png", 1, "x", 2, 3]])
def test_a_line_of_another_length_is_named(root: Path, fields: list[object]) -> None:
    write(root / "ages.csv", [ROWS[0], fields])
    with pytest.raises(ValueError, match=r"^data\.targets: .* line 2 must be a line of 4 fields"):
        open_targets(root)


@pytest.mark.parametrize("content", [b"\xff\xfe", b'file,age\n"faces', None])
def test_what_is_no_csv_is_refused(root: Path, content: bytes | None) -> None:
    if content is None:
        (root / "ages.csv").unlink()
    else:
        (root / "ages.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"^data\.targets must be a csv file, got \S*ages\.csv: "):
        open_targets(root)


@pytest.mark.parametrize("num_rows", [0, 2])
def test_too_few_lines_are_refused(root: Path, num_rows: int) -> None:
    write(root / "ages.csv", ROWS[: num_rows + 1])
    rule = r"at least 3 images listed in data\.targets for training to cut a split from"
    with pytest.raises(ValueError, match=rf"{rule}, got {num_rows}"):
        open_targets(root)


def test_targets_that_do_not_vary_are_refused(root: Path) -> None:
    write(root / "ages.csv", [ROWS[0], *([row[0], 7, *row[2:]] for row in ROWS[1:])])
    with pytest.raises(ValueError, match=r"^data\.columns must be finite and vary"):
        open_targets(root)
