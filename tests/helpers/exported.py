"""What reads each exported file as a program of the network's inputs, for the tests."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from nas.export.stage import load_plain, onnx_program
from search_spaces.space import Arch
from supernet.supernet import Supernet

Program = Callable[..., Tensor]
PROGRAMS: dict[str, Callable[[Path, Supernet[Arch], Arch], Program]] = {
    "model.safetensors": lambda path, supernet, arch: load_plain(load_file(path), supernet, arch),
    "factorised.safetensors": lambda path, supernet, arch: load_plain(
        supernet.merge(load_file(path), arch), supernet, arch
    ),
    "model.pt2": lambda path, supernet, arch: torch.export.load(path).module(),
    "model.onnx": lambda path, supernet, arch: onnx_program(path),
}
