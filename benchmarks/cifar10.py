"""CIFAR-10 for the benchmarks: a file of JPEG images, unpacked once into a folder of images."""

import tempfile
from pathlib import Path

import numpy as np

# All images as JPEG bytes; README.md of that folder says where they come from.
PACKED = Path(__file__).parents[2] / "shared" / "data" / "cifar10" / "cifar10_jpeg.npz"

# Of a supernet on such a folder; data.root is to be added.
SETTINGS = (
    "experiment=cifar10_small",
    "data=image_folder",
    "data.num_classes=10",
    "data.img_size=32",
    "data.mean=[0.4914,0.4822,0.4465]",
    "data.std=[0.2470,0.2435,0.2616]",
    "data.loader=resident",
    "data.workers=0",
    "data.shift=4",
    "data.mixup=0",
    "data.cutmix=0",
)


def unpack(packed: Path, folder: Path, per_class: int) -> Path:
    """The folder, with train/<class>/ and test/<class>/ of the first `per_class` images (or all).

    Of test images there are a fifth as many. What is there already is kept.
    """
    if folder.exists():
        return folder
    if not packed.exists():
        raise SystemExit(f"--cifar10 must be the file cifar10_jpeg.npz, got {packed}")
    arrays = np.load(packed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        for split, limit in (("train", per_class), ("test", per_class // 5)):
            unpack_split(arrays, split, limit, Path(name, folder.name))
        Path(name, folder.name).rename(folder)
    return folder


def unpack_split(arrays: "np.lib.npyio.NpzFile", split: str, limit: int, folder: Path) -> None:
    data, offsets, labels = (arrays[f"{split}_{part}"] for part in ("bytes", "offsets", "labels"))
    written = dict.fromkeys(range(len(arrays["classes"])), 0)
    for label, start, end in zip(labels.tolist(), offsets[:-1], offsets[1:], strict=True):
        if written[label] == limit:
            continue
        path = folder / split / str(arrays["classes"][label]) / f"{written[label]:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[start:end].tobytes())
        written[label] += 1
