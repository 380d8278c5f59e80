"""What a service is told: the options of `resnet-infer serve`, handed to its processes in environment variables."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from resnet_infer.errors import UsageError
from resnet_infer.utils.inputs import read_lines
from resnet_infer.utils.threads import require_threads

PREFIX = "RESNET_INFER_SERVE_"
"""`RESNET_INFER_SERVE_MAX_QUEUE` is `Settings.max_queue`."""
KEY_VARIABLE, ADMIN_KEY_VARIABLE = "RESNET_INFER_API_KEY", "RESNET_INFER_ADMIN_KEY"
PACKED = "model.onnx"
"""The model in a bento, as bentofile.yaml names it."""

_OF_KUBERNETES = re.compile(r"(\w+?_)??(SERVICE_(HOST|PORT(_\w+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)")
"""Behind the prefix: what Kubernetes sets for a Service whose name begins as ours, like resnet-infer-serve."""
_ADDRESS = re.compile("(tcp|udp|sctp)://")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


MOST = 1_000_000
"""Seconds, milliseconds and MB: more than anyone waits or has, and no more than clocks take."""


@dataclass(frozen=True)
class Settings:
    """`model`, `runtime` and `device` are as in `Classifier`.

    `threads` None: on a CPU all threads on one request when nothing else is to be done, and one thread for each of
    several; a number: always that many. `workers` None: a process for every GPU, or one. `max_batch` (rows) None: 8
    on a CPU, 32 on a GPU. `max_wait_ms` is how long a picture that is decoded waits, while others are decoded, to share
    a batch with them; `max_queue` how many rows may wait. `timeout` (seconds) is the longest that a request takes.
    `max_body_mb` bounds a request's body, and `max_memory_mb` what all requests of a process have in memory: bodies,
    which may take half of it, and pictures that are being decoded. `access_log` writes
    a line of JSON for every request.
    """

    model: str | None = None
    runtime: str = "auto"
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    max_batch: int | None = None
    max_wait_ms: float = 50.0
    max_queue: int = 256
    timeout: float = 30.0
    max_body_mb: float = 32.0
    max_memory_mb: float = 512.0
    max_pixels: int = 50_000_000
    max_pictures: int = 64
    api_key_file: str | None = None
    admin_key_file: str | None = None
    access_log: bool = False

    def __post_init__(self) -> None:
        for name in ("threads", "workers"):
            require_threads(getattr(self, name), name)
        for name in ("max_batch", "max_queue", "max_pixels", "max_pictures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', '-')} is at least 1, not {value}")
        for name in ("timeout", "max_body_mb", "max_memory_mb"):
            if not 0 < getattr(self, name) <= MOST:
                raise UsageError(
                    f"{name.replace('_', '-')} is more than 0 and at most {MOST:,}, not {getattr(self, name)}"
                )
        if not 0 <= self.max_wait_ms <= MOST:
            raise UsageError(f"max-wait-ms is from 0 to {MOST:,}, not {self.max_wait_ms}")

    @property
    def max_body(self) -> int:
        """Bytes."""
        return int(self.max_body_mb * 1e6)

    @property
    def max_memory(self) -> int:
        """Bytes."""
        return int(max(self.max_memory_mb, 2 * self.max_body_mb) * 1e6)

    def to_environment(self) -> dict[str, str]:
        """Variables that `from_environment` reads the same settings from."""
        return {variable(name): str(value) for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Raises `UsageError` for a variable that is no setting, or has no value for it."""
        known = {variable(field.name): field for field in fields(cls)}
        given: dict[str, Any] = {}
        for name, text in environment.items():
            if name in known and text:
                given[known[name].name] = _parse(name, text, str(known[name].type))
            elif name.startswith(PREFIX) and name not in known and not _is_of_kubernetes(name, text):
                from resnet_infer.errors import did_you_mean

                raise UsageError(f"there is no setting {name}" + did_you_mean(name, known))
        return cls(**given)


def packed_model() -> str | None:
    """The `model.onnx` that `bentoml build` packed beside this package, None outside of a bento."""
    source = Path(__file__).resolve().parents[2]
    packed = source / PACKED
    return str(packed) if packed.is_file() and (source.parent / "bento.yaml").is_file() else None


def variable(setting: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + setting.upper()


def _is_of_kubernetes(name: str, text: str) -> bool:
    """Whether it is none of ours; `..._PORT` itself only with an address, or it is a mistake to be told."""
    found = _OF_KUBERNETES.fullmatch(name, len(PREFIX))
    return found is not None and (found[2] != "PORT" or _ADDRESS.match(text) is not None)


def _parse(name: str, text: str, kind: str) -> Any:
    try:
        if kind.startswith("bool"):
            return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[text.lower()]
        return int(text) if kind.startswith("int") else float(text) if kind.startswith("float") else text
    except (ValueError, KeyError) as error:
        what = {"b": "true or false", "i": "a whole number"}.get(kind[0], "a number")
        raise UsageError(f"{name} is {what}, not {text!r}") from error


class ApiKeys:
    """The keys that open the service, and those that open its administration; none of the one opens the other.

    Any of several, so that one can be replaced while it is in use. `read` gives the keys that hold from now on.
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
        """Whether the service needs a key."""
        return bool(self._keys)

    @property
    def has_admin(self) -> bool:
        """Whether there is a key for the administration."""
        return bool(self._admin)

    def match(self, key: bytes, *, admin: bool = False) -> bool:
        """Whether `key` is one of them; takes as long for a wrong key as for a right one."""
        known = self._admin if admin else self._keys
        return sum(hmac.compare_digest(key, each) for each in known) > 0

    def reload(self) -> None:
        """Read them anew. Raises `UsageError`; then those that were go on."""
        if self._read is not None:
            new = self._read()
            self._keys, self._admin = new._keys, new._admin


def load_keys(settings: Settings, environment: Mapping[str, str] = os.environ) -> ApiKeys:
    """The keys of $RESNET_INFER_API_KEY and $RESNET_INFER_ADMIN_KEY, and those of the files.

    A file has one a line; a line that begins with # is none. Raises `UsageError` for a file without, for a space
    within a key, and for a key that is both.
    """
    keys, admin = (
        _read_keys(environment.get(name, ""), file)
        for name, file in ((KEY_VARIABLE, settings.api_key_file), (ADMIN_KEY_VARIABLE, settings.admin_key_file))
    )
    return ApiKeys(keys, admin, lambda: load_keys(settings, environment))


def _read_keys(given: str, file: str | None) -> tuple[str, ...]:
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
