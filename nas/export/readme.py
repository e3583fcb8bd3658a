"""The README of an exported subnet."""

import json
from collections.abc import Mapping
from string import Template
from typing import Any

from nas.config.sections import MIN
from nas.measure.meter import figure
from search_spaces.cell import CellArch

FILES = Template("""\
| file | what |
|---|---|
| `arch.json` | the architecture |
| `model.safetensors` | $merged |
| `factorised.safetensors` | $factorised |
| `model.pt2` | torch.export program, any batch size |
| `model.onnx` | ONNX, any batch size |
| `card.json` | the figures of this page for programs |
""")
VIT_FILES = {
    "merged": "merged weights, one dense matrix a layer",
    "factorised": "shared atoms and adapters, each stored once",
}
CELL_FILES = {
    "merged": "weights and the statistics of batch norms",
    "factorised": "the same: cells share no weights",
}

USE = Template("""\
## Use

Images are $in_chans x $img_size x $img_size$resized, scaled to 0..1 and then normalised. With
PyTorch alone:

```python
import torch

images = torch.rand(1, $in_chans, $img_size, $img_size)  # yours, in 0..1
mean, std = torch.tensor($mean), torch.tensor($std)
model = torch.export.load("model.pt2").module()
logits = model((images - mean[:, None, None]) / std[:, None, None])
```

$rebuild
""")

VIT_REBUILD = """\
As a timm model, to train further; this needs atomweave's packages `search_spaces` and `supernet`:

```python
import json
from pathlib import Path
from safetensors.torch import load_file
from search_spaces.vit import ViTArch
from supernet.plain import FixedSizes, build

card = json.loads(Path("card.json").read_text())
arch = ViTArch(**{k: tuple(v) if isinstance(v, list) else v for k, v in card["arch"].items()})
model = build(arch, FixedSizes(**card["model"]))
model.load_state_dict(load_file("model.safetensors"))
```"""

CELL_REBUILD = """\
As a PyTorch module, to train further; this needs atomweave's packages `search_spaces` and
`supernet`:

```python
import json
from pathlib import Path
from safetensors.torch import load_file
from search_spaces.cell import CellArch
from supernet.cell import CellNetwork, CellSizes

card = json.loads(Path("card.json").read_text())
arch = CellArch(tuple(card["arch"]["operations"]))
model = CellNetwork(arch, CellSizes(**card["model"]))
model.load_state_dict(load_file("model.safetensors"))
```"""

# What the differences of the files are from.
VIT_REFERENCE = "the supernet's"
CELL_REFERENCE = (
    "those of the plain model with its own statistics of batch norms, which equals the supernet "
    "to 1e-5 while both use the batch's"
)

# What a bound of each budget is in.
UNITS = {
    "latency_ms": "ms a batch",
    "latency_of_largest": "of the largest subnet's latency",
    "params": "elements in the smaller weights file",
    "params_of_largest": "of the largest subnet's elements",
    "memory_mib": "MiB at the peak",
    "memory_of_largest": "of the largest subnet's peak memory",
}


def model_card(card: Mapping[str, Any]) -> str:
    """Markdown of what `card.json` holds; every figure with its unit, split, count and device."""
    data, is_cell = card["data"], "operations" in card["arch"]
    rebuild = CELL_REBUILD if is_cell else VIT_REBUILD
    parts = [
        f"# A subnet for {data['name']}\n",
        f"{describe_arch(card['arch'])}. Made by `{card['command']}` at commit "
        f"{card['commit']}, from the supernet's step {card['step']}.\n",
        FILES.substitute(CELL_FILES if is_cell else VIT_FILES),
        USE.substitute(data, resized=resized(data), rebuild=rebuild),
        "## Accuracy\n",
        f"- this subnet: {accuracy(card['test'])}",
        f"- the largest subnet: {accuracy(card['largest_test'])}\n",
        "## Parameters\n",
        "Elements. Sharing lowers what is stored, not FLOPs and not memory at run time.\n",
        parameter_table(card),
        "## Latency and memory\n",
        latency(card["latency"], card["device"]),
        "## Budgets\n",
        budget_lines(card["budgets"]),
        "## Check\n",
        f"Largest difference of a logit from {CELL_REFERENCE if is_cell else VIT_REFERENCE} "
        "(fp32, CPU): "
        + ", ".join(f"{name} {value:.1e}" for name, value in card["differences"].items())
        + ".\n",
    ]
    return "\n".join(parts)


def describe_arch(arch: Mapping[str, Any]) -> str:
    if "operations" not in arch:
        return f"Vision transformer: `{json.dumps(arch)}`"
    cell = CellArch(tuple(arch["operations"]))
    return f"NAS-Bench-201 cell: `{cell}`, where `op~i` takes node i to the node of its group"


def resized(data: Mapping[str, Any]) -> str:
    """How images of other sizes were made to fit."""
    if data["name"] != "image_folder":
        return ""
    return " (shorter side resized with bicubic interpolation, then the centre cropped)"


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


def latency(measured: Mapping[str, Any], device: Mapping[str, Any]) -> str:
    facts = [f"- {name}: {value}" for name, value in device.items() if value != ""]
    return (
        f"{measured['latency_ms']:.3f} ms a batch of {device['batch_size']} (p90 "
        f"{measured['p90_ms']:.3f} ms), {measured['ratio']:.3f} of the largest subnet's, 95 % "
        f"interval [{measured['ratio_low']:.3f}, {measured['ratio_high']:.3f}], "
        f"{measured['num_passes']} paired passes. {measured['flops'] / 1e6:.2f} MFLOPs an image, "
        f"peak memory {measured['memory_mib']:.2f} MiB a batch. Measured on:\n\n"
    ) + "\n".join([*facts, ""])


def budget_lines(budgets: list[Mapping[str, Any]]) -> str:
    lines = []
    for budget in budgets:
        name = budget["name"]
        value, limit = figure(name, budget["value"]), figure(name, budget["limit"])
        verdict = "met" if budget["met"] else "BROKEN"
        side, unit = "least" if name.startswith(MIN) else "most", UNITS[name.removeprefix(MIN)]
        lines.append(f"- {name}: {value} of at {side} {limit} {unit}: {verdict}")
    return "\n".join(lines or ["None was set."]) + "\n"
