"""Run a session of ONNX Runtime with its input and output in the GPU's memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from resnet_infer.errors import UsageError
from resnet_infer.runtimes.base import Images, Logits
from resnet_infer.runtimes.nvidia.sizes import SIZES, padded
from resnet_infer.utils.extras import needs

with needs("gpu", "running on an NVIDIA GPU"):
    from resnet_infer.runtimes import ort_session

BUFFERS = 12
"""Most shapes that keep buffers on the device: those of `SIZES`, and as many others."""


class Buffers:
    """Keep input and output of one shape at fixed addresses on the device. One call at a time.

    Only uint8 images are copied to the device and only logits back. Source: "IO binding",
    https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html.
    """

    def __init__(
        self, session: Any, names: tuple[str, str], shape: tuple[int, ...], classes: int, device: tuple[str, int]
    ) -> None:
        self._session = session
        self._host = np.zeros(shape, np.uint8)
        self._images = ort_session.device_value(shape, np.uint8, device)
        self._logits = ort_session.device_value((shape[0], classes), np.float32, device)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(names[0], self._images)
        self._binding.bind_ortvalue_output(names[1], self._logits)

    def upload(self, images: Images) -> None:
        """Copy at most as many images as the shape has to the device; what is left over stays in the other rows."""
        if len(images) < len(self._host):
            self._host[: len(images)] = images
            images = self._host
        self._images.update_inplace(images)

    def run(self, images: Images) -> Logits:
        """Compute the logits of at most as many images as the shape has."""
        self.upload(images)
        self._session.run_with_iobinding(self._binding)
        return np.array(self._logits.numpy()[: len(images)])


class BoundSession:
    """Run batches of any size on a device, for calls from several threads, which take turns.

    - `session`: an ONNX Runtime session; `names` are those of its input and its output.
    - `classes`: number of logits of an image.
    - `device`: kind and number, such as ("cuda", 0).
    - `batch`: the only batch size of the graph, or None if it takes any. Batches are then padded, see `sizes.padded`.
    - `largest`: most images in a run, or None. Larger batches are split.
    """

    def __init__(
        self,
        session: Any,
        names: tuple[str, str],
        classes: int,
        device: tuple[str, int],
        *,
        batch: int | None = None,
        largest: int | None = None,
    ) -> None:
        self._session, self._names, self._classes, self._device = session, names, classes, device
        self._batch, self._largest = batch, largest
        self._lock = threading.Lock()
        self._buffers: dict[tuple[int, ...], Buffers] = {}

    def __call__(self, images: Images) -> Logits:
        """Compute the logits, float32 (N, classes).

        Raises `UsageError` if it was closed, and ONNX Runtime's exceptions.
        """
        step = self._largest or len(images)
        logits = np.empty((len(images), self._classes), np.float32)
        with self._lock:
            for start in range(0, len(images), step):
                part = images[start : start + step]
                logits[start : start + len(part)] = self._buffers_of(part).run(part)
        return logits

    def upload(self, images: Images) -> None:
        """Copy a batch to the device as a call does."""
        step = self._largest or len(images)
        with self._lock:
            for start in range(0, len(images), step):
                part = images[start : start + step]
                self._buffers_of(part).upload(part)

    def close(self) -> None:
        """Wait for the call in progress, then free buffers and session. Later calls raise `UsageError`."""
        with self._lock:
            self._buffers.clear()
            self._session = None

    def _buffers_of(self, images: Images) -> Buffers:
        """Return the buffers for a batch; beyond `BUFFERS` shapes, drop those of the least recently used one."""
        if self._session is None:
            raise UsageError("the model was closed; open it again to run it")
        count = len(images) if self._batch else padded(len(images), self._largest)
        shape = (count, *images.shape[1:])
        buffers = self._buffers.pop(shape, None)
        if buffers is None:
            buffers = Buffers(self._session, self._names, shape, self._classes, self._device)
        self._buffers[shape] = buffers
        if len(self._buffers) > BUFFERS:
            del self._buffers[next(iter(self._buffers))]
        return buffers


TENSORRT_LARGEST = SIZES[-1]
"""Most images in a run with the TensorRT provider: the largest batch of its profile."""
