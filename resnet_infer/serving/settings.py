"""Read the settings and keys of a service: options of `resnet-infer serve`, passed on in environment variables."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from resnet_infer.errors import UsageError, did_you_mean
from resnet_infer.runtimes.registry import COMPUTES
from resnet_infer.utils.inputs import read_lines
from resnet_infer.utils.threads import require_threads

PREFIX = "RESNET_INFER_SERVE_"
"""Prefix of the variables: `RESNET_INFER_SERVE_MAX_QUEUE` sets `Settings.max_queue`."""
KEY_VARIABLE, ADMIN_KEY_VARIABLE = "RESNET_INFER_API_KEY", "RESNET_INFER_ADMIN_KEY"
"""Environment variables with the API key and the admin key."""
PACKED = "model.onnx"
"""Name of the model in a bento, as in bentofile.yaml."""

_KUBERNETES_VARIABLE = re.compile(
    r"(\w+?_)??(SERVICE_(HOST|PORT(_\w+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)"
)
"""What follows the prefix in a variable that Kubernetes sets for a Service called, for example, resnet-infer-serve."""
_ADDRESS = re.compile("(tcp|udp|sctp)://")
"""Begin of an address in the value of such a variable."""
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
"""Spellings of true and false."""


MAX_VALUE = 1_000_000
"""Largest number of seconds, milliseconds or MB, well within the range of the system's clocks."""


@dataclass(frozen=True)
class Settings:
    """Hold the settings of a service. `model`, `runtime`, `device` and `compute` are those of `Classifier`.

    Raises `UsageError` for values out of range.

    >>> Settings(model="resnet50", max_batch=16).to_environment()["RESNET_INFER_SERVE_MAX_BATCH"]
    '16'
    """

    model: str | None = None
    runtime: str = "auto"
    device: str = "auto"
    compute: str = "auto"
    threads: int | None = None
    """Threads for each inference. None: on a CPU all cores for a request that is alone, and one thread for each of
    several.
    """
    workers: int | None = None
    """Processes. None: one for each GPU, or a single one."""
    max_batch: int | None = None
    """Most rows in a batch. None: 8 on a CPU, 32 on a GPU."""
    max_wait_ms: float = 50.0
    """Longest time that a decoded image waits for others to join its batch, in milliseconds."""
    max_queue: int = 256
    """Most rows that wait in the queue."""
    timeout: float = 30.0
    """Longest duration of a request, in seconds."""
    max_body_mb: float = 32.0
    """Largest body of a request, in MB."""
    max_memory_mb: float = 512.0
    """Memory for all requests of a process, in MB: bodies, which may take half of it, and images that are being
    decoded.
    """
    max_pixels: int = 50_000_000
    """Most pixels in an image."""
    max_pictures: int = 64
    """Most images in a request."""
    api_key_file: str | None = None
    """File with the API keys, one in each line."""
    admin_key_file: str | None = None
    """File with the admin keys, one in each line."""
    access_log: bool = False
    """Whether to write a line of JSON for every request to stderr."""

    def __post_init__(self) -> None:
        if self.compute not in COMPUTES:
            raise UsageError(
                f"compute is {', '.join(COMPUTES[:-1])} or {COMPUTES[-1]}, not {self.compute!r:.40}"
                + did_you_mean(self.compute, COMPUTES)
            )
        for name in ("threads", "workers"):
            require_threads(getattr(self, name), name)
        for name in ("max_batch", "max_queue", "max_pixels", "max_pictures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', '-')} is at least 1, not {value}")
        for name in ("timeout", "max_body_mb", "max_memory_mb"):
            if not 0 < getattr(self, name) <= MAX_VALUE:
                raise UsageError(
                    f"{name.replace('_', '-')} is more than 0 and at most {MAX_VALUE:,}, not {getattr(self, name)}"
                )
        if not 0 <= self.max_wait_ms <= MAX_VALUE:
            raise UsageError(f"max-wait-ms is from 0 to {MAX_VALUE:,}, not {self.max_wait_ms}")

    @property
    def max_body(self) -> int:
        """Return the largest body in bytes."""
        return int(self.max_body_mb * 1e6)

    @property
    def max_memory(self) -> int:
        """Return the memory for all requests of a process in bytes, at least twice the largest body."""
        return int(max(self.max_memory_mb, 2 * self.max_body_mb) * 1e6)

    def to_environment(self) -> dict[str, str]:
        """Return the environment variables from which `from_environment` reads these settings."""
        return {variable(name): str(value) for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings from environment variables.

        Raises `UsageError` for a variable with the prefix that is not a setting, and for a value of the wrong type.
        """
        known = {variable(field.name): field for field in fields(cls)}
        given: dict[str, Any] = {}
        for name, text in environment.items():
            if name in known and text:
                given[known[name].name] = _parse(name, text, str(known[name].type))
            elif name.startswith(PREFIX) and name not in known and not _is_kubernetes_variable(name, text):
                raise UsageError(f"there is no setting {name}" + did_you_mean(name, known))
        return cls(**given)


def packed_model() -> str | None:
    """Return the path of the `model.onnx` that `bentoml build` packed, or None outside of a bento."""
    source = Path(__file__).resolve().parents[2]
    packed = source / PACKED
    return str(packed) if packed.is_file() and (source.parent / "bento.yaml").is_file() else None


def variable(setting: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + setting.upper()


def _is_kubernetes_variable(name: str, text: str) -> bool:
    """Return whether Kubernetes has set this variable. `..._PORT` counts only if its value is an address."""
    found = _KUBERNETES_VARIABLE.fullmatch(name, len(PREFIX))
    return found is not None and (found[2] != "PORT" or _ADDRESS.match(text) is not None)


def _parse(name: str, text: str, kind: str) -> Any:
    """Return the value that `text` spells for a field of type `kind`. Raises `UsageError`."""
    try:
        if kind.startswith("bool"):
            return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[text.lower()]
        return int(text) if kind.startswith("int") else float(text) if kind.startswith("float") else text
    except (ValueError, KeyError) as error:
        what = {"b": "true or false", "i": "a whole number"}.get(kind[0], "a number")
        raise UsageError(f"{name} is {what}, not {text!r}") from error


class ApiKeys:
    """Hold the API keys and the admin keys of the service; a key of one kind is refused for the other.

    There may be several of each, so that a key can be replaced while it is in use. `read` returns the keys after a
    reload. Raises `UsageError` for a key that is of both kinds.
    """

    def __init__(
        self, keys: tuple[str, ...] = (), admin: tuple[str, ...] = (), read: Callable[[], ApiKeys] | None = None
    ) -> None:
        if set(keys) & set(admin):
            raise UsageError("one key is both an API key and an admin key", hint="make another for the administration")
        self._keys = tuple(key.encode() for key in keys)
        self._admin = tuple(key.encode() for key in admin)
        self._read = read

    def __bool__(self) -> bool:
        """Return whether the service needs a key."""
        return bool(self._keys)

    @property
    def has_admin(self) -> bool:
        """Return whether there is an admin key."""
        return bool(self._admin)

    def match(self, key: bytes, *, admin: bool = False) -> bool:
        """Return whether `key` is one of the keys, in a time that does not depend on how much of it is correct."""
        known = self._admin if admin else self._keys
        return sum(hmac.compare_digest(key, each) for each in known) > 0

    def reload(self) -> None:
        """Read the keys again. Raises `UsageError` and keeps the old keys if that fails."""
        if self._read is not None:
            new = self._read()
            self._keys, self._admin = new._keys, new._admin


def load_keys(settings: Settings, environment: Mapping[str, str] = os.environ) -> ApiKeys:
    """Return the keys of $RESNET_INFER_API_KEY and $RESNET_INFER_ADMIN_KEY, and of the key files.

    A key file has one key in each line; lines that begin with # are comments. Raises `UsageError` for a file that
    cannot be read or has no key, for a key with a space, and for a key that is of both kinds.
    """
    keys, admin = (
        _read_keys(environment.get(name, ""), file)
        for name, file in ((KEY_VARIABLE, settings.api_key_file), (ADMIN_KEY_VARIABLE, settings.admin_key_file))
    )
    return ApiKeys(keys, admin, lambda: load_keys(settings, environment))


def _read_keys(given: str, file: str | None) -> tuple[str, ...]:
    """Return the keys of a variable and of a file."""
    keys = [given.strip()]
    if file:
        try:
            lines = read_lines(file)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: the keys cannot be read ({error})") from error
        found = [line for line in lines if not line.startswith("#")]
        if not found:
            raise UsageError(f"{file} has no key", hint="write one on a line of its own")
        if any(len(key.split()) > 1 for key in found):
            raise UsageError(f"{file} has a key with a space in it", hint="write one key a line")
        keys += found
    return tuple(key for key in keys if key)
