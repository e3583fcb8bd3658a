import shutil
import sys
from contextlib import ExitStack
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from nas.config.sections import RUNTIMES
from nas.hardware.runtimes import (
    cpu_threads,
    onnx_program,
    running,
    tensorrt_engine,
    unavailable,
    versions,
)
from tests.contracts.target import CPU, CUDA, TargetContract, mlp, output_of, some_images


class TestEager(TargetContract):
    runtime = "eager"


class TestCompile(TargetContract):
    runtime = "compile"


class TestOnnxRuntime(TargetContract):
    runtime = "onnxruntime"


class TestEagerOnCuda(TargetContract):
    runtime, device = "eager", CUDA


class TestCompileOnCuda(TargetContract):
    runtime, device = "compile", CUDA


class TestCudaGraph(TargetContract):
    runtime, device = "cuda_graph", CUDA


class TestOnnxRuntimeOnCuda(TargetContract):
    runtime, device = "onnxruntime", CUDA


class TestTensorRT(TargetContract):
    runtime, device = "tensorrt", CUDA


def test_every_runtime_is_held_to_the_contract() -> None:
    assert {contract.runtime for contract in TargetContract.__subclasses__()} >= {*RUNTIMES}


class Witness(nn.Module):
    """Notes how it is run."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen = (torch.is_inference_mode_enabled(), torch.get_num_threads())
        return images


def test_an_eager_pass_is_made_in_inference_mode_on_the_threads_asked_for() -> None:
    model = Witness()
    with running(model, some_images(), "eager", threads=2) as run:
        run()
    assert model.seen == (True, 2)


@pytest.mark.parametrize("fails", [True, False])
def test_threads_are_restored(fails: bool) -> None:
    try:
        with cpu_threads(2):
            assert torch.get_num_threads() == 2
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(
    bool(unavailable("compile", CPU, torch.float32)), reason="needs a compiler of C++"
)
def test_more_compiled_models_may_run_in_turns_than_a_function_may_have_versions() -> None:
    def linear(width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(432, width))

    def num_compiled() -> int:
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    inputs, before = some_images(), num_compiled()
    models = [linear(width) for width in range(1, 8)]
    few = torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=2)
    with few, ExitStack() as stack:
        runs = [
            stack.enter_context(running(model, inputs, "compile", threads=1)) for model in models
        ]
        for model, run in zip(models, runs, strict=True):
            torch.testing.assert_close(run(), output_of(model, inputs))
    assert num_compiled() == before + len(models)  # none of them twice


def test_an_onnx_program_holds_the_batch_it_is_timed_with() -> None:
    session = onnxruntime.InferenceSession(onnx_program(mlp(7), some_images()))
    (images,), (output,) = session.get_inputs(), session.get_outputs()
    assert (images.shape, output.shape) == ([3, 3, 12, 12], [3, 5])


def refusal(runtime: str, *, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> str:
    return unavailable(runtime, device, dtype)


def test_a_runtime_that_is_not_there_is_refused_with_its_reason() -> None:
    reason = r"a runtime of this machine: cuda_graph needs a CUDA device, not cpu, got 'cuda_graph'"
    with (
        pytest.raises(ValueError, match=rf"^target\.runtime must be {reason}$"),
        running(mlp(7), some_images(), "cuda_graph", threads=1),
    ):
        pass


def test_what_a_runtime_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("eager", dtype=torch.bfloat16) == ""
    assert "tensorrt needs a CUDA device" in refusal("tensorrt")
    assert "float32, not torch.bfloat16" in refusal("onnxruntime", dtype=torch.bfloat16)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "the package tensorrt, which is not installed" in refusal("tensorrt", device=CUDA)
    assert refusal("cuda_graph", device=CUDA) == ""
    assert "eager, compile" in refusal("slow")


def test_onnxruntime_needs_a_build_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    providers = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert refusal("onnxruntime") == ""
    assert "a build with CUDAExecutionProvider" in refusal("onnxruntime", device=CUDA)
    providers.append("CUDAExecutionProvider")
    assert refusal("onnxruntime", device=CUDA) == ""


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"g++"}
    monkeypatch.setattr(shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    assert refusal("compile") == ""
    monkeypatch.setitem(sys.modules, "triton", module("triton"))
    assert "a C compiler, and gcc or clang is not there" in refusal("compile", device=CUDA)
    there.add("clang")
    assert refusal("compile", device=CUDA) == ""
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "the package triton on a GPU" in refusal("compile", device=CUDA)
    monkeypatch.setenv("CXX", "mine -O3")
    assert "a C++ compiler, and mine is not there" in refusal("compile")
    there.add("mine")
    assert refusal("compile") == ""


def module(name: str, **members: object) -> ModuleType:
    """A package that stands in for one that is not installed."""
    found = ModuleType(name)
    found.__spec__ = ModuleSpec(name, None)
    found.__dict__.update(members)
    return found


def test_versions_are_those_of_the_library_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", module("tensorrt", __version__="11.4.0"))
    found = {runtime: versions(runtime) for runtime in RUNTIMES}
    assert found.pop("onnxruntime") == f"onnxruntime {onnxruntime.__version__}"
    assert found.pop("tensorrt") == "tensorrt 11.4.0"
    assert set(found.values()) == {""}


class TensorRT(ModuleType):
    """The part of TensorRT that builds engines: module, builder, parser and settings in one."""

    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=3)
    BuilderFlag = SimpleNamespace(TF32="TF32")
    num_errors = 1

    def __init__(self) -> None:
        super().__init__("tensorrt")
        self.flags, self.created, self.parsed = {"TF32"}, 0, b""
        self.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
        self.Builder = self.Runtime = lambda logger: self
        self.OnnxParser = lambda network, logger: self
        self.create_builder_config = lambda: self
        self.clear_flag = self.flags.remove

    def create_network(self, flags: int) -> str:
        self.created = flags
        return "network"

    def parse(self, program: bytes) -> bool:
        self.parsed = program
        return program == b"program"

    def get_error(self, index: int) -> str:
        return f"no layer {index}"

    def build_serialized_network(self, network: str, settings: object) -> bytes:
        return b"engine of " + self.parsed

    def deserialize_cuda_engine(self, plan: bytes) -> str:
        return plan.decode()


@pytest.mark.parametrize(("precision", "flags"), [("highest", set()), ("high", {"TF32"})])
def test_an_engine_computes_in_the_types_of_the_model_and_as_pytorch_is_set(
    precision: str, flags: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = TensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    assert tensorrt_engine(b"program") == "engine of program"
    assert trt.flags == flags
    assert trt.created == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    with pytest.raises(RuntimeError, match="TensorRT cannot read the model: no layer 0"):
        tensorrt_engine(b"another")
