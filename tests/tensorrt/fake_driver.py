"""A CUDA driver in Python, as strict as the real one where it is easy to be careless.

What a stream is given happens only when someone waits for it; memory is checked at every copy; nothing but `current`
contexts may be used; what is not freed is seen. Other than the real one it has no GPU.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any

Work = Callable[[], None]


class Code(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class Names:
    """An enum whose members are their own names."""

    def __getattr__(self, name: str) -> str:
        return name


class FakeDriver:
    """`cuda.bindings.driver` of a machine with `devices`, (name, compute capability), and `memory` bytes on each.

    `failing` maps a call to the error that it gives. `held` is what was made and not freed. `calls` are in order.
    """

    CUdevice_attribute = CUstream_flags = CUstreamCaptureMode = Names()

    def __init__(self) -> None:
        self.devices: list[tuple[str, tuple[int, int]]] = [("NVIDIA Test GPU", (9, 0))]
        self.memory = 1 << 30
        self.failing: dict[str, Code | Exception] = {}
        self.calls: list[str] = []
        self.held: dict[int, tuple[str, Any]] = {}
        self._names = itertools.count(1000)
        self._thread = threading.local()
        self._capture: list[Work] | None = None
        self._broken = False

    # What TensorRT's fake needs of it

    def enqueue(self, stream: int, work: Work) -> None:
        kind, queue = self.held[stream]
        assert kind == "stream"
        assert self._contexts, "no GPU is current in this thread"
        (queue if self._capture is None else self._capture).append(work)

    @property
    def capturing(self) -> bool:
        return self._capture is not None

    def check(self, address: int, size: int) -> int:
        """`address`, if these bytes are someone's."""
        assert any(
            start <= address and address + size <= start + len(item)
            for start, (kind, item) in self.held.items()
            if kind in ("device memory", "host memory")
        ), "an illegal address"
        return address

    # The driver's functions: an error code first, then the value

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("cu"):
            return value
        needs_context = name.startswith(("cuMem", "cuStream", "cuGraph"))

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            failure = self.failing.get(name)
            if isinstance(failure, Exception):
                raise failure
            if failure is not None:
                if name == "cuStreamEndCapture":  # one that went wrong has ended all the same
                    self._capture = None
                return failure, None
            if needs_context and not self._contexts:
                return Code.CUDA_ERROR_INVALID_CONTEXT, None
            result = value(*arguments)
            return result if isinstance(result, tuple) else (Code.CUDA_SUCCESS, result)

        return call

    @property
    def _contexts(self) -> list[int]:
        if not hasattr(self._thread, "contexts"):
            self._thread.contexts = []
        stack: list[int] = self._thread.contexts
        return stack

    def _hold(self, kind: str, item: Any, name: int | None = None) -> int:
        name = next(self._names) if name is None else name
        self.held[name] = kind, item
        return name

    def _free(self, kind: str, name: int) -> None:
        found, _ = self.held.pop(int(name))
        assert found == kind, f"{found} was freed as {kind}"

    def cuInit(self, flags: int) -> Any:  # noqa: N802
        return (Code.CUDA_SUCCESS,) if self.devices else (Code.CUDA_ERROR_NO_DEVICE,)

    def cuDeviceGetCount(self) -> Any:  # noqa: N802
        return len(self.devices)

    def cuDeviceGet(self, number: int) -> Any:  # noqa: N802
        return number

    def cuDeviceGetName(self, length: int, device: int) -> Any:  # noqa: N802
        return self.devices[device][0].encode().ljust(length, b"\0")

    def cuDeviceGetAttribute(self, attribute: str, device: int) -> Any:  # noqa: N802
        return self.devices[device][1][attribute.endswith("MINOR")]

    def cuDevicePrimaryCtxRetain(self, device: int) -> Any:  # noqa: N802
        return self._hold("context", device)

    def cuDevicePrimaryCtxRelease(self, device: int) -> Any:  # noqa: N802
        name = next(name for name, (kind, item) in self.held.items() if (kind, item) == ("context", device))
        self._free("context", name)

    def cuCtxPushCurrent(self, context: int) -> Any:  # noqa: N802
        assert self.held[context][0] == "context"
        self._contexts.append(context)

    def cuCtxPopCurrent(self) -> Any:  # noqa: N802
        return self._contexts.pop()

    def cuMemGetInfo(self) -> Any:  # noqa: N802
        return Code.CUDA_SUCCESS, self._left(), self.memory

    def _left(self) -> int:
        return self.memory - sum(len(item) for kind, item in self.held.values() if kind == "device memory")

    def cuMemAlloc(self, size: int) -> Any:  # noqa: N802
        if size > self._left():
            return Code.CUDA_ERROR_OUT_OF_MEMORY, None
        return self._allocate("device memory", size)

    def cuMemHostAlloc(self, size: int, flags: int) -> Any:  # noqa: N802
        return self._allocate("host memory", size)

    def _allocate(self, kind: str, size: int) -> int:
        block = ctypes.create_string_buffer(b"\xcd" * size, size)
        return self._hold(kind, block, ctypes.addressof(block))

    def cuMemFree(self, address: int) -> Any:  # noqa: N802
        self._free("device memory", address)

    def cuMemFreeHost(self, address: int) -> Any:  # noqa: N802
        self._free("host memory", address)

    def _copy(self, target: int, source: int, size: int, stream: int) -> None:
        def work() -> None:
            ctypes.memmove(self.check(target, size), self.check(source, size), size)

        self.enqueue(stream, work)

    def cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: int) -> Any:  # noqa: N802
        self._copy(target, source, size, stream)

    def cuMemcpyDtoHAsync(self, target: int, source: int, size: int, stream: int) -> Any:  # noqa: N802
        self._copy(target, source, size, stream)

    def cuStreamCreate(self, flags: str) -> Any:  # noqa: N802
        return self._hold("stream", [])

    def cuStreamDestroy(self, stream: int) -> Any:  # noqa: N802
        self._free("stream", stream)

    def cuStreamSynchronize(self, stream: int) -> Any:  # noqa: N802
        if self._capture is not None:
            return (Code.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        queue: list[Work] = self.held[stream][1]
        try:
            while queue and not self._broken:
                queue.pop(0)()
        except AssertionError:
            self._broken = True
        return (Code.CUDA_ERROR_ILLEGAL_ADDRESS if self._broken else Code.CUDA_SUCCESS,)

    def cuStreamBeginCapture(self, stream: int, mode: str) -> Any:  # noqa: N802
        assert mode == "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"
        assert not self.held[stream][1], "work is under way"
        self._capture = []

    def cuStreamEndCapture(self, stream: int) -> Any:  # noqa: N802
        captured, self._capture = self._capture, None
        return self._hold("graph", captured)

    def cuGraphInstantiate(self, graph: int, flags: int) -> Any:  # noqa: N802
        return self._hold("executable graph", list(self.held[graph][1]))

    def cuGraphLaunch(self, graph: int, stream: int) -> Any:  # noqa: N802
        for work in self.held[graph][1]:
            self.enqueue(stream, work)

    def cuGraphDestroy(self, graph: int) -> Any:  # noqa: N802
        self._free("graph", graph)

    def cuGraphExecDestroy(self, graph: int) -> Any:  # noqa: N802
        self._free("executable graph", graph)
