import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Generator, Tensor

from nas.config.sections import DataConfig
from nas.data.augmentation import flip, translate
from nas.data.batches import Dataset, Resident, Split, Stream, load
from supernet.image_tasks import Classification
from supernet.task import Batch

CPU = torch.device("cpu")
SPLITS: tuple[Split, ...] = ("train", "val", "test")
DIGITS: dict[str, Any] = {
    "name": "digits",
    "root": "",
    "targets": "",
    "columns": [],
    "img_size": 8,
    "in_chans": 1,
    "num_classes": 10,
    "mean": [0.3],
    "std": [0.4],
    "val_fraction": 0.2,
    "test_fraction": 0.25,
    "batch_size": 4,
    "loader": "resident",
    "resident_mib": 1,
    "workers": 0,
    "shift": 0,
    "flip": False,
    "auto_augment": "",
    "mixup": 0.0,
    "cutmix": 0.0,
}
FOLDER = DIGITS | {
    "name": "image_folder",
    "in_chans": 3,
    "num_classes": 2,
    "mean": [0.3, 0.4, 0.5],
    "std": [0.2, 0.3, 0.4],
}
MIXED: dict[str, Any] = {"mixup": 0.8, "cutmix": 1.0, "flip": True}
LOADERS: dict[str, dict[str, Any]] = {
    "resident": {"loader": "resident", "shift": 2},
    "stream": {"loader": "stream", "auto_augment": "rand-m9-mstd0.5-inc1"},
    "stream with workers": {"loader": "stream", "auto_augment": "rand-m9-mstd0.5", "workers": 2},
}


def open_data(settings: dict[str, Any], seed: int = 0, **changes: Any) -> Dataset:
    config = DataConfig(**(settings | changes))
    sizes = config.in_chans, config.img_size, config.mean, config.std
    task = Classification(*sizes, config.num_classes, label_smoothing=0.1)
    return load(config, task, seed=seed, device=CPU)


def numbers(data: Dataset) -> dict[Split, Tensor]:
    assert isinstance(data, Resident | Stream)
    return data.source.splits


def save_images(folder: Path, num_images: int, *, mode: str = "RGB") -> None:
    """Noise of 11x9 pixels, so that resizing and cropping both have work to do."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(num_images).integers(0, 256, (num_images, 9, 11, 3), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).convert(mode).save(folder / f"{index}.png")


@pytest.fixture
def root(tmp_path: Path) -> str:
    save_images(tmp_path / "cat", 7)
    save_images(tmp_path / "dog", 12, mode="L")
    return str(tmp_path)


def assert_equal(batches: Iterable[Batch], expected: Iterable[Batch]) -> None:
    for batch, other in zip(batches, expected, strict=True):
        ours, theirs = (*batch.inputs, *batch[1:]), (*other.inputs, *other[1:])
        for tensor, value in zip(ours, theirs, strict=True):
            assert torch.equal(tensor, value)


# Splits


def test_splits_share_no_image_and_leave_none_out() -> None:
    splits = numbers(open_data(DIGITS))
    together = torch.cat([splits[split] for split in SPLITS])
    assert torch.equal(together.sort().values, torch.arange(1797))


def test_every_class_is_split_in_the_same_proportion() -> None:
    splits = numbers(open_data(DIGITS))
    targets = torch.from_numpy(load_digits().target)
    counts = {split: targets[splits[split]].bincount() for split in SPLITS}
    total = targets.bincount()
    torch.testing.assert_close(counts["test"] / total, torch.full((10,), 0.25), atol=3e-3, rtol=0)
    rest = total - counts["test"]
    torch.testing.assert_close(counts["val"] / rest, torch.full((10,), 0.2), atol=5e-3, rtol=0)


def test_splits_depend_on_the_seed_alone() -> None:
    first = numbers(open_data(DIGITS, seed=3))
    torch.manual_seed(99)
    again = numbers(open_data(DIGITS, seed=3, **MIXED, **LOADERS["stream"]))
    other = numbers(open_data(DIGITS, seed=4))
    for split in SPLITS:
        assert torch.equal(first[split], again[split])
        assert not torch.equal(first[split], other[split])


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_test_folder_is_the_test_split_and_val_is_cut_from_train(
    tmp_path: Path, name: str
) -> None:
    for label in ("cat", "dog"):
        save_images(tmp_path / "train" / label, 10)
        save_images(tmp_path / name / label, 3)
    splits = numbers(open_data(FOLDER, root=str(tmp_path)))
    assert splits["test"].tolist() == list(range(20, 26))
    assert torch.cat([splits["train"], splits["val"]]).sort().values.tolist() == list(range(20))
    assert sorted((splits["val"] // 10).tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_each_split_has_an_image_of_each_class_whatever_the_fractions(
    tmp_path: Path, fraction: float
) -> None:
    for label in ("cat", "dog"):
        save_images(tmp_path / label, 3)
    settings = FOLDER | {"val_fraction": fraction, "test_fraction": fraction}
    splits = numbers(open_data(settings, root=str(tmp_path)))
    assert [sorted((splits[split] // 3).tolist()) for split in SPLITS] == [[0, 1]] * 3


def test_classes_are_numbered_by_name_and_hidden_files_left_out(root: str) -> None:
    save_images(Path(root) / ".cache", 3)
    (Path(root) / "cat" / "._0.png").write_bytes(b"not an image")
    (Path(root) / "cat" / "notes.txt").write_text("not an image")
    data = open_data(FOLDER, root=root)
    assert isinstance(data, Resident)
    assert data.task.facts()["classes"] == ["cat", "dog"]
    assert data.source.targets.tolist() == [0] * 7 + [1] * 12


# Evaluation


def test_digits_are_their_pixels_normalised() -> None:
    data = open_data(DIGITS)
    images = torch.cat([batch.inputs[0] for batch in data.eval_batches("val", 100)])
    sixteenths = (images[:, 0].double() * 0.4 + 0.3) * 16
    expected = torch.from_numpy(load_digits().images)[numbers(data)["val"]]
    torch.testing.assert_close(sixteenths, expected, atol=16 * 0.5 / 255 + 1e-5, rtol=0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_eval_images_are_resized_by_the_shorter_side_and_cropped(
    root: str, loader: str, workers: int
) -> None:
    settings = FOLDER | {"img_size": 18, "loader": loader, "workers": workers, "flip": True}
    data = open_data(settings, root=root)
    files = sorted(map(str, Path(root).rglob("*.png")))
    for batch in data.eval_batches("val", 2):
        for image, index in zip(batch.inputs[0], batch.indices, strict=True):
            with Image.open(files[numbers(data)["val"][index]]) as file:
                picture = file.convert("RGB").resize((22, 18), Image.Resampling.BICUBIC)
            pixels = np.array(picture.crop((2, 0, 20, 18)), np.float32) / 255
            expected = (pixels - [0.3, 0.4, 0.5]) / [0.2, 0.3, 0.4]
            torch.testing.assert_close(image, torch.from_numpy(expected).permute(2, 0, 1).float())


def test_both_loaders_evaluate_the_same_images_to_the_bit() -> None:
    resident, stream = (open_data(DIGITS, loader=loader) for loader in ("resident", "stream"))
    assert_equal(resident.eval_batches("val", 100), stream.eval_batches("val", 100))


@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_evaluation_sees_every_example_of_a_split_once(loader: str) -> None:
    data = open_data(DIGITS, loader=loader, flip=True, mixup=0.5)
    targets = torch.from_numpy(load_digits().target)
    for split in SPLITS:
        batches = list(data.eval_batches(split, 100))
        indices = torch.cat([batch.indices for batch in batches])
        assert torch.equal(indices, torch.arange(data.num_examples(split)))
        expected = targets[numbers(data)[split]]
        assert torch.equal(torch.cat([batch.targets for batch in batches]), expected)


# Training


@pytest.mark.parametrize("loader", LOADERS)
def test_resuming_equals_never_having_stopped(loader: str) -> None:
    data = open_data(DIGITS, **MIXED, **LOADERS[loader])
    indices = torch.randperm(data.num_train, generator=Generator().manual_seed(1))[:26]
    whole = list(data.train_batches(indices, batch_size=4, seed=5))
    assert len(whole) == 6
    rest = data.train_batches(indices, batch_size=4, seed=5, start=4)
    assert_equal(rest, whole[4:])


def test_the_number_of_workers_changes_nothing() -> None:
    changes = MIXED | LOADERS["stream"]
    indices = torch.arange(24)
    alone, shared = (
        open_data(DIGITS, **changes | {"workers": workers}).train_batches(
            indices, batch_size=8, seed=5
        )
        for workers in (0, 2)
    )
    assert_equal(alone, shared)


@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_batches_follow_the_order_given_and_drop_the_incomplete_last(loader: str) -> None:
    data = open_data(DIGITS, loader=loader)
    indices = torch.tensor([5, 3, 3, 900, 0, 7, 1])
    batches = list(data.train_batches(indices, batch_size=3, seed=0))
    assert [batch.indices.tolist() for batch in batches] == [[5, 3, 3], [900, 0, 7]]
    expected = torch.from_numpy(load_digits().target)[numbers(data)["train"]]
    for batch in batches:
        assert torch.equal(batch.targets, expected[batch.indices])


@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_augmentation_changes_with_the_seed_the_batch_and_the_place(loader: str) -> None:
    shift = 3 if loader == "resident" else 0
    data = open_data(DIGITS, loader=loader, flip=True, shift=shift)
    indices = torch.zeros(32, dtype=torch.int64)  # one image, 32 times
    (first,), (second,) = (b.inputs for b in data.train_batches(indices, batch_size=16, seed=0))
    (other,), _ = (b.inputs for b in data.train_batches(indices, batch_size=16, seed=1))
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(second, other)
    assert len(torch.unique(first, dim=0)) > 8


def test_a_translated_image_is_a_shift_of_its_source_with_zeros_moved_in() -> None:
    images = torch.randint(1, 256, (200, 2, 4, 3), generator=Generator().manual_seed(0))
    images = images.to(torch.uint8)
    moved = translate(images, 2, Generator().manual_seed(1))
    seen = set()
    for image, result in zip(images, moved, strict=True):
        shifts = {
            (down, right): shifted(image, down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
        }
        matches = [key for key, value in shifts.items() if torch.equal(value, result)]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 25


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    result = torch.zeros_like(image)
    _, H, W = image.shape
    for row in range(H):
        for column in range(W):
            if 0 <= row - down < H and 0 <= column - right < W:
                result[:, row, column] = image[:, row - down, column - right]
    return result


def test_about_half_of_the_images_are_mirrored_and_the_others_unchanged() -> None:
    images = torch.rand(400, 2, 3, 4, generator=Generator().manual_seed(0))
    result = flip(images, Generator().manual_seed(1))
    same = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(-1)).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)
    assert 150 < int(mirrored.sum()) < 250


def test_training_without_augmentation_sees_the_images_of_evaluation() -> None:
    data = open_data(DIGITS)
    (seen,) = data.eval_batches("train", data.num_train)
    indices = torch.tensor([8, 1, 8, 30])
    (batch,) = data.train_batches(indices, batch_size=4, seed=0)
    assert torch.equal(batch.inputs[0], seen.inputs[0][indices])


@pytest.mark.parametrize("mix", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_mixed_targets_are_probabilities_with_smoothing(loader: str, mix: dict[str, Any]) -> None:
    data = open_data(DIGITS, **mix, loader=loader)
    (plain,) = data.eval_batches("train", data.num_train)
    shares = set()
    for batch in data.train_batches(torch.arange(80), batch_size=8, seed=0):
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(8))
        labels = torch.nn.functional.one_hot(plain.targets[batch.indices], 10).float()
        # Each is a mixture of two smoothed labels: its own and that of the batch read backwards.
        smoothed = 0.9 * labels + 0.01
        own = plain.targets[batch.indices] == plain.targets[batch.indices.flip(0)]
        torch.testing.assert_close(batch.targets[own], smoothed[own])
        assert bool((batch.targets.amin(1) > 0.0099).all())
        assert bool(((batch.targets > 0.011).sum(1) <= 2).all())
        shares.add(float(batch.targets[~own].amax()))
    assert len(shares) > 5  # each batch draws its own


@pytest.mark.parametrize("loader", LOADERS)
def test_global_generators_neither_matter_nor_change(loader: str) -> None:
    results = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = global_state()
        data = open_data(DIGITS, **MIXED, **LOADERS[loader])
        batches = []
        for batch in data.train_batches(torch.arange(16), batch_size=8, seed=0):
            assert global_state() == before
            batches.append(batch)
        list(data.eval_batches("val", 200))
        assert global_state() == before
        results.append(batches)
    assert_equal(*results)


def global_state() -> tuple[Any, ...]:
    _, keys, *rest = np.random.get_state()
    numpy_state = np.asarray(keys).tolist(), rest
    return random.getstate(), numpy_state, torch.get_rng_state().tolist()


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "original", "augmix-m5-w3"])
def test_grey_images_take_the_policies_of_timm(root: str, policy: str) -> None:
    grey = FOLDER | {"in_chans": 1, "mean": [0.3], "std": [0.4]}
    data = open_data(grey, root=root, loader="stream", auto_augment=policy)
    indices = torch.arange(data.num_train).repeat(4)
    assert len(list(data.train_batches(indices, batch_size=8, seed=0))) == len(indices) // 8


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 16}, r"data\.img_size must be 8 for digits, got 16"),
        ({"in_chans": 3, "mean": [0.0] * 3, "std": [1.0] * 3}, r"data\.in_chans must be 1 for"),
        ({"in_chans": 2, "mean": [0.0] * 2, "std": [1.0] * 2}, r"data\.in_chans must be one of"),
        ({"num_classes": 9}, r"data\.num_classes must be 10 for digits, got 9"),
        ({"loader": "stream", "shift": 1}, r"data\.shift must be 0 with the stream loader"),
        ({"auto_augment": "rand-m9"}, r"data\.auto_augment must be empty with the resident"),
        ({"loader": "stream", "auto_augment": "best"}, r"data\.auto_augment must be a policy"),
        ({"shift": 8}, r"data\.shift must be less than data\.img_size \(8\), got 8"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(DIGITS, **changes)


def test_auto_holds_a_data_set_up_to_the_given_size(root: str) -> None:
    # 19 images of 3 x 136 x 136 bytes are 1.005 MiB, of 3 x 135 x 135 are 0.991 MiB.
    small, large = (
        open_data(FOLDER, root=root, loader="auto", img_size=size) for size in (135, 136)
    )
    assert isinstance(small, Resident)
    assert isinstance(large, Stream)
    with pytest.raises(ValueError, match=r"data\.shift must be 0"):
        open_data(FOLDER, root=root, loader="auto", img_size=136, shift=2)


def test_a_missing_or_empty_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            ValueError, match=r"data\.root must be a folder with one folder a class"
        ):
            open_data(FOLDER, root=str(path))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_place_where_cifar_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    num_classes = int(name.removeprefix("cifar"))
    with pytest.raises(ValueError, match=rf"data\.root must be a folder with {name}.*file"):
        open_data(FOLDER, name=name, num_classes=num_classes, root=str(tmp_path / "file"))
    with pytest.raises(ValueError, match=rf"data\.num_classes must be {num_classes} for {name}"):
        open_data(FOLDER, name=name, num_classes=7, root=str(tmp_path))


def test_another_number_of_classes_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match=r"data\.num_classes must be 2.*got 3"):
        open_data(FOLDER, root=root, num_classes=3)


def test_a_class_without_images_is_named(root: str) -> None:
    (Path(root) / "emu").mkdir()
    with pytest.raises(ValueError, match=r"data\.root must have images.*emu"):
        open_data(FOLDER, root=root, num_classes=3)


def test_a_class_with_too_few_images_is_named(root: str) -> None:
    save_images(Path(root) / "emu", 2)
    with pytest.raises(ValueError, match=r"at least 3 images of class 'emu'.*got 2"):
        open_data(FOLDER, root=root, num_classes=3)


def test_classes_must_be_those_of_the_test_folder(tmp_path: Path) -> None:
    for folder in ("train/cat", "train/dog", "test/cat", "test/emu"):
        save_images(tmp_path / folder, 4)
    with pytest.raises(ValueError, match=r"same classes.*\['dog', 'emu'\]"):
        open_data(FOLDER, root=str(tmp_path))


@pytest.mark.parametrize("folders", [("train", "test", "val"), ("test", "cat"), ("val", "cat")])
def test_a_layout_that_could_be_misread_is_refused(
    tmp_path: Path, folders: tuple[str, ...]
) -> None:
    for folder in folders:
        save_images(tmp_path / folder / "cat", 4)
    with pytest.raises(ValueError, match=r"data\.root must have a train folder beside test or val"):
        open_data(FOLDER, root=str(tmp_path), num_classes=1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loader", ["resident", "stream"])
@pytest.mark.parametrize("damage", ["text", "cut short", "16 bits"])
def test_an_unreadable_image_is_named(root: str, damage: str, loader: str, workers: int) -> None:
    path = Path(root) / "cat" / "3.png"
    if damage == "16 bits":
        Image.fromarray(np.full((9, 9), 300, np.uint16)).save(path)
    else:
        path.write_bytes(b"text" if damage == "text" else path.read_bytes()[:80])
    with pytest.raises(ValueError, match=r"data\.root: cannot read image \S*cat/3\.png: .*$"):
        read_everything(open_data(FOLDER, root=root, loader=loader, workers=workers))


def read_everything(data: Dataset) -> None:
    for split in SPLITS:
        list(data.eval_batches(split, 4))


@pytest.mark.parametrize("loader", ["resident", "stream"])
@pytest.mark.parametrize("indices", [[-1, 0], [0, 10**6], [0.0, 1.0], [[0, 1]], [True, False]])
def test_indices_outside_the_train_split_are_refused(loader: str, indices: list[Any]) -> None:
    data = open_data(DIGITS, loader=loader)
    with pytest.raises(ValueError, match="indices must be an int64 vector of positions below"):
        next(data.train_batches(torch.tensor(indices), batch_size=2, seed=0))
