"""Build, open and run an engine through real bindings of TensorRT and CUDA whose libraries are dummies.

    python tests/tensorrt/calls.py MODEL.onnx FOLDER

Run by test_bindings.py in a process of its own per version. Prints JSON: the version, what became of each precision,
and what became of the same calls with one of them made wrong, each of which must raise.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_bindings  # type: ignore[import-not-found]  # at hand only in that process

from resnet_infer.models.spec import Precision

sys.modules["tensorrt"] = tensorrt_bindings

OURS = (
    "runtimes.tensorrt.cuda",
    "runtimes.tensorrt.library",
    "runtimes.tensorrt.runtime",
    "converters.tensorrt.build",
    "converters.tensorrt.export",
)
MISTAKES = (
    ("runtimes.tensorrt.cuda", "cuStreamSynchronize", "cuStreamSynchronise"),
    ("runtimes.tensorrt.cuda", '"cuMemAlloc", size', '"cuMemAlloc", size, 0'),
    ("runtimes.tensorrt.runtime", "execute_async_v3", "execute_async_v1"),
    ("runtimes.tensorrt.runtime", "engine.get_tensor_shape(name)", "engine.get_tensor_shape(name, 0)"),
    ("runtimes.tensorrt.runtime", "engine.num_io_tensors", "engine.num_bindings_of_all"),
    ("runtimes.tensorrt.runtime", "set_tensor_address(name, address)", "set_tensor_address(address, name)"),
    (
        "runtimes.tensorrt.runtime",
        "context.set_input_shape(engine.info.images, shape)",
        "context.set_input_shape(shape)",
    ),
    ("runtimes.tensorrt.runtime", "ProfilingVerbosity.NONE", "ProfilingVerbosity.NOTHING"),
    ("converters.tensorrt.build", "set_timing_cache(cache, False)", "set_timing_cache(cache)"),
    ("converters.tensorrt.build", "config.add_optimization_profile(", "config.add_profile("),
    ("converters.tensorrt.build", "error.desc()", "error.description()"),
)
"""Module, what is written there, and the mistake: a wrong name, or wrong arguments."""
MISTAKES_OF_8 = (
    ("converters.tensorrt.build", "set_preview_feature(tensorrt.", "set_preview_features(tensorrt."),
    ("converters.tensorrt.build", "PROFILE_SHARING_0806", "PROFILE_SHARING"),
    (
        "runtimes.tensorrt.runtime",
        "context.set_optimization_profile_async(0, ",
        "context.set_optimization_profile_async(",
    ),
)
"""The same, of lines that only TensorRT 8 reaches."""


class Mistaken(MetaPathFinder):
    """Imports one of our modules with another text in its source."""

    def __init__(self, module: str, old: str, new: str) -> None:
        self.module, self.old, self.new = f"resnet_infer.{module}", old, new

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.module:
            return None
        file = Path(path[0]) / f"{name.rpartition('.')[2]}.py"
        source = file.read_text(encoding="utf-8")
        assert self.old in source, f"{self.old} is not in {file}"

        class Loader(SourceFileLoader):
            def get_code(loader, fullname: str) -> Any:  # noqa: N805
                return compile(source.replace(self.old, self.new), str(file), "exec")

        return importlib.util.spec_from_loader(name, Loader(name, str(file)))


def run(model: Path, folder: Path, precision: Precision) -> None:
    """Every call that an export and a classification make. The dummies answer, so only exceptions tell something."""
    from resnet_infer.converters.tensorrt import build
    from resnet_infer.converters.tensorrt import export as tensorrt
    from resnet_infer.converters.tensorrt.engine_graph import EngineGraph
    from resnet_infer.converters.tensorrt.engine_layers import Layer
    from resnet_infer.runtimes.tensorrt import runtime as runtime_module
    from resnet_infer.runtimes.tensorrt.runtime import TensorRTRuntime

    def to_bytes(memory: Any) -> bytes:
        assert isinstance(memory, tensorrt_bindings.IHostMemory)
        return b"an engine"

    def read_layers(information: str) -> list[Layer]:
        assert information == "{} "  # the dummy's one string
        return [Layer("conv", precision, True)]

    vars(build).update(to_bytes=to_bytes, read_layers=read_layers)
    vars(runtime_module).update(
        require_signature=lambda spec, inputs, outputs, label: None
    )  # the dummy's tensors fit nothing
    EngineGraph.require = lambda self, precision, major: None  # type: ignore[method-assign]

    timing = folder / "timing.cache"
    timing.write_bytes(b"an old one")
    options = tensorrt.BuildOptions(2, 2, 4, 1 << 30, 3, True, True, timing)
    steps: list[str | None] = []
    target = folder / "model.engine"
    for source in (model, model.read_bytes()):
        tensorrt.build_engine(
            source, target, precision=precision, options=options, progress=lambda count, title=None: steps.append(title)
        )
    parser_errors(model, precision)
    if hasattr(tensorrt_bindings, "IProgressMonitor"):
        monitor = build._make_monitor(
            tensorrt_bindings, lambda count, title=None: steps.append(title), threading.Event()
        )
        monitor.phase_start("phase", "parent", 3)
        assert monitor.step_complete("phase", 1) is True
        monitor.phase_finish("phase")
        assert steps
    with TensorRTRuntime(target) as runtime:
        images = np.zeros((5, *runtime.info.size, 3), np.uint8)
        for _ in range(2):  # the second time by CUDA graphs
            assert runtime(images).shape == (5, len(runtime.spec.classes))
        assert sorted(runtime._sizes) == [2, 4]
        assert runtime.cuda_graph


def parser_errors(model: Path, precision: Precision) -> None:
    """What is asked of a parser that does not understand. The dummy's always does, so it is made to say no."""
    from resnet_infer.converters.tensorrt.build import Build, BuildOptions
    from resnet_infer.converters.tensorrt.engine_graph import read_graph
    from resnet_infer.errors import ModelError

    parser = tensorrt_bindings.OnnxParser
    parse, count, message = parser.parse, parser.num_errors, ""
    try:
        parser.parse, parser.num_errors = lambda self, *arguments: False, 2
        Build(tensorrt_bindings, read_graph(model), precision, BuildOptions(), (32, 32)).plan(None)
    except ModelError as error:
        message = str(error)
    finally:
        parser.parse, parser.num_errors = parse, count
    assert "{} " in message, "a parser's no was not heard"


def attempt(model: Path, folder: Path, precision: Precision) -> str:
    """What `run` raises, or "passed"; with our modules imported anew."""
    for name in OURS:
        if sys.modules.pop(f"resnet_infer.{name}", None):
            package, _, module = f"resnet_infer.{name}".rpartition(".")
            delattr(sys.modules[package], module)
    try:
        run(model, folder, precision)
    except (AttributeError, TypeError) as error:
        return type(error).__name__
    return "passed"


def main() -> None:
    model, folder = Path(sys.argv[1]), Path(sys.argv[2])
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    result: dict[str, Any] = {"version": tensorrt_bindings.__version__, "mistakes": {}}
    result["precisions"] = {precision: attempt(model, folder, precision) for precision in precisions}
    for module, old, new in MISTAKES + (MISTAKES_OF_8 if result["version"].startswith("8.") else ()):
        finder = Mistaken(module, old, new)
        sys.meta_path.insert(0, finder)
        result["mistakes"][new] = attempt(model, folder, "fp16")
        sys.meta_path.remove(finder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
