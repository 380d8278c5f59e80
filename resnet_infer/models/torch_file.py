"""Weights out of other programs' files, as numpy arrays, without running any code that such a file may carry.

Three forms are told apart by their content, never by the file's suffix: the zip that `torch.save` writes since
torch 1.6, safetensors, and the bare pickle that `torch.save` wrote before. Only the last one needs torch.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from resnet_infer.errors import MissingExtraError, ModelError
from resnet_infer.models.torch_pickle import CODES, STORAGES, Global, Storage, decode, refusal, unpickle

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema")
"""Where training scripts put the state dict inside a larger dict; the first one that holds tensors counts."""


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
        return _find_state(unpickle(archive.read("data.pkl"), archive.storage, path), np.ndarray, path)


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


class _Archive:
    """The records of a torch zip: `NAME/data.pkl`, `NAME/byteorder`, and one `NAME/data/KEY` per storage."""

    def __init__(self, file: zipfile.ZipFile, size: int) -> None:
        self._file = file
        self._unread = size
        self._storages: dict[tuple[str, str], Storage] = {}
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

    def storage(self, identity: tuple[Any, ...]) -> Storage:
        """What a persistent id names: `("storage", type, key, device, number of elements)`."""
        tag, kind, key, _device, count = identity
        if tag != "storage" or not isinstance(kind, Global) or not isinstance(key, str):
            raise ValueError("an unknown reference")
        if (kind.name, key) not in self._storages:
            values = decode(self.read(f"data/{key}"), STORAGES[kind.name], self._order)
            self._storages[kind.name, key] = Storage(values)
        storage = self._storages[kind.name, key]
        if storage.values.size != count:
            raise ValueError(f"storage {key} has {storage.values.size} elements, not what it declares")
        return storage


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
            if view["dtype"] not in CODES:
                raise ModelError(f"{path}: {name} has type {view['dtype']}, which no weight of a ResNet has")
            tensors[name] = decode(view["data"], view["dtype"]).reshape(view["shape"])
        return tensors


SAFE_TORCH = (2, 10)
"""Before it, a file could run code, or write over memory, though loaded as weights only."""


def _read_legacy(path: Path) -> dict[str, NDArray[Any]]:
    """A bare pickle of before torch 1.6, through torch's own restricted unpickler."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            f"{path} has the form that torch.save wrote before torch 1.6; only torch can read it",
            hint='pip install "resnet-infer[train]", or load it and save it again with a newer torch elsewhere',
        ) from error
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if tarfile.is_tarfile(path) or version < SAFE_TORCH:
        raise ModelError(
            f"{path} has a form that torch {torch.__version__} does not read safely",
            hint="load it and save it again with torch.save where you trust it",
        )
    try:
        root = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no set of exceptions for damaged files
        # torch's own text advises to load the file unprotected; only the name it refused is passed on.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise refusal(refused[1], path) from error
        raise ModelError(f"{path} is damaged, or holds more than weights ({type(error).__name__})") from error
    arrays = {}
    for name, tensor in _find_state(root, torch.Tensor, path).items():
        with _explained(path, f"cannot be read: {name} is no dense tensor of numbers"):
            half = tensor.dtype in (torch.float16, torch.bfloat16)
            arrays[name] = (tensor.float() if half else tensor).detach().numpy()
    return arrays
