"""Stage 4: the chosen subnet as standalone files, checked against the supernet's own outputs."""

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from rich.console import Console
from safetensors.torch import load_file, save
from torch import Tensor, nn

from nas.budgets import Budgets
from nas.config.config import Config
from nas.config.run_folder import code_version
from nas.data.batches import Dataset
from nas.evaluate import calibrated, evaluate
from nas.exits import NotEqual
from nas.export.pick import Pick, pick_arch
from nas.export.readme import model_card
from nas.files import sync
from nas.hardware.device import training_device
from nas.measure.meter import Meter, open_meter
from nas.records import Costs, Score, to_json
from nas.results import ExportResult, Verdict
from nas.search.study import conditions
from nas.train.weights import load_data, load_supernet
from search_spaces.space import Arch, to_record
from supernet.batch_norm import batch_norms, batch_statistics
from supernet.supernet import Supernet
from supernet.task import Task

# Largest difference of an output from the reference's, over what the supernet allows.
TOLERANCES = {
    "model.safetensors": 1,
    "factorised.safetensors": 1,
    "model.pt2": 1,
    "model.onnx": 10,
}
NUM_INPUTS = 64  # of val, on which outputs are compared

Inputs = tuple[Tensor, ...]
Program = Callable[..., Tensor]


def export(config: Config, run: Path, console: Console) -> None:
    """Writes run/subnet/, never half of it; raises NotEqual if a file fails its check."""
    say = partial(console.print, markup=False, soft_wrap=True)
    supernet, step = load_supernet(config, run, say)
    with closing(open_meter(config, run, supernet)) as meter:
        pick = pick_arch(config, run, vars(conditions(step, supernet, meter.card)))
        device = training_device(config.train)
        data = load_data(config, run, device)
        batch = next(iter(data.eval_batches("val", NUM_INPUTS)))
        inputs = tuple(value.cpu() for value in batch.inputs)
        with tempfile.TemporaryDirectory(dir=run, prefix="subnet.") as name:
            folder = Path(name, "subnet")
            folder.mkdir()
            plain = supernet.extract(pick.arch).to(device)
            plain = calibrated(plain, data, config.data.batch_size).cpu()
            write_models(folder, supernet, plain, pick.arch, inputs, data.task)
            differences = compare(folder, supernet, plain, pick.arch, inputs)
            model = load_plain(load_file(folder / "model.safetensors"), supernet, pick.arch)
            result = describe(config, meter, data, model, pick, differences, step)
            (folder / "card.json").write_text(json.dumps(to_json(result), indent=2))
            readme = model_card(result, supernet, config.space, data.task)
            (folder / "README.md").write_text(readme)
            replace_folder(folder, run / "subnet")
    say(summary(result, run / "subnet"))


def write_models(
    folder: Path,
    supernet: Supernet[Arch],
    model: nn.Module,
    arch: Arch,
    inputs: Inputs,
    task: Task,
) -> None:
    """The architecture and the weights of its plain `model` in every form."""
    (folder / "arch.json").write_text(json.dumps(to_record(arch), indent=2))
    # The statistics of batch norms are the plain model's alone.
    factorised = supernet.factorise(arch) | dict(model.named_buffers())
    weights = {"model": model.state_dict(), "factorised": factorised}
    for name, state in weights.items():
        # safetensors' own save_file makes files that only their owner may read.
        (folder / f"{name}.safetensors").write_bytes(save(state, {"format": "pt"}))
    batch = torch.export.Dim("batch")
    # Two examples: a batch of one would be taken for a constant.
    examples = tuple(value.new_zeros(2, *value.shape[1:]) for value in inputs)
    shapes = tuple({0: batch} for _ in inputs)
    program = torch.export.export(model, examples, dynamic_shapes=shapes)
    torch.export.save(program, folder / "model.pt2")
    onnx = torch.onnx.export(
        program,
        input_names=task.input_names,
        output_names=[task.output_name],
        verbose=False,
    )
    if onnx is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    onnx.save(folder / "model.onnx", external_data=False)


def compare(
    folder: Path, supernet: Supernet[Arch], model: nn.Module, arch: Arch, inputs: Inputs
) -> dict[str, float]:
    """Largest difference of any output, by file, for a whole batch and for a single example.

    The reference is the supernet. With batch norms, which use the batch's statistics there, it is
    the plain `model`, which must equal the supernet while it uses the batch's as well.
    """
    reference: Program = partial(supernet, arch=arch)
    whose, tolerance = "the supernet's", supernet.tolerance(arch)
    if batch_norms(model):
        with batch_statistics(model), torch.no_grad():
            difference = float((model(*inputs) - reference(*inputs)).abs().max())
        name = "the plain model with the batch's statistics"
        check_difference(name, whose, difference, tolerance)
        reference, whose = model, "the calibrated plain model's"
    merged = supernet.merge(load_file(folder / "factorised.safetensors"), arch)
    programs: dict[str, Program] = {
        "model.safetensors": load_plain(load_file(folder / "model.safetensors"), supernet, arch),
        "factorised.safetensors": load_plain(merged, supernet, arch),
        "model.pt2": torch.export.load(folder / "model.pt2").module(),
        "model.onnx": onnx_program(folder / "model.onnx"),
    }
    differences = {}
    for name, program in programs.items():
        with torch.no_grad():
            differences[name] = max(
                float((program(*batch) - reference(*batch)).abs().max())
                for batch in (inputs, tuple(value[:1] for value in inputs))
            )
        check_difference(name, whose, differences[name], TOLERANCES[name] * tolerance)
    return differences


def check_difference(name: str, whose: str, worst: float, tolerance: float) -> None:
    if not worst <= tolerance:
        raise NotEqual(
            f"{name} differs from {whose} outputs by {worst:.2e}, "
            f"more than {tolerance:.0e}; nothing was exported"
        )


def load_plain(state: Mapping[str, Tensor], supernet: Supernet[Arch], arch: Arch) -> nn.Module:
    model = supernet.build(arch, device="meta")
    model.load_state_dict(dict(state), assign=True)
    return model.eval()


def onnx_program(path: Path) -> Program:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        (outputs,) = session.run(None, feed)
        return torch.from_numpy(outputs)

    return run


def describe(
    config: Config,
    meter: Meter,
    data: Dataset,
    model: nn.Module,
    pick: Pick,
    differences: dict[str, float],
    step: int,
) -> ExportResult[Arch]:
    """Scores on test and fresh costs of the exported model, and of the largest subnet.

    Nothing else in the pipeline reads the test split.
    """
    known, costs = meter.costs(pick.arch), meter.costs_afresh(pick.arch, model)
    runtimes = meter.across_runtimes(model, config.target.compare)
    device = training_device(config.train)
    is_alone = config.paths(space=config.space).only is not None
    source = f"arch={config.arch}" if config.arch else f"pick={config.pick}"
    is_fresh = costs.measurement != known.measurement
    return ExportResult(
        arch=pick.arch,
        model=asdict(meter.supernet.fixed),
        task=data.task.facts(),
        data=asdict(config.data),
        test=evaluate(model.to(device), data, "test"),
        largest_test=None if is_alone else test_of_largest(config, meter, data, device),
        costs=costs,
        largest_counts=meter.largest_counts,
        searched_ratio=known.measurement.ratio if is_fresh else None,
        runtimes=runtimes,
        budgets=verdicts(pick.budgets, costs),
        differences=differences,
        card=meter.card,
        step=step,
        study=pick.study,
        command=f"nas export run={config.run} {source}",
        commit=code_version(),
    )


def test_of_largest(config: Config, meter: Meter, data: Dataset, device: torch.device) -> Score:
    largest = meter.supernet.extract(meter.largest).to(device)
    return evaluate(calibrated(largest, data, config.data.batch_size), data, "test")


def verdicts(budgets: Budgets, costs: Costs) -> tuple[Verdict, ...]:
    """Each bound with the value measured just now, a latency's being the median.

    Search asks more, that the worse end of the interval is within the bound: it may choose.
    """
    return tuple(
        Verdict(bound.key, bound.limit, costs.figure(bound.cost), bound.is_met(costs))
        for bound in budgets
    )


def replace_folder(source: Path, target: Path) -> None:
    """Puts a finished folder in the place of an older one; a reader sees one of them or none."""
    for path in (*source.iterdir(), source):
        sync(path)
    if target.exists():
        target.rename(source.with_name("replaced"))  # removed with source's temporary parent
    source.rename(target)
    sync(target.parent)


def summary(result: ExportResult[Arch], folder: Path) -> str:
    test, known = result.test, result.costs.measurement
    text, before = test.metric.text, result.searched_ratio
    largest = result.largest_test
    beside = f" (largest subnet {text(largest.value)})" if largest else ""
    lines = [
        f"{folder}: test {test.metric.words} {text(test.value)} [{text(test.low)}, "
        f"{text(test.high)}] of {test.num_examples} examples{beside}"
    ]
    if before:
        lines.append(
            f"latency {known.ratio:.4f} of the largest, {known.ratio / before - 1:+.1%} from what "
            f"was known before ({before:.4f})"
        )
    for one in result.runtimes:
        found = one.unavailable or (
            f"{one.latency_ms:.3f} ms a batch, {one.ratio:.4f} of the largest in "
            f"{result.card.runtime} [{one.ratio_low:.4f}, {one.ratio_high:.4f}]"
        )
        lines.append(f"{one.runtime}: {found}")
    when = "measured now" if before else "by the table"
    for verdict in result.budgets:
        value, limit = map(verdict.bound.text, (verdict.value, verdict.limit))
        met = "met" if verdict.met else "BROKEN"
        lines.append(f"budget.{verdict.key}: {met}, {value} {when}, bound {limit}")
    return "\n".join(lines)
