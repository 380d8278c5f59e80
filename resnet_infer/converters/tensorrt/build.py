"""Build a TensorRT engine from an ONNX graph through TensorRT's Python API, in versions 8.6, 10 and 11.

The module parses the graph, configures the builder and inspects the engine. `export` prepares the GPU, checks the
engine's precision and writes the files.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_infer.converters.tensorrt.engine_graph import STRONGLY_TYPED, EngineGraph, check_batches
from resnet_infer.converters.tensorrt.engine_layers import Layer, read_layers
from resnet_infer.errors import ModelError, ResnetInferError, RuntimeUnavailableError, UsageError, first_line
from resnet_infer.models.spec import Precision
from resnet_infer.runtimes.tensorrt.library import major_version, process_logger
from resnet_infer.utils.console import warn
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.inputs import read_bytes
from resnet_infer.utils.progress import Advance

_SHOWN = 5
"""Largest number of parser errors that a message lists."""


@dataclass(frozen=True)
class BuildOptions:
    """Hold the settings of the builder. The names in parentheses are those of TensorRT's Python API.

    - `min_batch`, `opt_batch`, `max_batch`: smallest, optimal and largest number of images in a call; kernels are
      chosen for the optimal one (`IOptimizationProfile`).
    - `workspace`: most bytes of GPU memory that a layer may use temporarily (`MemoryPoolType.WORKSPACE`).
    - `optimization_level`: 0 (shortest build) to 5 (fastest engine) (`builder_optimization_level`).
    - `version_compatible`: allow newer versions of TensorRT to run the engine, at a cost in speed
      (`BuilderFlag.VERSION_COMPATIBLE`).
    - `hardware_compatible`: allow all GPUs from Ampere on to run the engine, at a cost in speed
      (`HardwareCompatibilityLevel.AMPERE_PLUS`).
    - `timing_cache`: file that keeps the measured times of kernels for later builds (`ITimingCache`).

    None stands for TensorRT's default, or for no file. Raises `UsageError` for values out of range.
    """

    min_batch: int = 1
    opt_batch: int = 8
    max_batch: int = 64
    workspace: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        check_batches(self.min_batch, self.opt_batch, self.max_batch)
        if self.workspace is not None and self.workspace < 1:
            raise UsageError(f"the workspace is at least one byte, not {self.workspace}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"the optimization level is 0 to 5, not {self.optimization_level}")


class Build:
    """Build and inspect one engine. The builder, network and engine live only as long as the method that uses them.

    `tensorrt` is the imported module. `size` is the (height, width) of the images in pixels. The GPU's context must be
    current while a method runs.
    """

    def __init__(
        self, tensorrt: Any, graph: EngineGraph, precision: Precision, options: BuildOptions, size: tuple[int, int]
    ) -> None:
        self.tensorrt, self.graph, self.precision, self.options = tensorrt, graph, precision, options
        self.shapes = [(n, *size, 3) for n in (options.min_batch, options.opt_batch, options.max_batch)]
        self.major = major_version(tensorrt)
        self.logger = process_logger(tensorrt)

    def plan(self, progress: Advance | None) -> bytes:
        """Build the engine and return it serialised.

        `progress` receives the builder's phases and steps, in TensorRT versions with `IProgressMonitor`.

        Raises `ModelError` if TensorRT cannot parse the graph or build it, and `KeyboardInterrupt` after Ctrl-C.
        """
        self.logger.begin()
        builder = self.tensorrt.Builder(self.logger)
        network = builder.create_network(self._network_flags())
        parser = self._parse(network)
        config = self._config(builder)
        cache = self._load_timing_cache(config)
        with _ctrl_c() as pressed:
            if hasattr(self.tensorrt, "IProgressMonitor"):
                monitor = _make_monitor(self.tensorrt, progress, pressed)
                config.progress_monitor = monitor
            plan = builder.build_serialized_network(network, config)
        del parser  # kept until here because it owns the network's weights
        if pressed.is_set():
            raise KeyboardInterrupt
        if plan is None:
            raise ModelError(
                f"TensorRT {self.tensorrt.__version__} could not build an engine of {self.graph.label}: "
                f"{self.logger.reason()}",
                hint="if memory ran out: end other programs on the GPU, or lower --max-batch or --workspace",
                source=self.graph.label,
                reason="failed",
            )
        if cache is not None:
            self._save_timing_cache(config)
        return to_bytes(plan)

    def layers(self, plan: bytes) -> list[Layer]:
        """Deserialise the engine and return its layers, as TensorRT's inspector reports them for `opt_batch` images.

        Raises `ModelError` if the engine or its description cannot be read, and `RuntimeUnavailableError` if the
        engine does not fit in the GPU's memory.
        """
        self.logger.begin()
        runtime = self.tensorrt.Runtime(self.logger)
        if self.options.version_compatible:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ModelError(
                f"TensorRT does not load the engine that it built ({self.logger.reason()})", reason="failed"
            )
        context = engine.create_execution_context()
        if context is None:
            raise RuntimeUnavailableError(
                f"the engine does not fit on the GPU ({self.logger.reason()})",
                hint="lower --max-batch",
                reason="memory",
            )
        context.set_input_shape(self.graph.images, self.shapes[1])
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context
        return read_layers(inspector.get_engine_information(self.tensorrt.LayerInformationFormat.JSON))

    def _network_flags(self) -> int:
        """Return the bit mask of `NetworkDefinitionCreationFlag` for this version of TensorRT."""
        if self.major > STRONGLY_TYPED:
            return 0  # TensorRT 11 knows only strongly typed networks
        flags = self.tensorrt.NetworkDefinitionCreationFlag
        return 1 << int(flags.STRONGLY_TYPED if self.major == STRONGLY_TYPED else flags.EXPLICIT_BATCH)

    def _parse(self, network: Any) -> Any:
        """Parse the graph into `network` and return the parser. Raises `ModelError` with the parser's errors."""
        parser = self.tensorrt.OnnxParser(network, self.logger)
        path = (str(self.graph.path),) if self.graph.path else ()
        if parser.parse(self.graph.content, *path):
            return parser
        errors = [self._parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        more = f" (and {len(errors) - _SHOWN} more)" if len(errors) > _SHOWN else ""
        raise ModelError(
            f"TensorRT {self.tensorrt.__version__} cannot read {self.graph.label}: "
            + ("; ".join(errors[:_SHOWN]) or self.logger.reason())
            + more,
            hint="a newer TensorRT knows more operators: pip install --upgrade tensorrt",
            source=self.graph.label,
            reason="unsupported",
        )

    def _parser_error(self, error: Any) -> str:
        """Describe an `IParserError` with the name and operator of its node, if they are known."""
        index = int(error.node())
        name, operator = self.graph.nodes[index] if 0 <= index < len(self.graph.nodes) else ("", "")
        if hasattr(error, "node_name"):
            name, operator = error.node_name() or name, error.node_operator() or operator
        where = f"node {name or index} ({operator}): " if name or operator else ""
        return f"{where}{error.desc()}"

    def _config(self, builder: Any) -> Any:
        """Create the `IBuilderConfig` with the options, the precision and one optimisation profile.

        Raises `ModelError` if TensorRT rejects the profile.
        """
        tensorrt, options = self.tensorrt, self.options
        config = builder.create_builder_config()
        config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED  # `layers` needs it
        flags = {"fp32": None, "fp16": "FP16", "int8": "INT8"}
        if self.major < STRONGLY_TYPED and (flag := flags[self.precision]):
            config.set_flag(getattr(tensorrt.BuilderFlag, flag))
        if self.precision == "fp32":
            config.clear_flag(tensorrt.BuilderFlag.TF32)
        if self.major < STRONGLY_TYPED:
            # `SizedBatch` opens a context for each batch size, all with the one profile. TensorRT 9 allows it always.
            config.set_preview_feature(tensorrt.PreviewFeature.PROFILE_SHARING_0806, True)
        if options.workspace is not None:
            config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.version_compatible:
            config.set_flag(tensorrt.BuilderFlag.VERSION_COMPATIBLE)
        if options.hardware_compatible:
            config.hardware_compatibility_level = tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS
        profile = builder.create_optimization_profile()
        profile.set_shape(self.graph.images, *self.shapes)
        if config.add_optimization_profile(profile) < 0:
            raise ModelError(
                f"TensorRT does not take the batches {self.shapes} ({self.logger.reason()})", reason="failed"
            )
        return config

    def _load_timing_cache(self, config: Any) -> Any:
        """Give the config a timing cache and return it, or None without the option `timing_cache`.

        A file that is missing, unreadable, damaged, or of another GPU or TensorRT is replaced by an empty cache.
        """
        path = self.options.timing_cache
        if path is None:
            return None
        try:
            content = read_bytes(path) if path.exists() else b""
        except OSError as error:
            content = b""
            warn(f"the timing cache {path} cannot be read ({error.strerror or error}): this build starts a new one")
        if content:
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, False):
                return cache
            warn(
                f"the timing cache {path} is damaged, or of another GPU or TensorRT ({self.logger.reason()}): "
                "this build starts a new one"
            )
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
        return cache

    def _save_timing_cache(self, config: Any) -> None:
        """Write the timing cache to its file. A failure is only noted, because the engine is valid without it."""
        path = self.options.timing_cache
        assert path is not None
        try:
            with atomic_path(path) as temporary:
                temporary.write_bytes(to_bytes(config.get_timing_cache().serialize()))
        except (ResnetInferError, OSError) as error:
            warn(f"the timing cache was not saved: {first_line(error)}")


def to_bytes(memory: Any) -> bytes:
    """Copy the content of an `IHostMemory`, the buffer in which TensorRT returns serialised objects."""
    return bytes(memory)


@contextlib.contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Set an event on Ctrl-C instead of raising `KeyboardInterrupt`, which TensorRT would lose inside a callback.

    Outside the main thread, where Python allows no signal handlers, the event is never set.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.set())
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _make_monitor(tensorrt: Any, progress: Advance | None, pressed: threading.Event) -> Any:
    """Create an `IProgressMonitor` that reports each step to `progress` and cancels the build once `pressed` is set.

    A build takes minutes. TensorRT calls the monitor from several threads.
    """
    lock = threading.Lock()

    def tell(count: int, title: str | None = None) -> None:
        """Report `count` steps and a new title, one thread at a time."""
        if progress is not None:
            with lock:
                progress(count, title)

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]  # the base class is known only at run time
        """Receive the progress of a build; TensorRT calls the methods."""

        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Show the name of a phase that starts."""
            tell(0, phase_name)

        def phase_finish(self, phase_name: str) -> None:
            """Ignore the end of a phase."""

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Count a step, and return False to cancel the build."""
            tell(1)
            return not pressed.is_set()

    return Monitor()
