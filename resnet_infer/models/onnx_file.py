"""Read an ONNX file's metadata and graph, and add outputs to the graph, without the package `onnx`.

A protocol buffer that is followed by another of its kind is read as their union, in which repeated fields are
concatenated (Protocol Buffers encoding, "Last One Wins"). Therefore a few bytes at the end of the file add an output to
the graph. Field numbers and element types are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from resnet_infer.errors import ModelError, reason_of
from resnet_infer.utils.inputs import open_input

_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_INITIALIZER_NAME = 8
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP = 1, 2, 4
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_DTYPE, _TENSOR_SHAPE = 1, 2
_SHAPE_SIDE = 1
_SIDE_NUMBER = 1
_DTYPES: Mapping[int, str] = MappingProxyType(
    {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16", 11: "float64", 16: "bfloat16"}
)
"""Element type -> its name in numpy, of those that an input or an output of a network may have."""
_VARINT_BITS = 64
_MOST_FIELDS = 2**20
"""Most fields of a message: a damaged file could otherwise be read for minutes, a few bytes at a time."""
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True)
class Node:
    """Hold an operator and the names of its input and output tensors."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Hold the nodes of a graph in the order of execution, and the names of its outputs."""

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]


Value = tuple[str, str, tuple[int | None, ...]]
"""Name, dtype (as numpy calls it) and shape of an input or an output; a side that is open is None."""


def map_file(path: Path) -> memoryview:
    """Map the file at `path` into memory, so that only what is read of it is loaded.

    Raises `ModelError` if it is missing or cannot be read.
    """
    try:
        with open_input(path) as file:
            size = file.seek(0, 2)
            return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", source=path, reason="missing") from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error})", source=path, reason=reason_of(error)
        ) from error


def read_metadata(model: bytes | memoryview, label: str = "the model") -> dict[str, str]:
    """Read the metadata of a serialised ModelProto; its graph is skipped.

    Raises `ModelError` if it is not one, or is truncated. `label` is what the message calls it.
    """
    found: dict[str, str] = {}
    has_graph = False
    try:
        for number, content in _fields(memoryview(model)):
            has_graph = has_graph or number == _MODEL_GRAPH
            if number == _MODEL_METADATA and isinstance(content, memoryview):
                key, value = ("".join(_texts(content, part)) for part in (_ENTRY_KEY, _ENTRY_VALUE))
                found[key] = value
        if not has_graph:
            raise IndexError("there is no graph")
    except (IndexError, UnicodeDecodeError) as error:
        raise ModelError(f"{label} is damaged, or no ONNX file ({error})", source=label, reason="damaged") from error
    return found


def read_interface(model: bytes | memoryview, label: str = "the model") -> tuple[list[Value], list[Value]]:
    """Read the inputs and the outputs of a serialised ModelProto; initializers among the inputs are left out.

    Raises `ModelError` as `read_metadata` does.
    """
    inputs: list[Value] = []
    outputs: list[Value] = []
    weights: set[str] = set()
    try:
        for graph in _parts(memoryview(model), _MODEL_GRAPH):
            for number, content in _fields(graph):
                if number == _GRAPH_INITIALIZER and isinstance(content, memoryview):
                    weights.update(_texts(content, _INITIALIZER_NAME))
                elif number in (_GRAPH_INPUT, _GRAPH_OUTPUT) and isinstance(content, memoryview):
                    (inputs if number == _GRAPH_INPUT else outputs).append(_value(content))
    except (IndexError, UnicodeDecodeError) as error:
        raise ModelError(f"{label} is damaged, or no ONNX file ({error})", source=label, reason="damaged") from error
    return [item for item in inputs if item[0] not in weights], outputs


def read_graph(model: bytes) -> Graph:
    """Read the graph of a serialised ModelProto. Raises `ModelError` if it is not one."""
    nodes, outputs = [], []
    try:
        for content in _parts(memoryview(model), _MODEL_GRAPH):
            nodes += [
                Node(
                    "".join(_texts(node, _NODE_OP)),
                    tuple(_texts(node, _NODE_INPUT)),
                    tuple(_texts(node, _NODE_OUTPUT)),
                )
                for node in _parts(content, _GRAPH_NODE)
            ]
            outputs += [name for value in _parts(content, _GRAPH_OUTPUT) for name in _texts(value, _VALUE_NAME)]
    except (IndexError, UnicodeDecodeError) as error:
        raise ModelError("this is no ONNX file", reason="damaged") from error
    return Graph(tuple(nodes), tuple(outputs))


def add_outputs(model: bytes, tensors: Sequence[str]) -> bytes:
    """Return the serialised model with further outputs: tensors that it computes, or has as weights."""
    outputs = b"".join(_field(_GRAPH_OUTPUT, _field(_VALUE_NAME, name.encode())) for name in tensors)
    return model + _field(_MODEL_GRAPH, outputs)


def _texts(message: memoryview, number: int) -> Iterator[str]:
    """Yield the texts in the fields with that number."""
    return (bytes(content).decode() for content in _parts(message, number))


def _value(message: memoryview) -> Value:
    """Read a ValueInfoProto. The shape of anything but a tensor is empty."""
    code, shape = 0, []
    for kind in _parts(message, _VALUE_TYPE):
        for tensor in _parts(kind, _TYPE_TENSOR):
            code = next(_numbers(tensor, _TENSOR_DTYPE), code)
            for sides in _parts(tensor, _TENSOR_SHAPE):
                shape = [next(_numbers(side, _SIDE_NUMBER), 0) for side in _parts(sides, _SHAPE_SIDE)]
    open_or_known = tuple(side if 0 < side < 2 ** (_VARINT_BITS - 1) else None for side in shape)
    return "".join(_texts(message, _VALUE_NAME)), _DTYPES.get(code, f"type {code}"), open_or_known


def _parts(message: memoryview, number: int) -> Iterator[memoryview]:
    """Yield the contents of the length-delimited fields with that number."""
    return (part for found, part in _fields(message) if found == number and isinstance(part, memoryview))


def _numbers(message: memoryview, number: int) -> Iterator[int]:
    """Yield the values of the varint fields with that number."""
    return (value for found, value in _fields(message) if found == number and isinstance(value, int))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and the value of each varint or length-delimited field; skip the others.

    Raises `IndexError` if the message is damaged.
    """
    place = count = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind, count = key & 7, count + 1
        if key >> 3 == 0:
            raise IndexError("there is no field 0")
        if count > _MOST_FIELDS:
            raise IndexError("it has too many fields")
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield key >> 3, value
        elif kind == _BYTES:
            size, place = _varint(message, place)
            if place + size > len(message):
                raise IndexError("the message is cut off")
            yield key >> 3, message[place : place + size]
            place += size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise IndexError(f"there is no wire type {kind}")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Decode a variable-length integer. Return it and the position after it."""
    value = shift = 0
    while shift < _VARINT_BITS:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise IndexError(f"a number has more than {_VARINT_BITS} bits")


def _field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field."""
    return _encode(number << 3 | _BYTES) + _encode(len(content)) + content


def _encode(value: int) -> bytes:
    """Encode a variable-length integer."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
