"""How exactly an extracted subnet computes what the supernet computes, and what its files store.

    python benchmarks/exactness.py

For each preset, 100 random architectures with random weights, norms and biases: the largest
difference of any output (fp32, CPU), and whether the ledger equals a count of the elements of both
saved files. Batch norms use the batch's statistics, and their own do not count. The last line of
output is JSON.
"""

import argparse
import json
import tempfile
from pathlib import Path
from random import Random

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nas.config.config import parse
from nas.config.run_folder import compose_config
from nas.train.weights import new_supernet
from supernet.batch_norm import batch_statistics
from supernet.parameter_counts import count

# The other presets see 32x32 images, in patches of 4 pixels a side.
OPTIONS = {"digits": ["data=digits"], "nasbench201": ["data=cifar10", "source=none"]}
PRESETS = ("digits", "autoformer_tiny", "autoformer_small", "autoformer_base", "nasbench201")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--archs", type=int, default=100, help="architectures a preset")
    options = parser.parse_args()
    results = {}
    for preset in PRESETS:
        results[preset] = check(preset, options.archs)
        print(preset, results[preset], flush=True)
    print(json.dumps(results))


@torch.no_grad()
def check(preset: str, num_archs: int) -> dict[str, float]:
    """Largest difference of an output and number of wrong counts over random architectures."""
    options = OPTIONS.get(preset, ["data=cifar10", "space.patch_size=4"])
    config = parse(compose_config([f"space={preset}", *options]))
    supernet = new_supernet(config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in supernet.named_parameters():
        if parameter.ndim <= 2 or name.endswith(".b"):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    data = config.data
    images = torch.randn(2, data.in_chans, data.img_size, data.img_size, generator=generator)
    worst, wrong, paths = 0.0, 0, Random(0)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(num_archs):
            arch = config.space.sample(paths)
            plain = supernet.extract(arch)
            with batch_statistics(plain):
                worst = max(worst, float((plain(images) - supernet(images, arch=arch)).abs().max()))
            counts = count(supernet, arch)
            save_file(supernet.factorise(arch), Path(folder, "factorised"))
            save_file(plain.state_dict(), Path(folder, "merged"))
            buffers = {name for name, _ in plain.named_buffers()}
            wrong += elements(Path(folder, "factorised"), buffers) != counts.stored_factorised
            wrong += elements(Path(folder, "merged"), buffers) != counts.stored_merged
    return {"num_archs": num_archs, "largest_difference": worst, "wrong_counts": wrong}


def elements(path: Path, left_out: set[str]) -> int:
    """Elements of the tensors of a safetensors file but for some, as its header says."""
    with safe_open(path, framework="pt") as file:
        names = set(file.keys()) - left_out
        shapes = [file.get_slice(name).get_shape() for name in names]
    return sum(int(torch.Size(shape).numel()) for shape in shapes)


if __name__ == "__main__":
    main()
