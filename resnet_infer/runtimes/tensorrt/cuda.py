"""One GPU through the CUDA driver: memory, a stream and graphs. Needs neither torch nor the CUDA toolkit."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import RuntimeUnavailableError, first_line
from resnet_infer.utils.extras import needs

with needs("gpu", "running on a GPU"):
    try:
        from cuda.bindings import driver
    except ModuleNotFoundError:
        import cuda.cuda as driver  # cuda-python before 12.8


class CudaError(RuntimeUnavailableError):
    """A call of the CUDA driver failed. `code` is its name, e.g. `CUDA_ERROR_OUT_OF_MEMORY`."""

    def __init__(self, code: str, call: str) -> None:
        super().__init__(f"the GPU's driver failed: {call} gave {code}", hint="check the GPU with nvidia-smi")
        self.code = code


def _call(name: str, *arguments: Any) -> Any:
    """Call the driver: every function returns an error code, and a value if it has one."""
    code, *values = getattr(driver, name)(*arguments)
    if int(code) != 0:
        raise CudaError(getattr(code, "name", str(code)), name)
    return values[0] if values else None


def device_count() -> int:
    """The number of GPUs. Raises `RuntimeUnavailableError` where there is no driver, or none that works."""
    no_driver = "there is no NVIDIA driver on this machine that works"
    hint = "a GPU needs NVIDIA's driver: nvidia-smi must list it; in a container, start it with --gpus all"
    try:
        _call("cuInit", 0)
        count = int(_call("cuDeviceGetCount"))
    except CudaError as error:
        if error.code == "CUDA_ERROR_NO_DEVICE":
            return 0
        raise RuntimeUnavailableError(f"{no_driver} ({error.code})", hint=hint) from error
    except RuntimeError as error:  # libcuda itself is missing
        raise RuntimeUnavailableError(f"{no_driver} ({first_line(error)})", hint=hint) from error
    return count


class Gpu:
    """A GPU with a stream of its own; what is allocated on it is freed by `close`.

    `number` counts the GPUs that CUDA_VISIBLE_DEVICES leaves. All other methods than `current` and `close` are called
    inside `with gpu.current()`, and belong to one thread at a time. Raises `RuntimeUnavailableError` if there is no
    driver or no such GPU; any call that fails raises `CudaError`.
    """

    def __init__(self, number: int = 0) -> None:
        count = device_count()
        if number >= count:
            raise RuntimeUnavailableError(
                f"there is no GPU {number}: the driver knows {count or 'none'}",
                hint="nvidia-smi lists the GPUs; CUDA_VISIBLE_DEVICES may hide some",
            )
        self.number = number
        device = _call("cuDeviceGet", number)
        self.name: str = _call("cuDeviceGetName", 128, device).split(b"\0")[0].decode(errors="replace")
        attributes = driver.CUdevice_attribute
        self.compute_capability: tuple[int, int] = (
            int(_call("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)),
            int(_call("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)),
        )
        self._owned = contextlib.ExitStack()
        self._stream: Any = None
        self.closed = False
        # The primary context is the one that TensorRT, through CUDA's runtime, works in.
        self._device, self._context = device, _call("cuDevicePrimaryCtxRetain", device)
        try:
            with self.current():
                self._stream = _call("cuStreamCreate", driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the one of the calling thread."""
        _call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            driver.cuCtxPopCurrent()

    @property
    def stream(self) -> int:
        """The stream's handle, as other libraries take it."""
        return int(self._stream)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""
        address = self._allocated("cuMemAlloc", size)
        self._owned.callback(driver.cuMemFree, address)
        return int(address)

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """`size` bytes of the host's memory that the GPU copies at full speed."""
        address = int(self._allocated("cuMemHostAlloc", size, 0))
        self._owned.callback(driver.cuMemFreeHost, address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def _allocated(self, call: str, size: int, *more: int) -> Any:
        try:
            return _call(call, size, *more)
        except CudaError as error:
            if error.code != "CUDA_ERROR_OUT_OF_MEMORY":
                raise
            code, *memory = driver.cuMemGetInfo()
            left = "{:,.0f} of {:,.0f} MB are free".format(*(int(value) / 1e6 for value in memory))
            raise RuntimeUnavailableError(
                f"{size / 1e6:,.1f} MB do not fit on {self.name}" + (f": {left}" if int(code) == 0 else ""),
                hint="end other programs on it, or export with a smaller --max-batch",
            ) from error

    def upload(self, source: NDArray[np.uint8], target: int) -> None:
        """Copy pinned memory to the GPU, in the order of the stream."""
        _call("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, self._stream)

    def download(self, source: int, target: NDArray[np.uint8]) -> None:
        """Copy from the GPU to pinned memory, in the order of the stream."""
        _call("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, self._stream)

    def synchronize(self) -> None:
        """Wait until the stream has done all that it was given."""
        _call("cuStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """What `work` gives to the stream, as a graph for `launch`; nothing of it is run."""
        # Other threads may go on allocating: only this thread's calls are held to the rules of a capture.
        _call("cuStreamBeginCapture", self._stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            code, graph = driver.cuStreamEndCapture(self._stream)
            if int(code) == 0:
                driver.cuGraphDestroy(graph)
            raise
        graph = _call("cuStreamEndCapture", self._stream)
        try:
            return _call("cuGraphInstantiate", graph, 0)
        finally:
            driver.cuGraphDestroy(graph)

    def launch(self, graph: Any) -> None:
        """Run a captured graph, in the order of the stream."""
        _call("cuGraphLaunch", graph, self._stream)

    def discard(self, graph: Any) -> None:
        """Free a captured graph."""
        driver.cuGraphExecDestroy(graph)

    def before_close(self, action: Callable[[], object]) -> None:
        """Have `close` call `action` while the GPU is still there, before it frees what was allocated earlier."""
        self._owned.callback(action)

    def close(self) -> None:
        """Free all, last first. What a broken GPU answers to that is of no use to anyone."""
        if self.closed:
            return
        self.closed = True
        pushed = int(driver.cuCtxPushCurrent(self._context)[0]) == 0
        try:
            if self._stream is not None:
                driver.cuStreamSynchronize(self._stream)
            self._owned.close()
        finally:
            if self._stream is not None:
                driver.cuStreamDestroy(self._stream)
            if pushed:
                driver.cuCtxPopCurrent()
            driver.cuDevicePrimaryCtxRelease(self._device)
