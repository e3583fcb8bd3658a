"""Runtimes: what makes a pass of a plain model, from PyTorch as it is to an engine of its own.

A pass is one call: it takes inputs that lie on the device through the model and leaves the output
there. No copy from or to the host is part of it.
"""

import importlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from types import FunctionType
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from nas.checks import check
from nas.config.sections import RUNTIMES

Inputs = tuple[Tensor, ...]  # what a model is called with, each (B, ...)
Pass = Callable[[], Tensor]

WARMUP = 3  # passes before a CUDA graph is captured, as in PyTorch's notes on CUDA graphs
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ENGINES = ("onnxruntime", "tensorrt")  # whose memory is their own
OUTPUT = "output"  # its name in programs that are made here


@contextmanager
def running(model: nn.Module, inputs: Inputs, runtime: str, *, threads: int) -> Iterator[Pass]:
    """A pass of `model` on `inputs`, on `threads` CPU threads; it returns the output.

    The model is the runtime's own: a copy in eval mode, on the device and in the dtype of the
    inputs. The output may lie in one tensor that each pass fills anew. What the pass holds is
    released in the end. Raises ValueError if this machine does not have the runtime.
    """
    dtype = next((p.dtype for p in model.parameters()), inputs[0].dtype)
    reason = unavailable(runtime, inputs[0].device, dtype)
    check("target.runtime", not reason, f"a runtime of this machine: {reason}", runtime)
    with cpu_threads(threads):
        held = [prepared(model, inputs, runtime, threads=threads)]
    try:
        yield lambda: held[0]()
    finally:
        held.clear()  # the caller may still hold the lambda


def prepared(model: nn.Module, inputs: Inputs, runtime: str, *, threads: int) -> Pass:
    match runtime:
        case "compile":
            return compiled_pass(model, inputs, threads=threads)
        case "cuda_graph":
            return cuda_graph_pass(model, inputs)
        case "eager":
            return eager_pass(model, inputs, threads=threads)
        case _:
            return engine_loader(model, inputs, runtime, threads=threads)()


def unavailable(runtime: str, device: torch.device, dtype: torch.dtype) -> str:
    """Why this machine cannot run `runtime` with that device and dtype; empty if it can."""
    on_gpu = device.type == "cuda"
    match runtime:
        case "eager":
            return ""
        case "compile":
            return missing_compiler(on_gpu=on_gpu)
        case "cuda_graph":
            return "" if on_gpu else f"cuda_graph needs a CUDA device, not {device}"
        case "onnxruntime":
            if dtype != torch.float32:  # no bfloat16 convolution in the opset that is exported
                return f"onnxruntime needs target.dtype=float32, not {dtype}"
            provider = PROVIDERS[device.type]
            known = provider in onnxruntime.get_available_providers()
            return "" if known else f"onnxruntime needs a build with {provider}, not this one"
        case "tensorrt":
            if not on_gpu:
                return f"tensorrt needs a CUDA device, not {device}"
            found = find_spec("tensorrt") is not None
            return "" if found else "tensorrt needs the package tensorrt, which is not installed"
    return f"those are {', '.join(RUNTIMES)}"


def missing_compiler(*, on_gpu: bool) -> str:
    """Why torch.compile cannot build what it generates; empty if it can.

    C++ for the CPU, and Triton for a GPU, which builds its launchers with a C compiler.
    """
    if on_gpu and find_spec("triton") is None:
        return "compile needs the package triton on a GPU, which is not installed"
    language, variable, names = ("C", "CC", ["gcc", "clang"]) if on_gpu else ("C++", "CXX", ["g++"])
    if sys.platform == "darwin":
        names = ["clang++"]
    chosen = shlex.split(os.environ.get(variable, ""))[:1]
    if any(shutil.which(name) for name in chosen or names):
        return ""
    return f"compile needs a {language} compiler, and {' or '.join(chosen or names)} is not there"


def versions(runtime: str) -> str:
    """The name and version of the library behind a runtime; empty where it is PyTorch itself."""
    if runtime == "onnxruntime":
        return f"onnxruntime {onnxruntime.__version__}"
    if runtime == "tensorrt":
        return f"tensorrt {importlib.import_module('tensorrt').__version__}"
    return ""


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """PyTorch's number of CPU threads, as it was before in the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def eager_pass(model: Callable[..., Tensor], inputs: Inputs, *, threads: int) -> Pass:
    def run() -> Tensor:
        with torch.inference_mode(), cpu_threads(threads):
            return model(*inputs)

    return run


def compiled_pass(model: nn.Module, inputs: Inputs, *, threads: int) -> Pass:
    """A pass of the model as torch.compile makes it by default, already compiled.

    The modes that tune each matrix product take minutes a model, longer than a search can spend.
    """

    def forward(*inputs: Tensor) -> Tensor:
        return model(*inputs)

    # What is compiled is kept with the code object and counted there, 256 versions at most in a
    # process, models that are gone included. One of its own for each model needs no reset of all
    # that was compiled, which would end those that still run.
    own = FunctionType(
        forward.__code__.replace(), forward.__globals__, "forward", None, forward.__closure__
    )
    compiled = torch.compile(own, dynamic=False, fullgraph=True)
    run = eager_pass(compiled, inputs, threads=threads)
    run()
    return run


def cuda_graph_pass(model: nn.Module, inputs: Inputs) -> Pass:
    """A replay of the kernels of one pass, recorded: the host's part is a single launch.

    https://docs.pytorch.org/docs/stable/notes/cuda.html, CUDA Graphs.
    """
    with torch.inference_mode(), torch.cuda.device(inputs[0].device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                model(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output: Tensor = model(*inputs)

    def run() -> Tensor:
        graph.replay()
        return output

    return run


def engine_loader(
    model: nn.Module, inputs: Inputs, runtime: str, *, threads: int
) -> Callable[[], Pass]:
    """Converts the model to ONNX; each call loads that into an engine and gives a pass of it."""
    program = onnx_program(model, inputs)
    with torch.inference_mode():
        output = torch.empty_like(model(*inputs), memory_format=torch.contiguous_format)
    if runtime == "tensorrt":
        return lambda: tensorrt_pass(tensorrt_engine(program), inputs, output)
    return partial(onnxruntime_pass, program, inputs, output, threads=threads)


def onnx_program(model: nn.Module, inputs: Inputs) -> bytes:
    """The model as ONNX for the very shapes of `inputs`, made the way the finding is in the end.

    Without the exporter's optimisation it would be faster made, but not be what is deployed.
    """
    # Of a copy made in inference mode no gradient may be asked, which the exporter would do.
    model.requires_grad_(False)
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(model, tuple(map(torch.zeros_like, inputs)))
        exported = torch.onnx.export(
            program, input_names=input_names(inputs), output_names=[OUTPUT], verbose=False
        )
    if exported is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return exported.model_proto.SerializeToString()


def input_names(inputs: Inputs) -> list[str]:
    return [f"input_{place}" for place in range(len(inputs))]


def by_name(inputs: Inputs, output: Tensor) -> dict[str, Tensor]:
    """What a program reads and writes in place, without gaps, by the names in it."""
    contiguous = [tensor.contiguous() for tensor in inputs]
    return {**dict(zip(input_names(inputs), contiguous, strict=True)), OUTPUT: output}


def onnxruntime_pass(program: bytes, inputs: Inputs, output: Tensor, *, threads: int) -> Pass:
    """A pass of an ONNX program that reads `inputs` and fills `output` in place."""
    device = output.device
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    session = onnxruntime_session(program, device, stream, threads=threads)
    binding = session.io_binding()
    tensors = by_name(inputs, output)
    for name, tensor in tensors.items():
        bind = binding.bind_output if name == OUTPUT else binding.bind_input
        kind = np.dtype(str(tensor.dtype).removeprefix("torch."))
        index, shape = device.index or 0, tuple(tensor.shape)
        bind(name, device.type, index, kind, shape, tensor.data_ptr())
    options = onnxruntime.RunOptions()
    if stream is not None:  # awaited by who times it, as a pass of any other runtime
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run() -> Tensor:
        session.run_with_iobinding(binding, options)
        return tensors[OUTPUT]  # the binding holds addresses of all of them, not the tensors

    return run if stream is None else on_stream(run, stream)


def onnxruntime_session(
    program: bytes, device: torch.device, stream: torch.cuda.Stream | None, *, threads: int
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads would spin on into the pass of the reference: with two on two cores, they made
    # its eager pass 2 to 3 times slower. Without, a pass of a millisecond takes up to 40 % longer,
    # and one of 50 ms nothing; on one thread there is no difference.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    provider = PROVIDERS[device.type]
    settings: dict[str, str] = {}
    if stream is not None:
        settings = {
            "device_id": str(device.index or 0),
            "user_compute_stream": str(stream.cuda_stream),
            "use_tf32": str(int(tf32_allowed())),
        }
    session = onnxruntime.InferenceSession(program, options, providers=[(provider, settings)])
    if session.get_providers()[0] != provider:  # it goes on without one that fails to load
        raise RuntimeError(f"onnxruntime could not load its {provider}")
    return session


def tensorrt_engine(program: bytes) -> Any:
    """An engine of TensorRT that computes in the types of the ONNX program.

    Raises RuntimeError with the parser's complaints where TensorRT lacks a part of the program.
    """
    trt = importlib.import_module("tensorrt")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # always so from 11.0 on
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(program):
        complaints = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise RuntimeError(f"TensorRT cannot read the model: {complaints}")
    settings = builder.create_builder_config()
    if not tf32_allowed():
        settings.clear_flag(trt.BuilderFlag.TF32)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise RuntimeError("TensorRT cannot build an engine of the model; its log says why")
    return trt.Runtime(logger).deserialize_cuda_engine(plan)


def tensorrt_pass(engine: Any, inputs: Inputs, output: Tensor) -> Pass:
    """A pass of an engine of TensorRT that reads `inputs` and fills `output` in place."""
    context, tensors = engine.create_execution_context(), by_name(inputs, output)
    for name, tensor in tensors.items():
        context.set_tensor_address(name, tensor.data_ptr())
    stream = torch.cuda.Stream(output.device)  # on the default one it would wait for the host

    def run() -> Tensor:
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT could not start a pass")
        return tensors[OUTPUT]  # the context holds addresses of all of them, not the tensors

    return on_stream(run, stream)


def on_stream(run: Pass, stream: torch.cuda.Stream) -> Pass:
    """`run`, which works on `stream`, in its place among the work of the current stream."""

    def run_in_place() -> Tensor:
        current = torch.cuda.current_stream(stream.device)
        stream.wait_stream(current)
        output = run()
        current.wait_stream(stream)
        return output

    return run_in_place


def tf32_allowed() -> bool:
    """Whether float32 products may round to TF32: all runtimes do as PyTorch is set."""
    return torch.get_float32_matmul_precision() != "highest"
