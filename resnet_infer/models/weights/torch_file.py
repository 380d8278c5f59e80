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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from resnet_infer.errors import MissingExtraError, ModelError, UsageError
from resnet_infer.models.weights.torch_pickle import CODES, STORAGES, Global, Storage, decode, refusal, unpickle
from resnet_infer.utils.extras import needs
from resnet_infer.utils.inputs import open_input, read_bytes

_KNOWN_ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model_state", "model", "net")
"""Where training scripts put the network inside a larger dict, in timm's order: averaged weights come first."""
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged?)(?:$|[._])", re.IGNORECASE)
_NETWORK = re.compile(r"(?:^|\.)(?:weight|running_mean|running_var)$")
"""What the name of some tensor of a network ends in; no state of an optimizer has such a name."""
_DEPTH = 4
"""Dicts inside dicts that are searched for a network."""


@dataclass(frozen=True)
class StoredWeights:
    """The tensors of a network by name, and where in its file they were.

    `entry` is the path of keys to them with dots between (`state_dict_ema`, `ema.state_dict`), None at the top.
    `others` are the entries with other networks, and `unread` those that seem to hold an average over training in a
    form without names. `averaged` tells whether these weights are such an average.
    """

    tensors: dict[str, NDArray[Any]]
    entry: str | None = None
    others: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def averaged(self) -> bool:
        return self.entry is not None and bool(_AVERAGED.search(self.entry))


def read_state_dict(path: Path, entry: str | None = None) -> dict[str, NDArray[Any]]:
    """The tensors of a file of weights by name. See `read_weights`."""
    return read_weights(path, entry).tensors


def read_weights(path: Path, entry: str | None = None) -> StoredWeights:
    """The weights in a torch file of either form, or in safetensors.

    float16 and bfloat16 become float32; other types stay. Arrays may be read-only and share memory. A state dict
    inside a larger checkpoint is taken out. Where there are several, averaged weights (`state_dict_ema`, `model_ema`,
    any other name with `ema`) go before the raw ones (`state_dict`, `model`, ...), as in timm; `entry` chooses another.

    Raises `ModelError` if the file is missing, damaged, of another kind, or asks for anything but tensors, and
    `MissingExtraError` for a torch file of before 1.6 where torch is not installed; `UsageError` if there is no such
    `entry`, or if there are several networks and no custom tells which one is meant.
    """
    with _explained(path, "cannot be read"), open_input(path) as file:
        head = file.read(9)
    # safetensors comes first: the length that it begins with can look like either of the others.
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return _choose(_read_safetensors(path), np.ndarray, path, entry)
    if head.startswith(b"PK\x03\x04"):
        return _read_torch_file(path, entry)
    if head.startswith(b"\x80"):
        return _read_legacy(path, entry)
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
    return _read_torch_file(path, None).tensors


def _read_torch_file(path: Path, entry: str | None) -> StoredWeights:
    with _explained(path, "is damaged, or torch.save did not write it"), zipfile.ZipFile(path) as file:
        archive = _Archive(file, path.stat().st_size)
        root = unpickle(archive.read("data.pkl"), archive.storage, path)
    return _choose(root, np.ndarray, path, entry)


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


def _choose(root: object, kind: type, path: Path, entry: str | None) -> StoredWeights:
    """The network in `root`, whose tensors have the type `kind`. For the rest see `read_weights`."""
    found = dict(_entries(root, kind, ""))
    networks = {key: state for key, state in found.items() if any(map(_NETWORK.search, state))}
    # Weights under names of no known kind: whoever matches them says what is missing.
    candidates = networks or {key: state for key, state in found.items() if key in ("", *_KNOWN_ENTRIES)}
    if not candidates:
        outer = root if isinstance(root, Mapping) else {}
        names = ", ".join(sorted(str(key) for key in outer)[:8]) or "none"
        raise ModelError(f"{path} holds no state dict (entries: {names})")
    named = ", ".join(key or "the top" for key in candidates)
    if entry is None:
        chosen = _preferred(list(candidates))
        if chosen is None:
            raise UsageError(f"{path} holds several networks: {named}", hint="choose one with --entry NAME")
    elif entry in candidates:
        chosen = entry
    else:
        raise UsageError(f"{path} has no entry {entry!r} with weights; it has {named}")
    others = tuple(key for key in candidates if key and key != chosen)
    unread = tuple(
        str(key)
        for key, value in (root.items() if isinstance(root, Mapping) else ())
        if _AVERAGED.search(str(key))
        and not any(name.split(".")[0] == key for name in candidates)
        and _holds(value, kind)
    )
    return StoredWeights(candidates[chosen], chosen or None, others, unread)


def _holds(node: object, kind: type, depth: int = 0, seen: set[int] | None = None) -> bool:
    """Whether something of type `kind` is in the dicts and lists of `node`, each of which is looked into once."""
    seen = set() if seen is None else seen
    if depth > _DEPTH or id(node) in seen:
        return False
    inner = node.values() if isinstance(node, Mapping) else node if isinstance(node, (list, tuple)) else ()
    if inner:
        seen.add(id(node))
    return isinstance(node, kind) or any(_holds(item, kind, depth + 1, seen) for item in inner)


def _preferred(entries: list[str]) -> str | None:
    """The entry that custom prefers; None where no custom tells."""
    averaged = [key for key in entries if _AVERAGED.search(key)]
    for choice in (*_KNOWN_ENTRIES[:2], *averaged, *_KNOWN_ENTRIES[2:], ""):
        if choice in entries:
            return choice
    # Nested ones, e.g. `checkpoint.state_dict`: by their last keys, where only one has the best of them.
    for known in _KNOWN_ENTRIES:
        if fitting := [key for key in entries if key.endswith(f".{known}")]:
            return fitting[0] if len(fitting) == 1 else None
    return entries[0] if len(entries) == 1 else None


def _entries(
    node: object, kind: type, name: str, depth: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dict in `node` that holds tensors, with its path of keys; the top is called "". Each is descended once."""
    seen = set() if seen is None else seen
    if not isinstance(node, Mapping) or depth > _DEPTH:
        return
    state = {key: value for key, value in node.items() if isinstance(key, str) and isinstance(value, kind)}
    if state:
        yield name, state
    if id(node) in seen:
        return
    seen.add(id(node))
    for key, value in node.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            yield from _entries(value, kind, f"{name}.{key}" if name else key, depth + 1, seen)


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    with _explained(path, "is a damaged safetensors file"):
        tensors = {}
        for name, view in deserialize(read_bytes(path)):  # type: ignore[no-untyped-call]
            if view["dtype"] not in CODES:
                raise ModelError(f"{path}: {name} has type {view['dtype']}, which no weight of a ResNet has")
            tensors[name] = decode(view["data"], view["dtype"]).reshape(view["shape"])
        return tensors


SAFE_TORCH = (2, 10)
"""Before it, a file could run code, or write over memory, though loaded as weights only."""


def _read_legacy(path: Path, entry: str | None) -> StoredWeights:
    """A bare pickle of before torch 1.6, through torch's own restricted unpickler."""
    try:
        with needs("train", f"{path} has the form that torch.save wrote before torch 1.6; reading it"):
            import torch
    except MissingExtraError as error:
        error.hint = f"{error.hint}, or load it and save it again with a newer torch elsewhere"
        raise
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
    stored = _choose(root, torch.Tensor, path, entry)
    arrays = {}
    tensors: Mapping[str, Any] = stored.tensors
    for name, tensor in tensors.items():
        with _explained(path, f"cannot be read: {name} is no dense tensor of numbers"):
            half = tensor.dtype in (torch.float16, torch.bfloat16)
            arrays[name] = (tensor.float() if half else tensor).detach().numpy()
    return replace(stored, tensors=arrays)
