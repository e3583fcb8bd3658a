"""The README of an exported subnet."""

from dataclasses import asdict

from nas.budgets import UNITS
from nas.records import DeviceCard, Measurement, Score
from nas.results import ExportResult, Verdict
from search_spaces.space import Arch, Space
from supernet.supernet import Supernet
from supernet.task import Task

FILES = """\
| file | what |
|---|---|
| `arch.json` | the architecture |
| `model.safetensors` | weights of the plain model, and statistics of batch norms if it has any |
| `factorised.safetensors` | the same with what layers share, atoms and adapters, stored once |
| `model.pt2` | torch.export program, any batch size |
| `model.onnx` | ONNX, any batch size |
| `card.json` | the figures of this page for programs |
"""
USE = """\
## Use

With PyTorch alone:

```python
import torch

model = torch.export.load("model.pt2").module()
```
"""
CHECK = (
    "Largest difference of an output from the supernet's or, of a model with batch norms, from "
    "that of the plain model with its own statistics, which equals the supernet while both use "
    "the batch's (fp32, CPU): "
)


def model_card(
    result: ExportResult[Arch], supernet: Supernet[Arch], space: Space[Arch], task: Task
) -> str:
    """Markdown of what `card.json` holds; every figure with its unit, split, count and device."""
    words = ", ".join(f"{name} {size}" for name, size in space.describe(result.arch).items())
    differences = (f"{name} {value:.1e}" for name, value in result.differences.items())
    parts = [
        f"# A subnet for {result.data['name']}\n",
        f"`{words}`. Made by `{result.command}` at commit {result.commit}, from the supernet's "
        f"step {result.step}.\n",
        FILES,
        USE,
        task.usage() + "\n",
        rebuild(result.arch, supernet),
        "## Score\n",
        f"- this subnet: {score_line(result.test)}",
        f"- the largest subnet: {score_line(result.largest_test)}\n" if result.largest_test else "",
        "## Parameters\n",
        "Elements. Sharing lowers what is stored, not FLOPs and not memory at run time.\n",
        parameter_table(result),
        "## Latency and memory\n",
        latency(result.costs.measurement, result.card),
        "## Budgets\n",
        "\n".join(map(budget_line, result.budgets)) or "None was set.",
        "\n## Check\n",
        f"{CHECK}{', '.join(differences)}.\n",
    ]
    return "\n".join(parts)


def rebuild(arch: Arch, supernet: Supernet[Arch]) -> str:
    """How to make the plain model, with its weights, by the class of the supernet."""
    family, sizes = type(supernet), type(supernet.fixed)
    return f"""\
As a PyTorch module, to train further; this needs atomweave's packages `search_spaces` and
`supernet`:

```python
from safetensors.torch import load_file
from {type(arch).__module__} import {type(arch).__name__}
from {family.__module__} import {family.__name__}
from {sizes.__module__} import {sizes.__name__}

arch = {arch!r}
fixed = {supernet.fixed!r}
model = {family.__name__}.plain(arch, fixed)
model.load_state_dict(load_file("model.safetensors"))
```
"""


def score_line(score: Score) -> str:
    text = score.metric.text
    return (
        f"{score.split} {score.metric.words} {text(score.value)}, 95 % interval "
        f"[{text(score.low)}, {text(score.high)}], {score.num_examples} examples"
    )


def parameter_table(result: ExportResult[Arch]) -> str:
    rows = ["| count | this subnet | largest |", "|---|---|---|"]
    largest = asdict(result.largest_counts)
    for name, value in asdict(result.costs.counts).items():
        rows.append(f"| {name.replace('_', ' ')} | {value:,} | {largest[name]:,} |")
    return "\n".join(rows) + "\n"


def latency(known: Measurement, card: DeviceCard) -> str:
    facts = [f"- {name}: {value}" for name, value in asdict(card).items() if value != ""]
    return (
        f"{known.latency_ms:.3f} ms a batch of {card.batch_size} (p90 {known.p90_ms:.3f} ms), "
        f"{known.ratio:.3f} of the largest subnet's, 95 % interval [{known.ratio_low:.3f}, "
        f"{known.ratio_high:.3f}], {known.num_passes} paired passes. {known.flops / 1e6:.2f} "
        f"MFLOPs an example, peak memory {known.memory_mib:.2f} MiB a batch. Measured on:\n\n"
    ) + "\n".join([*facts, ""])


def budget_line(verdict: Verdict) -> str:
    bound, side = verdict.bound, "least" if verdict.bound.is_lower else "most"
    return (
        f"- {bound.key}: {bound.text(verdict.value)} of at {side} {bound.text(bound.limit)} "
        f"{UNITS[bound.cost]}: {'met' if verdict.met else 'BROKEN'}"
    )
