"""A target whose latency is known beforehand, and its card, for the tests."""

import torch

from nas.config.sections import TargetConfig
from nas.hardware.device import device_card

CPU = torch.device("cpu")
TARGET = TargetConfig(
    device="cpu",
    runtime="eager",
    table="",
    batch_size=3,
    img_size=5,
    dtype="float32",
    threads=1,
    warmup=1,
    passes=6,
    precision=0.02,
    time_limit_s=5.0,
    compare=[],
)
CARD = device_card(TARGET, in_chans=2)
