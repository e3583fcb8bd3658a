"""The README of an exported subnet."""

import json
from collections.abc import Mapping
from typing import Any

FILES = """\
| file | what |
|---|---|
| `arch.json` | the architecture |
| `model.safetensors` | merged weights, one dense matrix a layer |
| `factorised.safetensors` | shared atoms and adapters, each stored once |
| `model.pt2` | torch.export program, any batch size |
| `model.onnx` | ONNX, any batch size |
| `card.json` | the figures of this page for programs |
"""

USE = """\
Without atomweave, on images (B, C, H, W) scaled to 0..1 and normalised as below:

```python
import torch

model = torch.export.load("model.pt2").module()
logits = model(images)
```

As a timm model, to train further:

```python
import json
from safetensors.torch import load_file
from search_spaces.vit import ViTArch
from supernet.plain import FixedSizes, build

card = json.load(open("card.json"))
arch = ViTArch(**{k: tuple(v) if isinstance(v, list) else v for k, v in card["arch"].items()})
model = build(arch, FixedSizes(**card["model"]))
model.load_state_dict(load_file("model.safetensors"))
```
"""


def model_card(card: Mapping[str, Any]) -> str:
    """Markdown of what `card.json` holds; every figure with its unit, split, count and device."""
    data, device, latency = card["data"], card["device"], card["latency"]
    parts = [
        f"# A subnet for {data['name']}\n",
        f"Vision transformer: `{json.dumps(card['arch'])}`. Made by `{card['command']}` at commit "
        f"{card['commit']}, from the supernet's step {card['step']}.\n",
        FILES,
        USE,
        f"Normalisation: mean {data['mean']}, standard deviation {data['std']}.\n",
        "## Accuracy\n",
        f"- this subnet: {accuracy(card['test'])}",
        f"- the largest subnet: {accuracy(card['largest_test'])}\n",
        "## Parameters\n",
        "Elements. Sharing lowers what is stored, not FLOPs and not memory at run time.\n",
        parameter_table(card),
        "## Latency\n",
        f"{latency['latency_ms']:.3f} ms a batch of {device['batch_size']} "
        f"(p90 {latency['p90_ms']:.3f} ms), {latency['ratio']:.3f} of the largest subnet's "
        f"[{latency['ratio_low']:.3f}, {latency['ratio_high']:.3f}], {latency['num_passes']} "
        f"paired passes, {latency['flops'] / 1e6:.2f} MFLOPs an image, peak memory "
        f"{latency['memory_mib']:.2f} MiB. Measured on:\n",
        "\n".join(f"- {name}: {value}" for name, value in device.items() if value != "") + "\n",
        "## Budgets\n",
        budget_lines(card["budgets"]),
        "## Check\n",
        "Largest difference of a logit from the supernet's (fp32, CPU): "
        + ", ".join(f"{name} {value:.1e}" for name, value in card["differences"].items())
        + ".\n",
    ]
    return "\n".join(parts)


def accuracy(record: Mapping[str, Any]) -> str:
    return (
        f"{record['split']} top-1 {record['top1']:.4f}, 95 % interval "
        f"[{record['low']:.4f}, {record['high']:.4f}], {record['num_examples']} images"
    )


def parameter_table(card: Mapping[str, Any]) -> str:
    rows = ["| count | this subnet | largest |", "|---|---|---|"]
    for name, value in card["counts"].items():
        rows.append(f"| {name.replace('_', ' ')} | {value:,} | {card['largest_counts'][name]:,} |")
    return "\n".join(rows) + "\n"


def budget_lines(budgets: list[Mapping[str, Any]]) -> str:
    lines = [
        f"- {budget['name']}: {budget['value']:.4g} of at most {budget['limit']:.4g}, "
        + ("met" if budget["met"] else "BROKEN")
        for budget in budgets
    ]
    return "\n".join(lines or ["None was set."]) + "\n"
