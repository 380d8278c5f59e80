"""Read the pickles of CIFAR's Python version without running any code that they name.

Unpickling calls functions by name. Here each name becomes an inert `_Named`, which only records the arguments it is
called with. Names other than those that NumPy uses for an array are refused. The arrays are then built from the
records.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import DataError

_ARRAY = ("_reconstruct", "_frombuffer")
"""Functions by which a pickle makes an array."""
_ALLOWED = frozenset(
    {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
    | {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
    | {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
)
"""Modules and names that a pickle may load."""


class _Named:
    """Stand for a function or class, or for the result of calling it with `args` and then setting `state`."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        self.name, self.args = name, args
        self.state: Any = None

    def __call__(self, *args: Any) -> _Named:
        return _Named(self.name, args)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Resolve the names in a pickle to `_Named`."""

    def find_class(self, module: str, name: str) -> _Named:
        """Return the placeholder of a name. Raises `_RefusedError` unless it is in `_ALLOWED`."""
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _Named(name)


class _RefusedError(Exception):
    """Name the function or class that a pickle may not load."""


def load_plain(data: bytes, where: str) -> dict[str, Any]:
    """Read the pickled dictionary: text, numbers, lists, and uint8 arrays. `where` is the file, for messages.

    Raises `DataError` for a damaged file, and for one that names any other function or class.
    """
    try:
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(value, dict):
            raise TypeError(f"a {type(value).__name__}, not a dictionary")
        return {_text(key): _plain(item) for key, item in value.items()}
    except _RefusedError as error:
        raise DataError(
            f"{where}: refused, because it asks to load {error}, which CIFAR's files have no need of",
            hint="a pickle can run any program; fetch the data set from its authors",
            source=where,
            reason="unsafe",
        ) from error
    except Exception as error:  # the documentation of pickle sets no limit to what damaged data may raise
        raise DataError(
            f"{where}: damaged, or not one of CIFAR's files ({type(error).__name__}: {error})",
            source=where,
            reason="damaged",
        ) from error


def _plain(value: Any) -> Any:
    """Convert an unpickled value to plain objects and arrays."""
    if isinstance(value, _Named):
        return _array(value) if value.name in _ARRAY else _bytes(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return _text(value)


def _array(value: _Named) -> NDArray[np.uint8]:
    """Build an array from the recorded call. Raises `TypeError` unless it is uint8."""
    if value.name == "_reconstruct":
        _, shape, dtype, fortran, data = value.state
    else:
        data, dtype, shape, order = value.args
        fortran = order == "F"
    if not isinstance(dtype, _Named) or dtype.name != "dtype" or _text(dtype.args[0]) not in ("u1", "|u1"):
        raise TypeError("an array that is not uint8")
    flat: NDArray[np.uint8] = np.frombuffer(_bytes(data), np.uint8)
    return flat.reshape(tuple(shape), order="F" if fortran else "C")


def _bytes(value: Any) -> bytes:
    """Return the bytes of a value. Python 3 writes bytes in old protocols as text to be encoded as Latin-1."""
    if isinstance(value, _Named) and value.name == "encode" and value.args[1:] == ("latin1",):
        return bytes(value.args[0].encode("latin1"))
    if not isinstance(value, bytes | bytearray):
        raise TypeError(f"a {type(value).__name__} instead of bytes")
    return bytes(value)


def _text(value: Any) -> Any:
    """Decode the strings of Python 2, which arrive as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value
