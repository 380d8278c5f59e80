"""Describe the interpreter, the requirements, the cache and the folders, without importing what may be broken."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_infer.errors import ResnetInferError
from resnet_infer.utils.extras import DISTRIBUTIONS, OTHERS, all_installed

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?")
"""A requirement of a distribution's metadata: name, versions and marker."""
_BOUND = re.compile(r"(>=|<|!=)\s*([\w.]+)")


def interpreter() -> dict[str, Any]:
    """Return path, kind (`venv`, `conda`, `frozen` or `system`) and prefix of the Python that runs this process."""
    if getattr(sys, "frozen", False):
        kind = "frozen"
    elif os.path.isdir(os.path.join(sys.prefix, "conda-meta")):
        kind = "conda"
    else:
        kind = "venv" if sys.prefix != sys.base_prefix else "system"
    return {"path": sys.executable, "kind": kind, "prefix": sys.prefix, "implementation": sys.implementation.name}


def requirements() -> dict[str, str | None]:
    """Return the version of each distribution that extras or the package depend on, without those of the extras."""
    found = {name: next(iter(all_installed((name,))), None) for name in OTHERS.values()}
    return {name: text.partition(" ")[2] if text else None for name, text in found.items()}


def outside_range() -> Iterator[tuple[str, str, str]]:
    """Yield distribution, installed version and required versions of each installed one that is not allowed.

    The metadata of the installed package says what it requires; a checkout that is not installed has none. Extras may
    require different versions of a distribution: one of them is enough, and the first is what is yielded.
    """
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("resnet-infer") or []
    except PackageNotFoundError:
        return
    wanted: dict[str, list[str]] = {}
    for line in lines:
        found = _REQUIREMENT.fullmatch(line.strip())
        if found is not None and "extra == 'test" not in (found[3] or "").replace('"', "'"):
            wanted.setdefault(found[1], []).append(found[2].strip())
    for name, ranges in wanted.items():
        for installed in all_installed((name,)):
            version = installed.partition(" ")[2]
            if not any(allowed(version, one) for one in ranges):
                yield name, version, ranges[0]


def allowed(version: str, specifiers: str) -> bool:
    """Return whether a version is within bounds (`>=`, `<` and `!=`). Only the numbers of a version are compared.

    >>> allowed("0.29.1", ">=0.15,<0.29")
    False
    """
    here = _numbers(version)
    for sign, bound in _BOUND.findall(specifiers):
        other = _numbers(bound)
        width = max(len(here), len(other))
        left, right = (numbers + (0,) * (width - len(numbers)) for numbers in (here, other))
        if not {">=": left >= right, "<": left < right, "!=": left != right}[sign]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (1, 19, 2) for 1.19.2rc1."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def owners(module: str, folder: str | None) -> dict[str, str]:
    """Return the distribution that wrote each file that decides what is imported, by the hashes in its RECORD.

    `folder` is the package's. The files are its `__init__.py` and its compiled parts in `capi`. A file that no
    installed distribution has written has no owner and is left out.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    if folder is None:
        return {}
    files = [Path(folder, "__init__.py"), *sorted(Path(folder, "capi").glob("*pybind11_state*"))]
    hashes = {path.name: _record_hash(path) for path in files if path.is_file()}
    found = {}
    for name in (text.partition(" ")[0] for text in all_installed(DISTRIBUTIONS[module])):
        try:
            entries = distribution(name).files or []
        except PackageNotFoundError:
            continue
        for entry in entries:
            if entry.hash and entry.parts[0] == module and hashes.get(entry.name) == entry.hash.value:
                found[entry.name] = name
    return found


def _record_hash(path: Path) -> str:
    """Return the SHA-256 of a file as RECORD writes it: base64 for URLs, without padding."""
    import base64

    from resnet_infer.utils.files import sha256

    return base64.urlsafe_b64encode(bytes.fromhex(sha256(path))).rstrip(b"=").decode()


def cache() -> dict[str, Any]:
    """Return place, number of files, bytes and damaged files of the cache, whether it can be written, or an `error`."""
    from resnet_infer.models.weights import cache as kept
    from resnet_infer.models.weights.download import CACHE_VARIABLE, cache_folder

    found: dict[str, Any] = {"folder": None, "variable": CACHE_VARIABLE in os.environ, "exists": False}
    found |= {
        "writable": False,
        "files": 0,
        "bytes": 0,
        "damaged": [],
        "without_digest": [],
        "error": None,
        "hint": None,
    }
    try:
        folder = cache_folder()
        found |= {"folder": str(folder), "exists": folder.is_dir(), "writable": writable(folder)}
        for item in kept.listed():
            state = kept.state(item.path)
            found["files"] += 1
            found["bytes"] += item.bytes
            if state != "good":
                found[state.replace(" ", "_")].append(str(item.path))
    except ResnetInferError as error:
        found |= {"error": error.message, "hint": error.hint}
    except Exception as error:  # such as a package that does not load; its import is reported too
        found |= {"error": f"cannot read the cache: {getattr(error, 'strerror', None) or error}"}
    return found


def writable(folder: Path) -> bool:
    """Return whether a file can be created in a folder, or in the nearest folder above it that exists.

    A file without a name is created in `folder`, because rights do not tell of read-only file systems, quotas and
    network shares. A folder above it may belong to others: nothing is written there, and its rights have to do.
    """
    import tempfile

    place = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path(folder.anchor))
    if place != folder:
        return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    try:
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


def builtin_damaged() -> list[str]:
    """Return the paths of built-in models whose files are missing or not as they were packed."""
    from resnet_infer.models.weights.builtin import listed, require_whole

    found = []
    for path in listed():
        try:
            require_whole(path)
        except ResnetInferError:
            found.append(str(path))
    return found


def temporary_folder() -> str | None:
    """Return the folder for temporary files, or None if there is none that can be written."""
    import tempfile

    try:
        return tempfile.gettempdir()
    except OSError:
        return None


def gpus() -> list[dict[str, str]]:
    """Return name and driver version of every GPU that nvidia-smi lists."""
    from resnet_infer.benchmarking.environment import gpus as listed

    return [{key: gpu[key] for key in ("name", "driver_version", "memory.total") if key in gpu} for gpu in listed()]


def without_home(value: Any) -> Any:
    """Return a report with `~` in place of the home folder in all texts, so that it names no user."""
    home = os.path.expanduser("~")
    if len(home) < 2:  # none, or `/`
        return value
    pattern = re.compile(rf"{re.escape(home)}(?=$|[/\\\s:;,'\")])")

    def replaced(item: Any) -> Any:
        """Return a part of the report without the folder."""
        if isinstance(item, str):
            return pattern.sub("~", item)
        if isinstance(item, dict):
            return {replaced(key): replaced(inner) for key, inner in item.items()}
        return [replaced(inner) for inner in item] if isinstance(item, list | tuple) else item

    return replaced(value)
