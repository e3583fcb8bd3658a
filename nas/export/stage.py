"""Stage 4: the chosen subnet as standalone files, checked against the supernet's own logits."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from rich.console import Console
from safetensors.torch import load_file, save
from torch import Tensor, nn

from nas.config.config import Config
from nas.config.run_folder import code_version
from nas.config.sections import MIN
from nas.data.batches import ImageData, load
from nas.evaluate import Accuracy, calibrated, evaluate
from nas.exits import Infeasible, NotEqual
from nas.export.readme import model_card
from nas.files import sync
from nas.hardware.device import training_device
from nas.measure.meter import CostMeter, figure, is_met
from nas.search.storage import open_storage
from nas.search.study import conditions
from nas.train.weights import load_supernet
from supernet.batch_norm import batch_norms, batch_statistics
from supernet.supernet import Supernet

# What a search and the export of its finding must have in common.
SAME = {
    "step": "of these weights, by step",
    "weights": "of these weights, by fingerprint",
    "digest": "on this target, with the same target.* options, by the digest of its card",
}

# Largest difference of a logit from the reference's, fp32 on the CPU.
TOLERANCES = {
    "model.safetensors": 1e-5,
    "factorised.safetensors": 1e-5,
    "model.pt2": 1e-5,
    "model.onnx": 1e-4,
}
PLAIN_TOLERANCE = 1e-5  # of a plain model with batch norms from the supernet


def export(config: Config, run: Path, console: Console) -> None:
    """Writes run/subnet/, never half of it; raises NotEqual if a file fails its check."""
    say = partial(console.print, markup=False, soft_wrap=True)
    supernet, step = load_supernet(config, run, say)
    meter = CostMeter(config, run, supernet)
    arch, bounds = pick_arch(config, run, conditions(step, supernet, meter.card))
    device = training_device(config.train)
    data = load(config.data, seed=config.seed, device=device)
    images = next(iter(data.eval_batches("val", 64))).images.cpu()
    with tempfile.TemporaryDirectory(dir=run, prefix="subnet.") as name:
        folder = Path(name, "subnet")
        folder.mkdir()
        plain = supernet.extract(arch).to(device)
        plain = calibrated(plain, data, config.data.batch_size).cpu()
        write_models(folder, supernet, plain, arch, images)
        differences = compare(folder, supernet, plain, arch, images)
        model = load_plain(load_file(folder / "model.safetensors"), supernet, arch)
        card = describe(config, meter, data, model, arch)
        card["budgets"] = check_budgets(card["costs"], bounds)
        card["differences"] = differences
        card["step"] = step
        source = f"arch={config.arch}" if config.arch else f"pick={config.pick}"
        card["study"] = None if config.arch else read_search(run / "search.json")["study"]
        card["command"] = f"nas export run={run} {source}"
        (folder / "card.json").write_text(json.dumps(card, indent=2))
        (folder / "README.md").write_text(model_card(card))
        replace_folder(folder, run / "subnet")
    say(summary(card, run / "subnet"))


def pick_arch(config: Config, run: Path, here: Mapping[str, Any]) -> tuple[Any, dict[str, float]]:
    """The architecture that `pick` or `arch` names, and the budgets that it is held to.

    What a search found holds for the weights and the target that it was made with, `here`.
    """
    if config.arch:
        return read_arch(config, Path(config.arch)), config.budget.bounds()
    path = run / "search.json"
    if not path.exists():
        raise ValueError(f"pick must follow a search; nas search run={run} makes one, got none")
    found = read_search(path)
    for key, rule in SAME.items():
        if found[key] != here[key]:
            raise ValueError(
                f"pick must follow a search {rule} ({here[key]}); nas search run={run} "
                f"makes one, got one of {found[key]}"
            )
    if config.pick in ("smallest", "largest"):
        arch = config.space.smallest() if config.pick == "smallest" else config.space.largest()
        return arch, found["budget"]
    if config.pick == "best":
        if found["chosen"] is None:
            raise Infeasible("the search found no subnet that meets the budgets; see nas search")
        return config.space.from_record(found["chosen"]["arch"]), found["budget"]
    return trial_arch(config, run, found["study"]), found["budget"]


def read_search(path: Path) -> dict[str, Any]:
    """What a search wrote; raises ValueError that names the file if it is not that."""
    needed = {*SAME, "chosen", "budget", "study"}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got: {error}") from error
    if not isinstance(found, dict) or not needed <= found.keys():
        raise ValueError(f"{path} must be a search's record with {sorted(needed)}, got another")
    return found


def read_arch(config: Config, path: Path) -> Any:
    """An architecture from a JSON file, such as an exported arch.json."""
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict):
            raise ValueError(f"an architecture is a JSON object, got {record!r}")
        return config.space.from_record(record)
    except OSError as error:
        raise ValueError(f"arch must be a readable file, got {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(
            f"arch must be an architecture of the space, got {path}: {error}"
        ) from error


def trial_arch(config: Config, run: Path, name: str) -> Any:
    storage = open_storage(config, run)
    try:
        trials = storage.get_all_trials(storage.get_study_id_from_name(name))
    except KeyError as error:
        raise ValueError(
            f"search.storage must be that of the search, which holds the study {name}, got "
            f"{config.search.storage or 'the journal of the run'!r}"
        ) from error
    params = {trial.number: trial.params for trial in trials if trial.state.is_finished()}
    # A trial whose process was killed may lack some choices.
    if config.space.choices().keys() != params.get(int(config.pick), {}).keys():
        raise ValueError(
            f"pick must be best or a finished trial of the last search, which has "
            f"{len(params)}, got {config.pick}"
        )
    return config.space.decode(params[int(config.pick)])


def write_models(
    folder: Path, supernet: Supernet, model: nn.Module, arch: Any, images: Tensor
) -> None:
    """The architecture and the weights of its plain `model` in every form."""
    (folder / "arch.json").write_text(json.dumps(asdict(arch), indent=2))
    # The statistics of batch norms are the plain model's alone.
    factorised = supernet.factorise(arch) | dict(model.named_buffers())
    weights = {"model": model.state_dict(), "factorised": factorised}
    for name, state in weights.items():
        # safetensors' own save_file makes files that only their owner may read.
        (folder / f"{name}.safetensors").write_bytes(save(state, {"format": "pt"}))
    batch = torch.export.Dim("batch")
    # Two images: a batch of one would be taken for a constant.
    example = torch.zeros(2, *images.shape[1:])
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    onnx = torch.onnx.export(
        program, input_names=["images"], output_names=["logits"], verbose=False
    )
    if onnx is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    onnx.save(folder / "model.onnx", external_data=False)


def compare(
    folder: Path, supernet: Supernet, model: nn.Module, arch: Any, images: Tensor
) -> dict[str, float]:
    """Largest difference of any logit, by file, for a whole batch and for a single image.

    The reference is the supernet. With batch norms, which use the batch's statistics there, it is
    the plain `model`, which must equal the supernet while it uses the batch's as well.
    """
    reference: Callable[[Tensor], Tensor] = partial(supernet, arch=arch)
    whose = "the supernet's"
    if batch_norms(model):
        reference, whose = model, "the calibrated plain model's"
        with batch_statistics(model), torch.no_grad():
            difference = float((model(images) - supernet(images, arch)).abs().max())
        name = "the plain model with the batch's statistics"
        check_difference(name, "the supernet's", difference, PLAIN_TOLERANCE)
    merged = supernet.merge(load_file(folder / "factorised.safetensors"), arch)
    programs: dict[str, Callable[[Tensor], Tensor]] = {
        "model.safetensors": load_plain(load_file(folder / "model.safetensors"), supernet, arch),
        "factorised.safetensors": load_plain(merged, supernet, arch),
        "model.pt2": torch.export.load(folder / "model.pt2").module(),
        "model.onnx": onnx_program(folder / "model.onnx"),
    }
    differences = {}
    for name, program in programs.items():
        with torch.no_grad():
            worst = max(
                float((program(batch) - reference(batch)).abs().max())
                for batch in (images, images[:1])
            )
        check_difference(name, whose, worst, TOLERANCES[name])
        differences[name] = worst
    return differences


def check_difference(name: str, whose: str, worst: float, tolerance: float) -> None:
    if not worst <= tolerance:
        raise NotEqual(
            f"{name} differs from {whose} logits by {worst:.2e}, "
            f"more than {tolerance:.0e}; nothing was exported"
        )


def load_plain(state: Mapping[str, Tensor], supernet: Supernet, arch: Any) -> nn.Module:
    model = supernet.build(arch, device="meta")
    model.load_state_dict(dict(state), assign=True)
    return model.eval()


def onnx_program(path: Path) -> Callable[[Tensor], Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run


def describe(
    config: Config, meter: CostMeter, data: ImageData, model: nn.Module, arch: Any
) -> dict[str, Any]:
    """Accuracy on test and fresh costs of the exported model, and of the largest subnet.

    Nothing else in the pipeline reads the test split.
    """
    device = training_device(config.train)
    costs = meter.costs_afresh(arch, model)
    runtimes = meter.across_runtimes(model, config.target.compare)
    largest = meter.supernet.extract(meter.largest).to(device)
    largest = calibrated(largest, data, config.data.batch_size)
    return {
        "arch": asdict(arch),
        "model": asdict(meter.supernet.fixed),
        "test": accuracy_record(evaluate(model.to(device), data, "test")),
        "largest_test": accuracy_record(evaluate(largest, data, "test")),
        "counts": asdict(costs.counts),
        "largest_counts": asdict(costs.largest_counts),
        "latency": asdict(costs.measurement),
        "searched": searched(meter, arch, costs.measurement.ratio) if not meter.elsewhere else None,
        "runtimes": runtimes,
        "costs": costs.record(),
        "device": meter.card.record(),
        "data": asdict(config.data),
        "commit": code_version(),
    }


def searched(meter: CostMeter, arch: Any, ratio: float) -> dict[str, float]:
    """What the table has said of the latency, and how far the fresh ratio is from it."""
    known = meter.measure(arch)
    return {
        "ratio": known.ratio,
        "ratio_low": known.ratio_low,
        "ratio_high": known.ratio_high,
        "num_passes": known.num_passes,
        "off_by": ratio / known.ratio - 1,
    }


def accuracy_record(accuracy: Accuracy) -> dict[str, Any]:
    low, high = accuracy.interval()
    return {**asdict(accuracy), "low": low, "high": high}


def check_budgets(costs: Mapping[str, float], bounds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each bound with the value measured just now, a latency's being the median.

    Search asks more, that the upper end of the interval is within the bound: it may choose.
    """
    return [
        {
            "name": key,
            "limit": bound,
            "value": costs[key.removeprefix(MIN)],
            "met": is_met(costs, key, bound),
        }
        for key, bound in bounds.items()
    ]


def replace_folder(source: Path, target: Path) -> None:
    """Puts a finished folder in the place of an older one; a reader sees one of them or none."""
    for path in (*source.iterdir(), source):
        sync(path)
    if target.exists():
        target.rename(source.with_name("replaced"))  # removed with source's temporary parent
    source.rename(target)
    sync(target.parent)


def summary(card: Mapping[str, Any], folder: Path) -> str:
    test, largest, known = card["test"], card["largest_test"], card["searched"]
    lines = [
        f"{folder}: test top-1 {test['top1']:.4f} [{test['low']:.4f}, {test['high']:.4f}] of "
        f"{test['num_examples']} images (largest subnet {largest['top1']:.4f})"
    ]
    if known is not None:
        lines.append(
            f"latency {card['latency']['ratio']:.4f} of the largest, {known['off_by']:+.1%} from "
            f"what was known before ({known['ratio']:.4f})"
        )
    for runtime in card["runtimes"]:
        found = runtime.get("unavailable") or (
            f"{runtime['latency_ms']:.3f} ms a batch, {runtime['ratio']:.4f} of the largest in "
            f"{card['device']['runtime']} [{runtime['ratio_low']:.4f}, {runtime['ratio_high']:.4f}]"
        )
        lines.append(f"{runtime['runtime']}: {found}")
    for budget in card["budgets"]:
        verdict = "met" if budget["met"] else "BROKEN"
        value, limit = (figure(budget["name"], budget[key]) for key in ("value", "limit"))
        when = "measured now" if known is not None else "by the table"
        lines.append(f"budget.{budget['name']}: {verdict}, {value} {when}, bound {limit}")
    return "\n".join(lines)
