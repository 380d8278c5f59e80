"""Read weights from other programs' files as numpy arrays, without running any code that such a file may carry.

The content, never the suffix, tells three formats apart: the zip that `torch.save` writes since torch 1.6, safetensors,
and the bare pickle that `torch.save` wrote before. Only the last one needs torch.
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
"""Names under which training scripts keep the network in a larger dict, in timm's order: averaged weights first."""
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged?)(?:$|[._])", re.IGNORECASE)
"""Pattern of the names of averaged weights."""
_NETWORK = re.compile(r"(?:^|\.)(?:weight|running_mean|running_var)$")
"""Pattern of a name that some tensor of every network has, and no state of an optimizer."""
_DEPTH = 4
"""Levels of nested dicts that are searched for a network."""


@dataclass(frozen=True)
class StoredWeights:
    """Hold the tensors of a network by name, and their place in the file.

    `entry` is the path of keys to them, joined by dots (`state_dict_ema`, `ema.state_dict`), or None at the top.
    `others` are the entries with other networks. `unread` are the entries that seem to hold an average over training
    without the names of its tensors.
    """

    tensors: dict[str, NDArray[Any]]
    entry: str | None = None
    others: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def averaged(self) -> bool:
        """Tell whether the weights are an average over training."""
        return self.entry is not None and bool(_AVERAGED.search(self.entry))


def read_state_dict(path: Path, entry: str | None = None) -> dict[str, NDArray[Any]]:
    """Read the tensors of a file of weights by name. See `read_weights`."""
    return read_weights(path, entry).tensors


def read_weights(path: Path, entry: str | None = None) -> StoredWeights:
    """Read the weights in a torch file of either format, or in safetensors.

    float16 and bfloat16 become float32; other types stay. Arrays may be read-only and share memory.

    A state dict inside a larger checkpoint is taken out. If there are several, averaged weights (`state_dict_ema`,
    `model_ema`, any other name with `ema`) take precedence over raw ones (`state_dict`, `model`, ...), as in timm;
    `entry` chooses another.

    Raises `ModelError` if the file is missing, damaged, of another kind, or asks for anything but tensors. Raises
    `MissingExtraError` for a torch file from before 1.6 if torch is not installed. Raises `UsageError` if `entry` does
    not exist, or if there are several networks without a preferred name.

    >>> read_weights(Path("resnet50.pth")).tensors["fc.weight"].shape
    (1000, 2048)
    """
    with _explained(path, "cannot be read"), open_input(path) as file:
        head = file.read(9)
    # safetensors comes first: the length at its start can look like either of the others.
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return _choose(_read_safetensors(path), np.ndarray, path, entry)
    if head.startswith(b"PK\x03\x04"):
        return _read_torch_file(path, entry)
    if head.startswith(b"\x80"):
        return _read_legacy(path, entry)
    raise ModelError(
        f"{path} is no file of weights",
        hint="known are the files of torch.save (.pth, .pt, .th, .ckpt) and safetensors",
        source=path,
        reason="unsupported",
    )


def read_torch_file(path: Path) -> dict[str, NDArray[Any]]:
    """Read the state dict in a zip file of `torch.save` without torch. See also `read_weights`.

    The file's pickle is interpreted here, and can create nothing but dicts, lists and tensors. A name that is not on a
    short list is refused with a `ModelError` that states it. No tensor reaches outside its storage, and no more memory
    is allocated than the file has bytes (twice that for half precision).
    """
    return _read_torch_file(path, None).tensors


def _read_torch_file(path: Path, entry: str | None) -> StoredWeights:
    """Read a zip file of `torch.save`. See `read_weights`."""
    with _explained(path, "is damaged, or torch.save did not write it"), zipfile.ZipFile(path) as file:
        archive = _Archive(file, path.stat().st_size)
        root = unpickle(archive.read("data.pkl"), archive.storage, path)
    return _choose(root, np.ndarray, path, entry)


@contextmanager
def _explained(path: Path, problem: str) -> Iterator[None]:
    """Convert the errors of zipfile, pickletools, safetensors and this module for damaged data to a `ModelError`."""
    damage = (ValueError, TypeError, LookupError, RuntimeError, EOFError, OSError)
    try:
        yield
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", source=path, reason="missing") from error
    except (*damage, zipfile.BadZipFile, SafetensorError) as error:
        raise ModelError(
            f"{path} {problem} ({str(error) or type(error).__name__})", source=path, reason="damaged"
        ) from error


class _Archive:
    """Read the records of a torch zip: `NAME/data.pkl`, `NAME/byteorder`, and one `NAME/data/KEY` per storage."""

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
        """Read a record. Raises `ValueError` if the records claim more bytes than the file has."""
        info = self._file.getinfo(self._root + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"record {name} is compressed")
        # Entries of a crafted zip may overlap, so each record alone could be as large as the file.
        self._unread -= info.file_size
        if self._unread < 0:
            raise ValueError("its records are larger than the file")
        return self._file.read(info)

    def storage(self, identity: tuple[Any, ...]) -> Storage:
        """Return the storage of a persistent id: `("storage", type, key, device, number of elements)`."""
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
    """Choose the network in `root`, whose tensors have the type `kind`. See `read_weights`."""
    found = dict(_entries(root, kind, ""))
    networks = {key: state for key, state in found.items() if any(map(_NETWORK.search, state))}
    # Weights with names of no known kind: matching them to an architecture reports what is missing.
    candidates = networks or {key: state for key, state in found.items() if key in ("", *_KNOWN_ENTRIES)}
    if not candidates:
        outer = root if isinstance(root, Mapping) else {}
        names = ", ".join(sorted(str(key) for key in outer)[:8]) or "none"
        raise ModelError(f"{path} holds no state dict (entries: {names})", source=path, reason="unsupported")
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
    """Tell whether the dicts and lists of `node` hold an object of type `kind`. Each is visited once."""
    seen = set() if seen is None else seen
    if depth > _DEPTH or id(node) in seen:
        return False
    inner = node.values() if isinstance(node, Mapping) else node if isinstance(node, (list, tuple)) else ()
    if inner:
        seen.add(id(node))
    return isinstance(node, kind) or any(_holds(item, kind, depth + 1, seen) for item in inner)


def _preferred(entries: list[str]) -> str | None:
    """Return the entry that convention prefers, or None if it does not decide."""
    averaged = [key for key in entries if _AVERAGED.search(key)]
    for choice in (*_KNOWN_ENTRIES[:2], *averaged, *_KNOWN_ENTRIES[2:], ""):
        if choice in entries:
            return choice
    # Nested entries, e.g. `checkpoint.state_dict`, are ranked by their last keys, if only one has the best.
    for known in _KNOWN_ENTRIES:
        if fitting := [key for key in entries if key.endswith(f".{known}")]:
            return fitting[0] if len(fitting) == 1 else None
    return entries[0] if len(entries) == 1 else None


def _entries(
    node: object, kind: type, name: str, depth: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every dict in `node` that holds tensors, with its path of keys ("" at the top). Each is visited once."""
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
    """Read the tensors of a safetensors file. Raises `ModelError`."""
    with _explained(path, "is a damaged safetensors file"):
        tensors = {}
        for name, view in deserialize(read_bytes(path)):  # type: ignore[no-untyped-call]
            if view["dtype"] not in CODES:
                raise ModelError(
                    f"{path}: {name} has type {view['dtype']}, which no weight of a ResNet has",
                    source=path,
                    reason="unsupported",
                )
            tensors[name] = decode(view["data"], view["dtype"]).reshape(view["shape"])
        return tensors


SAFE_TORCH = (2, 10)
"""First version of torch without known ways for a file loaded as weights only to run code or overwrite memory."""


def _read_legacy(path: Path, entry: str | None) -> StoredWeights:
    """Read a bare pickle from before torch 1.6 with torch's own restricted unpickler."""
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
            source=path,
            reason="unsafe",
        )
    try:
        root = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch does not document the exceptions for damaged files
        # torch's own message advises to load the file unprotected, so only the refused name is passed on.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise refusal(refused[1], path) from error
        raise ModelError(
            f"{path} is damaged, or holds more than weights ({type(error).__name__})", source=path, reason="damaged"
        ) from error
    stored = _choose(root, torch.Tensor, path, entry)
    arrays = {}
    tensors: Mapping[str, Any] = stored.tensors
    for name, tensor in tensors.items():
        with _explained(path, f"cannot be read: {name} is no dense tensor of numbers"):
            half = tensor.dtype in (torch.float16, torch.bfloat16)
            arrays[name] = (tensor.float() if half else tensor).detach().numpy()
    return replace(stored, tensors=arrays)
