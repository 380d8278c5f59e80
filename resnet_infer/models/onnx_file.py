"""Read just enough of an ONNX file to add outputs to its graph, without a package for ONNX.

A protocol buffer that is followed by another of its kind is read as their union, in which repeated fields are
concatenated (Protocol Buffers encoding, "Last One Wins"). Therefore a few bytes at the end of the file add an output to
the graph. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from resnet_infer.errors import ModelError

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP = 1, 2, 4
_VALUE_NAME = 1
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
        raise ModelError("this is no ONNX file") from error
    return Graph(tuple(nodes), tuple(outputs))


def add_outputs(model: bytes, tensors: Sequence[str]) -> bytes:
    """Return the serialised model with further outputs: tensors that it computes, or has as weights."""
    outputs = b"".join(_field(_GRAPH_OUTPUT, _field(_VALUE_NAME, name.encode())) for name in tensors)
    return model + _field(_MODEL_GRAPH, outputs)


def _texts(message: memoryview, number: int) -> Iterator[str]:
    """Yield the texts in the fields with that number."""
    return (bytes(content).decode() for content in _parts(message, number))


def _parts(message: memoryview, number: int) -> Iterator[memoryview]:
    """Yield the contents of the length-delimited fields with that number.

    Raises `IndexError` if the message is damaged.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == _VARINT:
            _, place = _varint(message, place)
        elif kind == _BYTES:
            size, place = _varint(message, place)
            if place + size > len(message):
                raise IndexError("the message is cut off")
            if key >> 3 == number:
                yield message[place : place + size]
            place += size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise IndexError(f"there is no wire type {kind}")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Decode a variable-length integer. Return it and the position after it."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


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
