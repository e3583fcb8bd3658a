"""Latency of extracted subnets over the same architectures built by hand from timm's blocks.

    python benchmarks/export_latency.py

AutoFormer-tiny on 32x32 images in patches of 4, batch 64, fp32, passes of both interleaved in one
process. The last line of output is JSON: the median over five subnets of the median ratio.
"""

import argparse
import json
import statistics
from contextlib import closing
from random import Random

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from nas.config.config import parse
from nas.config.run_folder import compose_config
from nas.hardware.device import device_card
from nas.measure.bench import Bench, effort_of
from nas.train.weights import new_supernet
from search_spaces.vit import ViTArch

NUM_SUBNETS = 5
PRESET = ("space=autoformer_tiny", "space.patch_size=4", "data=cifar10")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--passes", type=int, default=30, help="timed pairs a subnet")
    options = parser.parse_args()
    settings = [*PRESET, f"target.device={options.device}"]
    config = parse(compose_config([*settings, f"target.passes={options.passes}"]))
    inputs = config.task.example_inputs(config.target.batch_size)
    card, effort = device_card(config.target, inputs), effort_of(config.target)
    supernet = new_supernet(config)
    ratios, generator = [], Random(0)
    for number in range(NUM_SUBNETS):
        arch = config.space.sample(generator)
        assert isinstance(arch, ViTArch)
        with closing(Bench(by_hand(arch), inputs, card, effort)) as bench:
            latency = bench.sessions([supernet.extract(arch)])[0].latency()
        ratios.append(latency.ratio)
        print(
            f"subnet {number}: depth {arch.depth} width {arch.embed_dim}, "
            f"{latency.median_ms:.1f} ms, by hand {latency.reference_ms:.1f} ms, ratio "
            f"{latency.ratio:.3f} [{latency.ratio_low:.3f}, {latency.ratio_high:.3f}]",
            flush=True,
        )
    print(card.describe())
    print(json.dumps({"ratio": round(statistics.median(ratios), 3)}))


def by_hand(arch: ViTArch) -> VisionTransformer:
    """What one would write with timm alone."""
    blocks = []
    for heads, ratio in zip(arch.num_heads, arch.mlp_ratio, strict=True):
        block = Block(arch.embed_dim, num_heads=1, mlp_ratio=ratio, qkv_bias=True)
        block.attn = Attention(arch.embed_dim, num_heads=heads, attn_head_dim=64, qkv_bias=True)
        blocks.append(block)
    model = VisionTransformer(
        img_size=32,
        patch_size=4,
        num_classes=10,
        embed_dim=arch.embed_dim,
        depth=arch.depth,
        num_heads=1,
        class_token=False,
        global_pool="avg",
    )
    model.blocks = nn.Sequential(*blocks)
    return model.eval()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
