"""Use a GPU through the CUDA driver API: memory, a stream and CUDA graphs.

This needs the package `cuda-python` and NVIDIA's driver, but neither torch nor the CUDA toolkit. The functions are
described in https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import RuntimeUnavailableError, first_line
from resnet_infer.runtimes.nvidia.device_errors import DeviceError, is_sticky
from resnet_infer.utils.extras import needs

with needs("tensorrt", "running on a GPU"):
    try:
        from cuda.bindings import driver
    except ModuleNotFoundError:
        import cuda.cuda as driver  # cuda-python before 12.8


class CudaError(DeviceError):
    """Report a failed call of the CUDA driver. `code` is the error's name, such as `CUDA_ERROR_OUT_OF_MEMORY`."""

    def __init__(self, code: str, call: str) -> None:
        super().__init__(f"the GPU's driver failed: {call} gave {code}", sticky=is_sticky(code))
        self.code = code


def _call(name: str, *arguments: Any) -> Any:
    """Call a function of the driver and return its value, if it has one. Raises `CudaError` for an error code."""
    code, *values = getattr(driver, name)(*arguments)
    if int(code) != 0:
        raise CudaError(getattr(code, "name", str(code)), name)
    return values[0] if values else None


def device_count() -> int:
    """Return the number of GPUs. Raises `RuntimeUnavailableError` without a working driver."""
    no_driver = "there is no NVIDIA driver on this machine that works"
    hint = "a GPU needs NVIDIA's driver: nvidia-smi must list it; in a container, start it with --gpus all"
    try:
        _call("cuInit", 0)
        count = int(_call("cuDeviceGetCount"))
    except CudaError as error:
        if error.code == "CUDA_ERROR_NO_DEVICE":
            return 0
        raise RuntimeUnavailableError(f"{no_driver} ({error.code})", hint=hint) from error
    except RuntimeError as error:  # libcuda is missing
        raise RuntimeUnavailableError(f"{no_driver} ({first_line(error)})", hint=hint) from error
    return count


class Gpu:
    """Hold a GPU with a stream and all memory allocated on it, until `close` frees them.

    `number` is the index among the GPUs in CUDA_VISIBLE_DEVICES. Attributes: `name`, and `compute_capability` as
    (major, minor). Call methods other than `current` and `close` inside `with gpu.current()`, on one thread at a time.

    Raises `RuntimeUnavailableError` without a driver or such a GPU. Any method raises `CudaError` if the driver fails.
    """

    def __init__(self, number: int = 0) -> None:
        count = device_count()
        if number >= count:
            raise RuntimeUnavailableError(
                f"there is no GPU {number}: the driver knows {count or 'none'}",
                hint="nvidia-smi lists the GPUs; CUDA_VISIBLE_DEVICES may hide some",
                source=f"cuda:{number}",
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
        # TensorRT works in the primary context, because it uses CUDA's runtime API.
        self._device, self._context = device, _call("cuDevicePrimaryCtxRetain", device)
        try:
            with self.current():
                self._stream = _call("cuStreamCreate", driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU's context current on the calling thread for the body of the `with` statement."""
        _call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            driver.cuCtxPopCurrent()

    @property
    def stream(self) -> int:
        """Return the stream's handle (`CUstream`) as an integer, for other libraries."""
        return int(self._stream)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU and return their address.

        Raises `RuntimeUnavailableError` if they do not fit.
        """
        address = self._allocated("cuMemAlloc", size)
        self._owned.callback(driver.cuMemFree, address)
        return int(address)

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """Allocate `size` bytes of page-locked host memory, from and to which the GPU copies asynchronously.

        Raises `RuntimeUnavailableError` if they cannot be allocated.
        """
        address = int(self._allocated("cuMemHostAlloc", size, 0))
        self._owned.callback(driver.cuMemFreeHost, address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def _allocated(self, call: str, size: int, *more: int) -> Any:
        """Call an allocating function of the driver. Raises `RuntimeUnavailableError` if memory is short."""
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
                source=self.name,
                reason="memory",
            ) from error

    def upload(self, source: NDArray[np.uint8], target: int) -> None:
        """Enqueue a copy of pinned memory to the address `target` on the GPU."""
        _call("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, self._stream)

    def download(self, source: int, target: NDArray[np.uint8]) -> None:
        """Enqueue a copy of `target.nbytes` bytes from the address `source` on the GPU to pinned memory."""
        _call("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, self._stream)

    def synchronize(self) -> None:
        """Wait until all work in the stream is done."""
        _call("cuStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """Record what `work` enqueues in the stream as a CUDA graph for `launch`, without running it.

        Returns a `CUgraphExec`. Free it with `discard`.
        """
        # THREAD_LOCAL: calls that a capture forbids, such as allocations, remain allowed on other threads.
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
        """Enqueue a captured graph in the stream."""
        _call("cuGraphLaunch", graph, self._stream)

    def discard(self, graph: Any) -> None:
        """Free a captured graph."""
        driver.cuGraphExecDestroy(graph)

    def before_close(self, action: Callable[[], object]) -> None:
        """Let `close` call `action` before it frees what was allocated before this call."""
        self._owned.callback(action)

    def close(self) -> None:
        """Free everything in reverse order of allocation. Errors are ignored: a broken GPU leaves nothing to do."""
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
