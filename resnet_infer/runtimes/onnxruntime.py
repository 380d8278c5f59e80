"""ONNX Runtime on CPU or CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer.console import note
from resnet_infer.errors import ModelError, ResnetInferError, RuntimeUnavailableError, first_line
from resnet_infer.extras import needs
from resnet_infer.models.spec import METADATA_KEY, ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime, parse_device

with needs("cpu", "running an ONNX model"):
    import onnxruntime

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


BUFFERS = 8
"""Shapes of batches that keep buffers on the device."""


class BoundBuffers:
    """Input and output of a session in memory of the device, for batches of one shape, at fixed addresses.

    Only the uint8 pictures travel to the device and only the logits back. One call at a time.
    """

    def __init__(
        self, session: Any, images: str, logits: str, shape: tuple[int, ...], classes: int, device: tuple[str, int]
    ) -> None:
        self._session = session
        self._images = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), np.uint8, *device)
        self._logits = onnxruntime.OrtValue.ortvalue_from_shape_and_type([shape[0], classes], np.float32, *device)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(images, self._images)
        self._binding.bind_ortvalue_output(logits, self._logits)

    def __call__(self, images: Images) -> Logits:
        self._images.update_inplace(images)
        self._session.run_with_iobinding(self._binding)
        return np.array(self._logits.numpy())


class OnnxRuntime(Runtime):
    """An `.onnx` artifact of ours in an ONNX Runtime session.

    `model` is a path or a serialised model; `device` is `auto`, `cpu`, `cuda` or `cuda:N`. `auto` takes CUDA if it
    starts; a device that is named is used or `RuntimeUnavailableError` is raised. `threads` is the number of threads
    inside an operator, by default one per core. `optimize=False` runs the graph exactly as it is written.
    """

    name = "onnxruntime"

    def __init__(
        self, model: Path | bytes, *, device: str = "auto", threads: int | None = None, optimize: bool = True
    ) -> None:
        label = str(model) if isinstance(model, Path) else "the model"
        if isinstance(model, Path) and not model.is_file():
            raise ModelError(f"{model} does not exist")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = str(model) if isinstance(model, Path) else model
        try:
            self.session, device = _open(source, options, device)
        except ResnetInferError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this
            raise ModelError(f"{label}: ONNX Runtime cannot load it ({first_line(error)})") from error
        metadata = self.session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise ModelError(
                f"{label} carries no model spec", hint=f"adopt it with: resnet-infer import {label} --labels FILE ..."
            )
        spec = ModelSpec.loads(metadata[METADATA_KEY], label)
        (images,) = self.session.get_inputs()
        height, width = (side if isinstance(side, int) else None for side in images.shape[1:3])
        self._input = images.name
        self._output = self.session.get_outputs()[0].name
        self._buffers: dict[tuple[int, ...], BoundBuffers] = {}
        super().__init__(spec, device, (height, width))

    def _run(self, images: Images) -> Logits:
        if self.device != "cpu":
            return self._bound(images.shape)(images)
        logits: Logits = self.session.run([self._output], {self._input: images})[0]
        return logits

    def _bound(self, shape: tuple[int, ...]) -> BoundBuffers:
        """The buffers for batches of this shape, made once; those of the shape used longest ago give way."""
        buffers = self._buffers.pop(shape, None)
        if buffers is None:
            device = (self.device.partition(":")[0], parse_device(self.device)[1])
            buffers = BoundBuffers(self.session, self._input, self._output, shape, len(self.spec.classes), device)
        self._buffers[shape] = buffers
        if len(self._buffers) > BUFFERS:
            del self._buffers[next(iter(self._buffers))]
        return buffers

    def close(self) -> None:
        """Free the session and its buffers."""
        super().close()
        self._buffers.clear()
        self.session = None

    def describe(self) -> dict[str, Any]:
        threads = self.session.get_session_options().intra_op_num_threads
        return {**super().describe(), "version": onnxruntime.__version__, "threads": threads or "all cores"}


def _open(model: str | bytes, options: Any, device: str) -> tuple[Any, str]:
    """A session and the device that it runs on."""
    kind, number = parse_device(device)
    if kind == "cuda" or (kind == "auto" and _CUDA in onnxruntime.get_available_providers()):
        session, reason = _open_cuda(model, options, number)
        if session is not None:
            return session, f"cuda:{number}"
        if kind == "cuda":
            raise RuntimeUnavailableError(
                f"{device} was asked for, and {reason}",
                hint="check the driver with nvidia-smi; CUDA comes with: pip uninstall onnxruntime; pip install "
                '"resnet-infer[gpu]"',
            )
        note(f"no CUDA, so the CPU is used: {reason}")
    return onnxruntime.InferenceSession(model, options, providers=[_CPU]), "cpu"


def _open_cuda(model: str | bytes, options: Any, number: int) -> tuple[Any, str]:
    """A session on a GPU; or None, and why there is none."""
    if _CUDA not in onnxruntime.get_available_providers():
        return None, "this ONNX Runtime has no CUDA"
    try:
        # Without this, ONNX Runtime itself would go on with the CPU and say so on stdout.
        session = onnxruntime.InferenceSession(
            model, options, providers=[(_CUDA, {"device_id": number}), _CPU], enable_fallback=0
        )
    except Exception as error:  # as above
        return None, f"ONNX Runtime could not start CUDA ({first_line(error)})"
    if session.get_providers()[0] != _CUDA:
        return None, "ONNX Runtime could not start CUDA"
    return session, ""
