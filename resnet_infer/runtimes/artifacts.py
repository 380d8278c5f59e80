"""Read what a file says about its model: the spec, and the size of its images.

Everything is read from headers and metadata, without a session or a device. So a file can be read on a machine that
cannot run it: an engine without a GPU, an ONNX file without ONNX Runtime and the package `onnx`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from resnet_infer.errors import ModelError
from resnet_infer.models.checkpoint import SUFFIX as CHECKPOINT
from resnet_infer.models.checkpoint import load_checkpoint, read_checkpoint_spec
from resnet_infer.models.onnx_file import map_file, read_interface, read_metadata
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.signature import Tensor, require_signature
from resnet_infer.runtimes.tensorrt.engine_file import SUFFIX as ENGINE
from resnet_infer.runtimes.tensorrt.engine_file import read_engine, read_info

Size = tuple[int | None, int | None]
"""Height and width in pixels, None for a side that is open."""


def read_spec(path: Path) -> ModelSpec:
    """Read the spec of a checkpoint (`.safetensors`) or an artifact (`.onnx`, `.engine`).

    Weights and graphs are not read. Whether they fit the spec is checked when a runtime opens the file.
    Raises `ModelError` if the file is missing or damaged, carries no spec, or is of another kind.

        read_spec(Path("model.engine")).classes
    """
    return _reader(path).spec(path)


def read_size(path: Path) -> Size:
    """Read the (height, width) of the images that a file takes, (None, None) for a checkpoint.

    Raises `ModelError` as `read_spec` does, and if the inputs and outputs of an ONNX graph do not fit its spec.
    """
    return _reader(path).size(path)


def check_contents(path: Path) -> None:
    """Check that the contents of a file fit its spec, as far as that needs no session.

    A checkpoint's weights are checked for names, shapes and finite values, an ONNX graph's inputs and outputs, and an
    engine's digest. Raises `ModelError`.
    """
    _reader(path).check(path)


def read_onnx_spec(model: Path | bytes) -> ModelSpec:
    """Read the spec of an ONNX file, or of a serialised ONNX model. Raises `ModelError` as `read_spec` does."""
    content, label = (map_file(model), str(model)) if isinstance(model, Path) else (memoryview(model), "the model")
    return ModelSpec.from_metadata(read_metadata(content, label), label)


def _onnx_size(path: Path) -> Size:
    """Read the size that an ONNX graph takes, after checking its inputs and outputs."""
    inputs, outputs = ([Tensor(*item) for item in items] for items in read_interface(map_file(path), str(path)))
    images, _ = require_signature(read_onnx_spec(path), inputs, outputs, str(path))
    return images.shape[1], images.shape[2]


def _checkpoint_size(path: Path) -> Size:
    """Check the header of a checkpoint, which takes every size."""
    read_checkpoint_spec(path)
    return None, None


@dataclass(frozen=True)
class _Reader:
    """Hold the functions that read one kind of file."""

    spec: Callable[[Path], ModelSpec]
    size: Callable[[Path], Size]
    check: Callable[[Path], object]


_READERS: Mapping[str, _Reader] = MappingProxyType(
    {
        ".onnx": _Reader(read_onnx_spec, _onnx_size, _onnx_size),
        ENGINE: _Reader(lambda path: read_info(path).spec, lambda path: read_info(path).size, read_engine),
        CHECKPOINT: _Reader(read_checkpoint_spec, _checkpoint_size, load_checkpoint),
    }
)
"""Suffix of a file -> the functions that read it. Every suffix that a runtime opens has a row."""


def _reader(path: Path) -> _Reader:
    """Return the reader for the suffix of `path`. Raises `ModelError` for another suffix."""
    try:
        return _READERS[path.suffix]
    except KeyError:
        raise ModelError(
            f"{path}: no runtime opens it", hint=f"it would have to end in {' or '.join(_READERS)}"
        ) from None
