"""A TensorRT in Python: engines that answer by ONNX Runtime, and say no where the real one does.

It has what code of ours uses, and lacks what the version lacks. The names and arguments of the calls
are not checked here: test_bindings.py does, against the real thing.
"""

from __future__ import annotations

import ctypes
import json
from enum import Enum, IntEnum
from functools import lru_cache
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, ref

import numpy as np
import onnx
import onnxruntime

from resnet_infer.converters.tensorrt.engine_graph import read_graph

if TYPE_CHECKING:
    from tests.tensorrt.machine import Machine

SCRATCH = 1000
WORDS = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}
Severity = Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")


@lru_cache(maxsize=8)
def open_session(model: bytes) -> Any:
    """Small graphs want one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Memory(bytes):
    """`IHostMemory`, as far as it is used."""


def tensorrt(machine: Machine) -> Any:
    """The module `tensorrt` of the machine's version."""
    flags = ["TF32", "VERSION_COMPATIBLE"] + ([] if machine.major >= 11 else ["FP16", "INT8"])
    networks = {8: ["EXPLICIT_BATCH"], 10: ["EXPLICIT_BATCH", "STRONGLY_TYPED"], 11: ["STRONGLY_TYPED"]}[machine.major]
    module = ModuleType("tensorrt")
    module.__dict__.update(
        __version__=machine.version,
        ILogger=type("ILogger", (), {"Severity": Severity}),
        BuilderFlag=Enum("BuilderFlag", flags),
        NetworkDefinitionCreationFlag=IntEnum("NetworkDefinitionCreationFlag", networks, start=0),
        ProfilingVerbosity=Enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED"),
        MemoryPoolType=Enum("MemoryPoolType", "WORKSPACE"),
        HardwareCompatibilityLevel=Enum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS"),
        LayerInformationFormat=Enum("LayerInformationFormat", "JSON"),
        TensorIOMode=SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT"),
        Builder=lambda logger: Builder(machine, module, logger),
        OnnxParser=lambda network, logger: Parser(machine, network),
        Runtime=lambda logger: FakeRuntime(machine, logger),
    )
    if machine.major == 8:
        module.__dict__["PreviewFeature"] = Enum("PreviewFeature", "FASTER_DYNAMIC_SHAPES_0805 PROFILE_SHARING_0806")
    if machine.major >= 10:
        module.__dict__["IProgressMonitor"] = type("IProgressMonitor", (), {})
        module.__dict__["ExecutionContextAllocationStrategy"] = SimpleNamespace(USER_MANAGED="USER_MANAGED")
    return module


class Builder:
    def __init__(self, machine: Machine, module: Any, logger: Any) -> None:
        self.machine, self.module, self.logger = machine, module, logger

    def create_network(self, flags: int) -> Any:
        return SimpleNamespace(flags=flags, content=None)

    def create_builder_config(self) -> Any:
        return Config(self.module)

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(shapes=shapes, set_shape=lambda name, *three: shapes.update({name: three}))

    def build_serialized_network(self, network: Any, config: Any) -> Memory | None:
        self.machine.during(config)
        if self.machine.build_error:
            self.logger.log(Severity.ERROR, self.machine.build_error)
            self.logger.log(Severity.ERROR, "and a consequence of that")
            return None
        self.machine.built.append(SimpleNamespace(network=network, **vars(config)))
        header = {
            "version": self.machine.version,
            "capability": self.machine.driver.devices[0][1],
            "compatible": "VERSION_COMPATIBLE" in config.names,
            "shared": self.machine.major > 8 or "PROFILE_SHARING_0806" in config.features,
            "shapes": next(iter(config.profiles[0].shapes.values())),
            "layers": self._layers(network, config),
        }
        return Memory(json.dumps(header).encode() + b"\0" + network.content)

    def _layers(self, network: Any, config: Any) -> Any:
        graph = read_graph(network.content)
        convolutions = [name for name, count in graph.convolutions.items() for _ in range(count)]
        if self.machine.major < 10:  # may choose by the flags, and has no INT8 without its flag
            assert "int8" not in convolutions or "INT8" in config.names
            convolutions = ["fp16" if "FP16" in config.names and c == "fp32" else c for c in convolutions]
        names = [name for name, operator in graph.nodes if operator == "Conv"]
        kernel = "tf32f32" if "TF32" in config.names else "f32f32"
        layers = [
            {
                "Name": name,
                "LayerType": "CaskConvolution",
                "Inputs": [{"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}],
                "Weights": {"Type": WORDS[precision], "Count": 1},
                "TacticName": f"sm80_xmma_fprop_implicit_gemm_{kernel}" if precision == "fp32" else "",
            }
            for name, precision in zip(names, convolutions, strict=True)
        ]
        detailed = config.profiling_verbosity == self.module.ProfilingVerbosity.DETAILED
        return self.machine.layers(layers) if detailed else names


class Config:
    def __init__(self, module: Any) -> None:
        self.names = {"TF32"}
        self.features: set[str] = set()
        self.profiles: list[Any] = []
        self.pools: dict[str, int] = {}
        self.profiling_verbosity = module.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.hardware_compatibility_level = module.HardwareCompatibilityLevel.NONE
        self.builder_optimization_level = 3
        self.progress_monitor = None
        self.cache: Any = None

    def set_flag(self, flag: Any) -> None:
        self.names.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.names.discard(flag.name)

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        (self.features.add if enable else self.features.discard)(feature.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool.name] = size

    def add_optimization_profile(self, profile: Any) -> int:
        ((low, best, high),) = profile.shapes.values()
        if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
            return -1
        self.profiles.append(profile)
        return 0

    def create_timing_cache(self, content: bytes) -> Any:
        if content and not content.startswith(b"timings of "):
            return None
        return SimpleNamespace(content=content, serialize=lambda: Memory(b"timings of this GPU, more"))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache.content.startswith(b"timings of another GPU") and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


class Parser:
    def __init__(self, machine: Machine, network: Any) -> None:
        self.machine, self.network, self.num_errors = machine, network, len(machine.parser_errors)

    def parse(self, content: bytes, path: str | None = None) -> bool:
        self.network.content = content
        return not self.machine.parser_errors

    def get_error(self, index: int) -> Any:
        node, name, operator, text = self.machine.parser_errors[index]
        error = SimpleNamespace(node=lambda: node, desc=lambda: text)
        if self.machine.major >= 10:
            error.node_name, error.node_operator = (lambda: name), (lambda: operator)
        return error


class FakeRuntime:
    def __init__(self, machine: Machine, logger: Any) -> None:
        self.machine, self.logger, self.engine_host_code_allowed = machine, logger, False
        machine.alive.add(self)

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        header, _, model = bytes(content).partition(b"\0")
        value = json.loads(header)
        wrong = value["version"] != self.machine.version and not value["compatible"]
        if wrong or self.machine.load_error or (value["compatible"] and not self.engine_host_code_allowed):
            self.logger.log(Severity.ERROR, self.machine.load_error or "a version tag does not match")
            return None
        return Engine(self.machine, self.logger, value, model)


class Engine:
    def __init__(self, machine: Machine, logger: Any, header: dict[str, Any], model: bytes) -> None:
        self.machine, self.logger, self.header, self.model = machine, logger, header, model
        self.contexts: WeakSet[Context] = WeakSet()
        machine.alive.add(self)

    def create_execution_context(self, strategy: str = "STATIC") -> Any:
        if self.machine.context_error:
            self.logger.log(Severity.ERROR, self.machine.context_error)
            return None
        return Context(self, own_memory=strategy == "STATIC")

    def create_execution_context_without_device_memory(self) -> Any:
        assert self.machine.major == 8
        return self.create_execution_context("USER_MANAGED")

    def __getattr__(self, name: str) -> Any:
        if name == ("device_memory_size" if self.machine.major == 8 else "device_memory_size_v2"):
            return SCRATCH
        raise AttributeError(name)

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors())

    def get_tensor_name(self, index: int) -> str:
        return str(list(self._tensors())[index])

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if self._tensors()[name][0] else "OUTPUT"

    def get_tensor_dtype(self, name: str) -> str:
        kinds = {onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF"}
        return f"DataType.{kinds[self._tensors()[name][1].type.tensor_type.elem_type]}"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side.dim_value or -1 for side in self._tensors()[name][1].type.tensor_type.shape.dim)

    def _tensors(self) -> dict[str, tuple[bool, Any]]:
        graph = onnx.ModelProto.FromString(self.model).graph
        return {item.name: (item in graph.input, item) for item in (*graph.input, *graph.output)}

    def create_engine_inspector(self) -> Any:
        text = json.dumps({"Layers": self.header["layers"], "Bindings": ["images", "logits"]})
        return SimpleNamespace(execution_context=None, get_engine_information=lambda format: text)


class Context:
    """An execution context. It settles with a run; a graph of its work needs it as it was when it was captured."""

    def __init__(self, engine: Engine, own_memory: bool) -> None:
        self.engine, self.machine, self.own_memory = engine, engine.machine, own_memory
        self.session = open_session(engine.model)
        graph = onnx.ModelProto.FromString(engine.model).graph
        self.images, self.logits = graph.input[0].name, graph.output[0].name
        self.shape: tuple[int, ...] | None = None
        self.settled = False
        self.device_memory = 0
        self.addresses: dict[str, int] = {}
        # TensorRT 8 gives the profile to the first context only.
        self.active_optimization_profile = -1 if self.machine.major == 8 and len(engine.contexts) else 0
        engine.contexts.add(self)
        if self.machine.major >= 10:
            self.set_device_memory = self._set_device_memory
        self.machine.alive.add(self)

    def _set_device_memory(self, memory: int, size: int) -> None:
        assert size == SCRATCH
        self.device_memory = memory

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert self.machine.driver.held[stream][0] == "stream"
        if not self.engine.header["shared"] and any(
            context.active_optimization_profile == index for context in self.engine.contexts if context is not self
        ):
            self.engine.logger.log(Severity.ERROR, f"Profile {index} has been chosen by another IExecutionContext")
            return False
        self.active_optimization_profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.active_optimization_profile < 0:
            self.engine.logger.log(Severity.ERROR, "No optimization profile has been selected")
            return False
        low, _, high = self.engine.header["shapes"]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            self.engine.logger.log(Severity.ERROR, f"{shape} is outside of the profile")
            return False
        self.shape, self.settled = shape, False
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name in (self.images, self.logits):
            self.addresses[name] = address
        return name in (self.images, self.logits)

    def execute_async_v3(self, stream: int) -> bool:
        driver, shape, addresses = self.machine.driver, self.shape, dict(self.addresses)
        assert shape is not None
        assert set(addresses) == {self.images, self.logits}
        assert self.own_memory or driver.check(self.device_memory, SCRATCH)
        if driver.capturing and not (self.machine.capturable and self.settled):
            self.engine.logger.log(Severity.ERROR, "this cannot be captured")
            return False
        self.settled = True
        itself = ref(self)

        def work() -> None:
            context = itself()
            assert context is not None, "the context is gone"
            assert (context.shape, context.addresses) == (shape, addresses), "the context has another state"
            size = int(np.prod(shape))
            content = ctypes.string_at(driver.check(addresses[context.images], size), size)
            images = np.frombuffer(content, np.uint8).reshape(shape)
            (logits,) = context.session.run([context.logits], {context.images: images})
            ctypes.memmove(driver.check(addresses[context.logits], logits.nbytes), logits.tobytes(), logits.nbytes)
            context.machine.seen.append(len(images))

        driver.enqueue(stream, work)
        return True
