"""Interpret the pickle inside a torch file, without running any code that it may name.

This is a stack machine that knows only plain objects, storages and tensors. `pickle.Unpickler` with a `find_class`
would not do: its BUILD sets attributes on whatever `find_class` returns, and a few bytes make it allocate gigabytes.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from resnet_infer.errors import ModelError

STORAGES = {
    "torch.DoubleStorage": "F64", "torch.FloatStorage": "F32", "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16", "torch.LongStorage": "I64", "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16", "torch.CharStorage": "I8", "torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL",
}  # fmt: skip
CODES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2",
    "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "BOOL": "u1",
}  # fmt: skip
"""Element types by their names in safetensors, and as numpy reads their bytes."""

_REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
_REBUILD_PARAMETER = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_DICT = "collections.OrderedDict"
_IGNORED = (
    *("torch.device", "torch.Size", "collections.Counter", "argparse.Namespace", "__builtin__.set", "_codecs.encode"),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
)
"""Names beside the weights in many training checkpoints. They are accepted, and nothing is created for them."""
_KNOWN = frozenset({*STORAGES, _REBUILD_TENSOR, *_REBUILD_PARAMETER, _DICT, *_IGNORED})

_CONSTANTS: Mapping[str, Callable[[], object]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
)


@dataclass(frozen=True)
class Global:
    """Hold a name that a pickle mentions. Nothing is imported."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Hold the memory that tensors are views of, one-dimensional and contiguous."""

    values: NDArray[Any]


def unpickle(data: bytes, load_storage: Callable[[tuple[Any, ...]], Storage], path: Path) -> object:
    """Run the pickle `data` (protocol 2 to 5). Tensors become read-only views of storages.

    `load_storage` gets the content of a persistent id: `("storage", type, key, device, number of elements)`. `path` is
    the file, for messages. Raises `ModelError` for a name that is not allowed, and `ValueError`, `TypeError` or
    `LookupError` for damaged data.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        """Remove and return the items above the last mark."""
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name]())
            case name if name in _LITERALS:
                stack.append(argument)
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND" | "APPENDS" as name:
                items = pop_to_mark() if name == "APPENDS" else [stack.pop()]
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            case "SETITEM" | "SETITEMS" as name:
                items = pop_to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                if isinstance(stack[-1], dict):
                    # Weights have no other keys, and hashing a deeply nested tuple overflows the C stack.
                    pairs = zip(items[::2], items[1::2], strict=True)
                    stack[-1].update((key, value) for key, value in pairs if isinstance(key, str))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_allow(argument.replace(" ", "."), path))
            case "STACK_GLOBAL":
                names = [item for item in (stack.pop(-2), stack.pop()) if isinstance(item, str)]
                stack.append(_allow(".".join(names), path))
            case "REDUCE" | "NEWOBJ":
                function, arguments = stack.pop(-2), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                stack.pop()  # attributes of an object, which hold no weights
            case "BINPERSID":
                stack.append(load_storage(stack.pop()))
            case name:
                raise ValueError(f"a pickle with {name}")
    raise ValueError("a pickle without an end")


def _call(function: object, arguments: tuple[Any, ...]) -> object:
    """Return the result of a call that the pickle requests. Raises `ValueError` for anything but known names."""
    name = function.name if isinstance(function, Global) else ""
    if name == _DICT:
        return {}
    if name == _REBUILD_TENSOR:
        return _tensor(*arguments[:4])
    if name in _REBUILD_PARAMETER:
        return arguments[0]
    if name in _IGNORED:
        return None
    raise ValueError("a call of something that is no function")


def _tensor(storage: object, offset: object, shape: Iterable[object], strides: Iterable[object]) -> NDArray[Any]:
    """Create a read-only view of a storage.

    Offset and strides count elements. Raises `ValueError` beyond its bounds.
    """
    start, *sizes = _integers((offset, *shape))
    steps = _integers(strides)
    if not isinstance(storage, Storage) or len(sizes) != len(steps):
        raise ValueError("an impossible tensor")
    values = storage.values
    if 0 in sizes:
        return np.empty(sizes, values.dtype)
    last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    # The second test bounds the cost of a copy of the tensor: a stride of 0 repeats elements without end.
    if last >= values.size or math.prod(sizes) > values.size:
        raise ValueError("a tensor that is larger than its storage")
    # The stride of a dimension of size 1 is arbitrary, and may be too large for numpy.
    byte_steps = [step * values.itemsize if size > 1 else 0 for size, step in zip(sizes, steps, strict=True)]
    return np.asarray(as_strided(values[start:], sizes, byte_steps, writeable=False))


def _integers(values: Iterable[object]) -> list[int]:
    """Require whole numbers from 0. Raises `ValueError`."""
    found = [value for value in values if isinstance(value, int) and value >= 0]
    if len(found) != len(list(values)):
        raise ValueError("a size that is no natural number")
    return found


def decode(raw: bytes | bytearray, element: str, order: str = "<") -> NDArray[Any]:
    """Decode elements to a one-dimensional array in this machine's byte order; half precision becomes float32."""
    values: NDArray[Any] = np.frombuffer(raw, order + CODES[element])
    if element == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if element == "BOOL":
        return values.astype(np.bool_)
    return values.astype(np.float32 if element == "F16" else CODES[element], copy=False)


def _allow(name: str, path: Path) -> Global:
    """Return the placeholder of a name. Raises `ModelError` unless it is on the list."""
    if name not in _KNOWN:
        raise refusal(name, path)
    return Global(name)


def refusal(name: str, path: Path) -> ModelError:
    """Return the error for a name that a pickle may not load."""
    return ModelError(
        f"{path}: refused to load {name}: weights need no such thing, and it could run code",
        hint="where the file was made, save the weights alone: torch.save(model.state_dict(), 'weights.pth')",
        source=path,
        reason="unsafe",
    )
