"""Read what a file says about its model: the spec, and the size of its images.

Everything is read from headers and metadata, without a session or a device. So a file can be read on a machine that
cannot run it: an engine without a GPU, an ONNX file without ONNX Runtime and the package `onnx`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_infer.errors import ModelError
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, model_digest, read_checkpoint_spec
from resnet_infer.models.onnx_file import map_file, read_interface, read_metadata
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.registry import DEFAULTS, SUFFIXES, load
from resnet_infer.runtimes.signature import Tensor, require_signature
from resnet_infer.utils.files import sha256

Size = tuple[int | None, int | None]
"""Height and width in pixels, None for a side that is open."""


@dataclass(frozen=True)
class Details:
    """Hold what one kind of file says beyond the spec: `values` for JSON, under `key`, and `rows` for a table."""

    key: str
    values: Mapping[str, Any]
    rows: Sequence[tuple[str, str]]


def _only(path: Path) -> Sequence[Path]:
    """Return the path itself: the model is one file."""
    return (path,)


def _nothing(path: Path) -> None:
    """Return None: the file says nothing beyond its spec."""


@dataclass(frozen=True)
class Reader:
    """Hold the functions that read one kind of file, given its path. A row of `RUNTIMES` names the reader.

    - `spec`: return the spec.
    - `size`: return the (height, width) of the images that the model takes, (None, None) if it takes any.
    - `check`: check the contents, as far as that needs no session.
    - `parts`: return the files that hold the graph and the weights, first the one at the path.
    - `details`: return what the file says beyond its spec, or None.

    They raise `ModelError` for a file that is missing or damaged.

        READER = Reader(read_spec, read_size, check, parts=lambda path: (path, path.with_suffix(".bin")))
    """

    spec: Callable[[Path], ModelSpec]
    size: Callable[[Path], Size]
    check: Callable[[Path], object]
    parts: Callable[[Path], Sequence[Path]] = _only
    details: Callable[[Path], Details | None] = _nothing


def read_spec(path: Path) -> ModelSpec:
    """Read the spec of a checkpoint (`.safetensors`) or an artifact (`.onnx`, `.xml`, `.engine`).

    Weights and graphs are not read. Whether they fit the spec is checked when a runtime opens the file.
    Raises `ModelError` if the file is missing or damaged, carries no spec, or is of another kind.

        read_spec(Path("model.engine")).classes
    """
    return _reader(path).spec(path)


def read_size(path: Path) -> Size:
    """Read the (height, width) of the images that a file takes, (None, None) for a checkpoint.

    Raises `ModelError` as `read_spec` does, and if the inputs and outputs of a graph do not fit its spec.
    """
    return _reader(path).size(path)


def check_contents(path: Path) -> None:
    """Check that the contents of a file fit its spec, as far as that needs no session.

    A checkpoint's weights are checked for names, shapes and finite values, an ONNX graph's inputs and outputs, an
    engine's digest, and both for OpenVINO's IR. Raises `ModelError`.
    """
    _reader(path).check(path)


def read_details(path: Path) -> Details | None:
    """Read what a file says beyond its spec, such as the GPU of an engine; None if nothing. Raises `ModelError`."""
    return _reader(path).details(path)


def model_parts(path: Path) -> Sequence[Path]:
    """Return the files that hold the graph and the weights of the model at `path`, which is the first of them.

    Raises `ModelError` if no runtime opens the file.
    """
    return _reader(path).parts(path)


def digest(model: Path | Checkpoint) -> str:
    """Return the SHA-256 of a model, in hexadecimal: that of `model_digest`.

    For a model in several files it is the digest of their digests, as lines of hexadecimal text.
    """
    parts = model_parts(model) if isinstance(model, Path) else ()
    if len(parts) < 2:
        return model_digest(model)
    import hashlib  # which loads OpenSSL

    return hashlib.sha256("".join(f"{sha256(part)}\n" for part in parts).encode()).hexdigest()


def read_onnx_spec(model: Path | bytes) -> ModelSpec:
    """Read the spec of an ONNX file, or of a serialised ONNX model. Raises `ModelError` as `read_spec` does."""
    content, label = _onnx_content(model)
    return ModelSpec.from_metadata(read_metadata(content, label), label)


def read_onnx_signature(model: Path | bytes) -> tuple[Tensor, Tensor]:
    """Return the input and the output of an ONNX file, or of a serialised ONNX model.

    Raises `ModelError` as `read_spec` does, and if they do not fit the spec.
    """
    content, label = _onnx_content(model)
    inputs, outputs = ([Tensor(*item) for item in items] for items in read_interface(content, label))
    return require_signature(read_onnx_spec(model), inputs, outputs, label)


def _onnx_content(model: Path | bytes) -> tuple[memoryview, str]:
    """Return the content of an ONNX file or model, and its name in messages."""
    return (map_file(model), str(model)) if isinstance(model, Path) else (memoryview(model), "the model")


def _onnx_size(path: Path) -> Size:
    """Read the size that an ONNX graph takes, after checking its inputs and outputs."""
    images, _ = read_onnx_signature(path)
    return images.shape[1], images.shape[2]


def _checkpoint_size(path: Path) -> Size:
    """Check the header of a checkpoint, which takes every size."""
    read_checkpoint_spec(path)
    return None, None


ONNX_READER = Reader(read_onnx_spec, _onnx_size, _onnx_size)
"""Reader of ONNX files."""
CHECKPOINT_READER = Reader(read_checkpoint_spec, _checkpoint_size, load_checkpoint)
"""Reader of checkpoints."""


def _reader(path: Path) -> Reader:
    """Return the reader for the suffix of `path`. Raises `ModelError` for another suffix."""
    row = DEFAULTS.get(path.suffix)
    if row is None or row.reader is None:
        raise ModelError(
            f"{path}: no runtime opens it",
            hint=f"it would have to end in {' or '.join(SUFFIXES)}",
            source=path,
            reason="unsupported",
        )
    reader: Reader = load(row.reader)
    return reader
