"""Weights out of other programs' files, as numpy arrays, without running any code that such a file may carry.

Three forms are told apart by their content, never by the file's suffix: the zip that `torch.save` writes since
torch 1.6, safetensors, and the bare pickle that `torch.save` wrote before. Only the last one needs torch.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from resnet_infer.errors import MissingExtraError, ModelError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema")
"""Where training scripts put the state dict inside a larger dict; the first one that holds tensors counts."""

_STORAGES = {
    "torch.DoubleStorage": "F64", "torch.FloatStorage": "F32", "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16", "torch.LongStorage": "I64", "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16", "torch.CharStorage": "I8", "torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL",
}  # fmt: skip
_CODES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2",
    "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "BOOL": "u1",
}  # fmt: skip
"""Element types by their names in safetensors, and how numpy reads their bytes."""

_REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
_REBUILD_PARAMETER = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_DICT = "collections.OrderedDict"
_IGNORED = (
    *("torch.device", "torch.Size", "collections.Counter", "argparse.Namespace", "__builtin__.set", "_codecs.encode"),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
)
"""Found beside the weights in many training checkpoints. They are let through by name, and nothing is made of them."""
_KNOWN = frozenset({*_STORAGES, _REBUILD_TENSOR, *_REBUILD_PARAMETER, _DICT, *_IGNORED})

_CONSTANTS: Mapping[str, Callable[[], object]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
)


def read_state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file of weights by name: a torch file of either form, or safetensors.

    float16 and bfloat16 become float32; other types stay. A state dict inside a larger checkpoint (`state_dict`,
    `model_state_dict`, `model`, `net`) is taken out, and what lies beside it is ignored. Arrays may be read-only and
    share memory. Raises `ModelError` if the file is missing, damaged, of another kind, or asks for anything but
    tensors, and `MissingExtraError` for a torch file of before 1.6 where torch is not installed.
    """
    with _explained(path, "cannot be read"), open(path, "rb") as file:
        head = file.read(9)
    # safetensors comes first: the length that it begins with can look like either of the others.
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        return read_torch_file(path)
    if head.startswith(b"\x80"):
        return _read_legacy(path)
    raise ModelError(
        f"{path} is no file of weights",
        hint="known are the files of torch.save (.pth, .pt, .th, .ckpt) and safetensors",
    )


def read_torch_file(path: Path) -> dict[str, NDArray[Any]]:
    """The state dict in a zip file of `torch.save`, read without torch. For the rest see `read_state_dict`.

    The file's pickle is interpreted here and can make nothing but dicts, lists and tensors: a name that is not on a
    short list is refused with a `ModelError` that says which. No tensor reaches outside its storage, and no more
    memory is asked for than the file has bytes (twice that for half precision).
    """
    with _explained(path, "is damaged, or torch.save did not write it"), zipfile.ZipFile(path) as file:
        archive = _Archive(file, path.stat().st_size)
        return _find_state(_unpickle(archive, path), np.ndarray, path)


@contextmanager
def _explained(path: Path, problem: str) -> Iterator[None]:
    """Turn what zipfile, pickletools, safetensors and the code below raise on nonsense into a `ModelError`."""
    damage = (ValueError, TypeError, LookupError, RuntimeError, EOFError, OSError)
    try:
        yield
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist") from error
    except (*damage, zipfile.BadZipFile, SafetensorError) as error:
        raise ModelError(f"{path} {problem} ({str(error) or type(error).__name__})") from error


@dataclass(frozen=True)
class _Global:
    """A name that a pickle mentions. It stays a name: nothing is imported."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """The memory that tensors are views of, one-dimensional and contiguous."""

    values: NDArray[Any]


class _Archive:
    """The records of a torch zip: `NAME/data.pkl`, `NAME/byteorder`, and one `NAME/data/KEY` per storage."""

    def __init__(self, file: zipfile.ZipFile, size: int) -> None:
        self._file = file
        self._unread = size
        self._storages: dict[tuple[str, str], _Storage] = {}
        roots = [name for name in file.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("a zip file without a data.pkl")
        self._root = roots[0].removesuffix("data.pkl")
        order = self.read("byteorder") if f"{self._root}byteorder" in file.namelist() else b"little"
        self._order = {b"little": "<", b"big": ">"}[order]

    def read(self, name: str) -> bytes:
        """A record. Raises `ValueError` if the records claim more than the file can hold."""
        info = self._file.getinfo(self._root + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"record {name} is compressed")
        # Entries of a crafted zip may overlap, so each record alone could be as large as the file.
        self._unread -= info.file_size
        if self._unread < 0:
            raise ValueError("its records are larger than the file")
        return self._file.read(info)

    def storage(self, identity: tuple[Any, ...]) -> _Storage:
        """What a persistent id names: `("storage", type, key, device, number of elements)`."""
        tag, kind, key, _device, count = identity
        if tag != "storage" or not isinstance(kind, _Global) or not isinstance(key, str):
            raise ValueError("an unknown reference")
        if (kind.name, key) not in self._storages:
            values = _decode(self.read(f"data/{key}"), _STORAGES[kind.name], self._order)
            self._storages[kind.name, key] = _Storage(values)
        storage = self._storages[kind.name, key]
        if storage.values.size != count:
            raise ValueError(f"storage {key} has {storage.values.size} elements, not what it declares")
        return storage


def _tensor(storage: object, offset: object, shape: Iterable[object], strides: Iterable[object]) -> NDArray[Any]:
    """A read-only view of a storage; offset and strides count elements."""
    start, *sizes = _integers((offset, *shape))
    steps = _integers(strides)
    if not isinstance(storage, _Storage) or len(sizes) != len(steps):
        raise ValueError("an impossible tensor")
    values = storage.values
    if 0 in sizes:
        return np.empty(sizes, values.dtype)
    last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    # The second test bounds what a copy of the tensor costs: a stride of 0 repeats elements without end.
    if last >= values.size or math.prod(sizes) > values.size:
        raise ValueError("a tensor that is larger than its storage")
    # Along a dimension of size 1 the stride is arbitrary, and may be too large for numpy.
    byte_steps = [step * values.itemsize if size > 1 else 0 for size, step in zip(sizes, steps, strict=True)]
    return np.asarray(as_strided(values[start:], sizes, byte_steps, writeable=False))


def _integers(values: Iterable[object]) -> list[int]:
    found = [value for value in values if isinstance(value, int) and value >= 0]
    if len(found) != len(list(values)):
        raise ValueError("a size that is no natural number")
    return found


def _decode(raw: bytes | bytearray, element: str, order: str = "<") -> NDArray[Any]:
    """One-dimensional, in this machine's byte order, half precision as float32."""
    values: NDArray[Any] = np.frombuffer(raw, order + _CODES[element])
    if element == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if element == "BOOL":
        return values.astype(np.bool_)
    return values.astype(np.float32 if element == "F16" else _CODES[element], copy=False)


def _unpickle(archive: _Archive, path: Path) -> object:
    """Run `data.pkl` (protocol 2 to 5) on a stack machine that knows no objects but plain ones, storages and tensors.

    Not `pickle.Unpickler` with a `find_class`: its BUILD sets attributes on whatever `find_class` returns, and a few
    bytes make it allocate gigabytes. Raises `ModelError` for a name that is not allowed.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(archive.read("data.pkl")):
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
                    # Weights have no other keys, and the hash of a deeply nested tuple overflows the C stack.
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
                stack.pop()  # Attributes of an object; no weights among them.
            case "BINPERSID":
                stack.append(archive.storage(stack.pop()))
            case name:
                raise ValueError(f"a pickle with {name}")
    raise ValueError("a pickle without an end")


def _allow(name: str, path: Path) -> _Global:
    if name not in _KNOWN:
        raise _refusal(name, path)
    return _Global(name)


def _refusal(name: str, path: Path) -> ModelError:
    return ModelError(
        f"{path}: refused to load {name}: weights need no such thing, and it could run code",
        hint="where the file was made, save the weights alone: torch.save(model.state_dict(), 'weights.pth')",
    )


def _call(function: object, arguments: tuple[Any, ...]) -> object:
    name = function.name if isinstance(function, _Global) else ""
    if name == _DICT:
        return {}
    if name == _REBUILD_TENSOR:
        return _tensor(*arguments[:4])
    if name in _REBUILD_PARAMETER:
        return arguments[0]
    if name in _IGNORED:
        return None
    raise ValueError("a call of something that is no function")


def _find_state(root: object, kind: type, path: Path) -> dict[str, Any]:
    """The entries of type `kind` in the state dict that `root` is or wraps."""
    outer = root if isinstance(root, Mapping) else {}
    for candidate in (*(outer.get(key) for key in _WRAPPERS), outer):
        if isinstance(candidate, Mapping):
            state = {k: v for k, v in candidate.items() if isinstance(k, str) and isinstance(v, kind)}
            if state:
                return state
    found = ", ".join(sorted(str(key) for key in outer)[:8]) or "none"
    raise ModelError(f"{path} holds no state dict (entries: {found})")


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    with _explained(path, "is a damaged safetensors file"):
        tensors = {}
        for name, view in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
            if view["dtype"] not in _CODES:
                raise ModelError(f"{path}: {name} has type {view['dtype']}, which no weight of a ResNet has")
            tensors[name] = _decode(view["data"], view["dtype"]).reshape(view["shape"])
        return tensors


def _read_legacy(path: Path) -> dict[str, NDArray[Any]]:
    """A bare pickle of before torch 1.6, through torch's own restricted unpickler."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            f"{path} has the form that torch.save wrote before torch 1.6; only torch can read it",
            hint='pip install "resnet-infer[train]", or load it and save it again with a newer torch elsewhere',
        ) from error
    try:
        root = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no set of exceptions for damaged files
        # torch's own text advises to load the file unprotected; only the name it refused is passed on.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise _refusal(refused[1], path) from error
        raise ModelError(f"{path} is damaged, or holds more than weights ({type(error).__name__})") from error
    arrays = {}
    for name, tensor in _find_state(root, torch.Tensor, path).items():
        with _explained(path, f"cannot be read: {name} is no dense tensor of numbers"):
            half = tensor.dtype in (torch.float16, torch.bfloat16)
            arrays[name] = (tensor.float() if half else tensor).detach().numpy()
    return arrays
