import dataclasses
import gc
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from scipy import stats
from torch import Tensor, nn

from nas import timing
from nas.device import DeviceCard, device_card, resolve_device
from nas.measure import (
    MIB,
    LatencyTable,
    Measurement,
    count_flops,
    measure,
    measure_latency,
    measure_now,
    peak_memory_mib,
)
from nas.settings import TargetConfig
from nas.timing import interval_rank, summarise, time_alternating

CPU = torch.device("cpu")
TARGET = TargetConfig(device="cpu", batch_size=3, dtype="float32", threads=1, warmup=1, passes=6)
CARD = device_card(TARGET, img_size=5, in_chans=2)
ARCH = {"embed_dim": 7, "num_heads": (1, 2)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Clock:
    """A clock that only `sleep` moves; a copy of it is the same clock."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __deepcopy__(self, memo: dict[int, object]) -> "Clock":
        return self

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, time_ms: float) -> None:
        self.now_ns += round(time_ms * 1e6)


class Sleeper(nn.Module):
    """A model whose pass takes `time_ms` on the fake clock and notes how it was run in `seen`."""

    seen: dict[str, object]

    def __init__(self, clock: Clock, time_ms: float) -> None:
        super().__init__()
        self.clock, self.time_ms = clock, time_ms
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        self.clock.sleep(self.time_ms)
        Sleeper.seen = {
            "training": self.training,
            "inference": torch.is_inference_mode_enabled(),
            "threads": torch.get_num_threads(),
            "dtypes": (images.dtype, self.weight.dtype),
            "shape": tuple(images.shape),
        }
        return images * self.weight


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter_ns", clock)
    return clock


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths after the images of CARD are laid flat."""
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(nn.Flatten(), *layers)


def test_pairs_alternate_in_order_after_the_warmup(clock: Clock) -> None:
    calls: list[str] = []

    def first() -> None:
        calls.append("A")
        clock.sleep(len(calls))

    def second() -> None:
        calls.append("B")
        clock.sleep(0.5)

    times = time_alternating(first, second, device=CPU, warmup=2, passes=3)
    assert "".join(calls) == "ABAB" + "AB" + "BA" + "AB"
    assert times == ([5, 8, 9], [0.5, 0.5, 0.5])


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_garbage_collection_rests_while_timing_and_is_restored(enabled: bool, fails: bool) -> None:
    seen: list[bool] = []

    def call() -> None:
        seen.append(gc.isenabled())
        if fails:
            raise RuntimeError("stop")

    try:
        if not enabled:
            gc.disable()
        if fails:
            with pytest.raises(RuntimeError, match="stop"):
                time_alternating(call, call, device=CPU, warmup=0, passes=1)
        else:
            time_alternating(call, call, device=CPU, warmup=0, passes=1)
        assert gc.isenabled() is enabled
        assert seen
        assert not any(seen)
    finally:
        gc.enable()


@pytest.mark.parametrize("num_values", [6, 7, 17, 50, 101, 3000])
def test_interval_is_the_tightest_that_holds_the_median_at_95_percent(num_values: int) -> None:
    rank = interval_rank(num_values)
    miss = stats.binom(num_values, 0.5).cdf  # P(fewer than k) on each side
    assert 2 * miss(rank - 1) <= 0.05 < 2 * miss(rank)


def test_summary_agrees_with_its_definitions() -> None:
    model_ms = [float(value) for value in torch.randperm(21, generator=seeded(0)) + 1]
    latency = summarise(model_ms, [2.0] * 21)
    ratios = torch.tensor(model_ms).div(2).sort().values
    quartiles = torch.quantile(ratios, torch.tensor([0.25, 0.75]))
    assert latency.ratio == 5.5
    assert (latency.ratio_low, latency.ratio_high) == (ratios[5].item(), ratios[15].item())
    assert latency.p90_ms == pytest.approx(torch.tensor(model_ms).quantile(0.9).item())
    assert latency.spread == pytest.approx(quartiles.diff().item() / 5.5)
    assert (latency.median_ms, latency.reference_ms, latency.num_passes) == (11, 2, 21)


def test_drift_that_both_of_a_pair_share_leaves_the_ratio_alone() -> None:
    drift = [1.0, 1.3, 1.1, 4.0, 2.0, 1.7, 1.2]
    latency = summarise([3 * factor for factor in drift], [2 * factor for factor in drift])
    assert latency.ratio_low == pytest.approx(1.5)
    assert latency.ratio_high == pytest.approx(1.5)
    assert latency.spread == pytest.approx(0)


def test_latency_is_relative_to_the_reference(clock: Clock) -> None:
    latency = measure_latency(Sleeper(clock, 3), Sleeper(clock, 2), CARD)
    assert (latency.ratio, latency.ratio_low, latency.ratio_high) == (1.5, 1.5, 1.5)
    assert (latency.median_ms, latency.p90_ms, latency.reference_ms) == (3, 3, 2)
    assert (latency.spread, latency.num_passes) == (0, 6)


def test_a_model_may_be_its_own_reference(clock: Clock) -> None:
    model = Sleeper(clock, 3)
    assert measure_latency(model, model, CARD).ratio == 1


def test_timed_passes_run_as_the_card_says_and_leave_no_trace(clock: Clock) -> None:
    card = dataclasses.replace(CARD, threads=2, dtype="bfloat16")
    model = Sleeper(clock, 3).train()
    measure_latency(model, model, card)
    assert Sleeper.seen == {
        "training": False,
        "inference": True,
        "threads": 2,
        "dtypes": (torch.bfloat16, torch.bfloat16),
        "shape": (3, 2, 5, 5),
    }
    assert model.training
    assert model.weight.dtype == torch.float32
    assert torch.get_num_threads() == 1


def test_threads_are_restored_when_a_model_fails() -> None:
    card = dataclasses.replace(CARD, threads=2)
    for measured in (
        lambda: measure_latency(mlp(3, 3), mlp(3, 3), card),
        lambda: peak_memory_mib(mlp(3, 3), card),
    ):
        with pytest.raises(RuntimeError, match="shapes"):
            measured()
        assert torch.get_num_threads() == 1


def test_flops_of_a_vit_equal_the_analytic_count() -> None:
    size, patch, width, hidden, depth, classes = 12, 3, 24, 60, 3, 5
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=size, patch_size=patch, embed_dim=width, depth=depth,
        num_heads=2, mlp_ratio=2.5, num_classes=classes,
    )  # fmt: skip
    patches = (size // patch) ** 2
    tokens = patches + 1
    embed = 2 * patches * 3 * patch**2 * width
    attention = 2 * tokens * width * 4 * width + 2 * 2 * tokens**2 * width
    block = attention + 2 * 2 * tokens * width * hidden
    assert count_flops(vit, (3, size, size)) == embed + depth * block + 2 * width * classes


def test_counting_flops_leaves_the_model_as_it_was() -> None:
    model = mlp(50, 3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert count_flops(model, (2, 5, 5)) == 2 * 50 * 3
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training


def test_memory_of_one_layer_is_its_weights_input_and_output() -> None:
    expected = 50 * 999 + 999 + 3 * 50 + 3 * 999
    assert peak_memory_mib(mlp(50, 999), CARD) == pytest.approx(4 * expected / MIB)


def test_memory_of_a_chain_peaks_at_its_two_largest_neighbours() -> None:
    weights = 51 * 400 + 401 * 900 + 901 * 700 + 701 * 10
    live = 900 + 700  # the output of 400 is freed by then
    expected = 4 * (weights + 3 * (50 + live)) / MIB
    assert peak_memory_mib(mlp(50, 400, 900, 700, 10), CARD) == pytest.approx(expected)


def test_memory_counts_what_is_freed_again_within_the_pass() -> None:
    class Peaked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_zeros(1000, 1000).sum() + x

    assert peak_memory_mib(Peaked(), CARD) == pytest.approx((4 * 1000**2 + 4 * 150) / MIB, rel=1e-4)


def test_memory_counts_buffers_and_a_tied_weight_once() -> None:
    model = mlp(50, 50, 50)
    model[2].weight = model[1].weight
    model.register_buffer("table", torch.zeros(1234))
    expected = 4 * (50 * 50 + 2 * 50 + 1234 + 3 * 50 * 3) / MIB
    assert peak_memory_mib(model, CARD) == pytest.approx(expected)


def test_memory_leaves_out_what_the_first_pass_keeps_for_later() -> None:
    class Lazy(nn.Module):
        workspace: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.workspace is None:
                self.workspace = x.new_zeros(10_000)
            return torch.relu(x)

    assert peak_memory_mib(Lazy(), CARD) == pytest.approx(4 * 2 * 150 / MIB)


def test_memory_of_a_vit_is_the_same_at_every_call_and_grows_with_width() -> None:
    def vit(width: int) -> nn.Module:
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=12, patch_size=3, embed_dim=width, depth=2,
            num_heads=2, num_classes=5,
        )  # fmt: skip

    card = device_card(TARGET, img_size=12, in_chans=3)
    narrow = [peak_memory_mib(vit(24), card) for _ in range(3)]
    assert narrow[0] == narrow[1] == narrow[2]
    assert narrow[0] < peak_memory_mib(vit(32), card)


def test_profiling_memory_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    peak_memory_mib(mlp(50, 3), CARD)
    assert capfd.readouterr() == ("", "")


class Builder:
    """Builds `model` and counts how often."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.num_built = model, 0

    def __call__(self) -> nn.Module:
        self.num_built += 1
        return self.model


def test_an_architecture_is_built_and_measured_once(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "latency.jsonl"
    build = Builder(Sleeper(clock, 3))
    reference = Sleeper(clock, 2)
    table = LatencyTable(path, CARD)
    first = measure(ARCH, build, reference, table)
    same = {"num_heads": [1, 2], "embed_dim": 7}  # as JSON gives it back
    assert measure(same, build, reference, table) == first
    assert measure(ARCH, build, reference, LatencyTable(path, CARD)) == first
    assert build.num_built == 1
    measure({**ARCH, "embed_dim": 8}, build, reference, table)
    assert build.num_built == 2


def test_milliseconds_are_the_ratio_times_the_first_reference(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "latency.jsonl"
    measure(ARCH, Builder(Sleeper(clock, 3)), Sleeper(clock, 2), LatencyTable(path, CARD))
    # The machine has become five times slower.
    slow = Builder(Sleeper(clock, 15))
    later = measure({"embed_dim": 8}, slow, Sleeper(clock, 10), LatencyTable(path, CARD))
    assert (later.latency_ms, later.ratio, later.median_ms) == (3, 1.5, 15)


def test_measuring_now_is_on_the_scale_of_the_table_but_not_cached(
    clock: Clock, tmp_path: Path
) -> None:
    table = LatencyTable(tmp_path / "latency.jsonl", CARD)
    known = measure(ARCH, Builder(Sleeper(clock, 3)), Sleeper(clock, 2), table)
    afresh = measure_now(Sleeper(clock, 20), Sleeper(clock, 10), table)
    assert (afresh.ratio, afresh.latency_ms, afresh.median_ms) == (2, 4, 20)
    assert table.get(ARCH) == known
    assert len(table.path.read_text().splitlines()) == 2


def other_cards() -> list[DeviceCard]:
    changes = {
        field.name: {"str": "other", "int": 99}[str(field.type.__name__)]  # type: ignore[union-attr]
        for field in dataclasses.fields(DeviceCard)
    }
    return [dataclasses.replace(CARD, **{name: value}) for name, value in changes.items()]  # type: ignore[arg-type]


@pytest.mark.parametrize("card", other_cards())
def test_a_card_that_differs_in_any_field_finds_nothing(
    card: DeviceCard, clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "latency.jsonl"
    build = Builder(Sleeper(clock, 3))
    known = measure(ARCH, build, Sleeper(clock, 2), LatencyTable(path, CARD))
    other = LatencyTable(path, card)
    assert other.get(ARCH) is None
    assert other.settle_reference(7, num_params=1) == 7
    other.put(ARCH, dataclasses.replace(known, latency_ms=9))
    assert LatencyTable(path, CARD).get(ARCH) == known


def test_a_table_refuses_a_second_reference(clock: Clock, tmp_path: Path) -> None:
    table = LatencyTable(tmp_path / "latency.jsonl", CARD)
    build = Builder(Sleeper(clock, 3))
    measure(ARCH, build, Sleeper(clock, 2), table)
    with pytest.raises(ValueError, match=r"reference model must be that of .*, got 3"):
        table.settle_reference(2, num_params=3)


def test_of_two_references_stored_at_once_the_first_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "latency.jsonl"
    LatencyTable(path, CARD).settle_reference(2, num_params=1)
    second = {**json.loads(path.read_text()), "reference_ms": 3}
    lines = path.read_text() + json.dumps(second) + "\n"
    path.write_text(lines)
    assert LatencyTable(path, CARD).settle_reference(5, num_params=1) == 2
    assert path.read_text() == lines


def test_of_two_processes_the_first_line_counts(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "latency.jsonl"
    one, other = LatencyTable(path, CARD), LatencyTable(path, CARD)
    assert other.get(ARCH) is None
    known = measure(ARCH, Builder(Sleeper(clock, 3)), Sleeper(clock, 2), one)
    assert other.get(ARCH) == known
    other.put(ARCH, dataclasses.replace(known, latency_ms=9))
    assert LatencyTable(path, CARD).get(ARCH) == known


def test_a_record_says_what_was_measured_where_and_when(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "latency.jsonl"
    measure(ARCH, Builder(Sleeper(clock, 3)), Sleeper(clock, 2), LatencyTable(path, CARD))
    reference, measured = map(json.loads, path.read_text().splitlines())
    assert (reference["kind"], reference["reference_ms"]) == ("reference", 2)
    assert (measured["kind"], measured["arch"]) == (
        "measurement",
        {"embed_dim": 7, "num_heads": [1, 2]},
    )
    assert measured["card"] == CARD.record()
    assert measured["time"].endswith("+00:00")


def test_a_failed_measurement_stores_nothing(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "latency.jsonl"
    table = LatencyTable(path, CARD)
    with pytest.raises(RuntimeError, match="shapes"):
        measure(ARCH, Builder(mlp(3, 3)), Sleeper(clock, 2), table)
    assert not path.exists()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["latency_ms", "ratio", "memory_mib"])
def test_a_cost_that_is_no_cost_cannot_be_made(key: str, value: float) -> None:
    figures = dict.fromkeys((field.name for field in dataclasses.fields(Measurement)), 1)
    with pytest.raises(ValueError, match=f"measured {key} must be positive, got"):
        Measurement(**{**figures, key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("num_gpus", "asked", "expected"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (0, "cuda", None),
        (0, "cuda:0", None),
        (2, "auto", "cuda:0"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
        (2, "cuda:2", None),
    ],
)
def test_device_is_the_one_asked_for_or_an_error(
    num_gpus: int, asked: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    if expected is None:
        with pytest.raises(
            ValueError, match=f"train.device must be a CUDA device.*has {num_gpus}, got '{asked}'"
        ):
            resolve_device(asked, "train.device")
    else:
        assert resolve_device(asked, "train.device") == torch.device(expected)


def test_card_names_the_threads_that_passes_run_on() -> None:
    torch.set_num_threads(2)
    default = dataclasses.replace(TARGET, threads=0)
    assert device_card(default, img_size=5, in_chans=2).threads == 2
    assert device_card(TARGET, img_size=5, in_chans=2).threads == 1


def test_card_on_one_line_says_device_batch_and_versions() -> None:
    text = CARD.describe()
    for part in (CARD.name, "cpu", "batch 3 of 2 x 5 x 5", "float32", torch.__version__):
        assert part in text
    assert "\n" not in text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_measures_the_same_layer_as_the_definition() -> None:
    card = device_card(dataclasses.replace(TARGET, device="cuda"), img_size=5, in_chans=2)
    model = mlp(50, 1024)
    expected = 4 * (51 * 1024 + 3 * 50 + 3 * 1024) / MIB
    assert peak_memory_mib(model, card) == pytest.approx(expected)
    assert measure_latency(model, model, card).median_ms > 0
    assert not next(model.parameters()).is_cuda


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
