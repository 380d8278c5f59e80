"""Check the URL of a service, and keep HTTP connections open between requests."""

from __future__ import annotations

import os
import re
import threading
import weakref
from http.client import HTTPConnection
from urllib.parse import SplitResult, urlsplit

from resnet_infer.errors import UsageError

_URL_HINT = "it looks like http://127.0.0.1:3000"


def parts_of(url: object) -> SplitResult:
    """Return the parts of a service's URL, whose scheme may be missing. Raises `UsageError` for what is none."""
    if not isinstance(url, str):
        raise UsageError(f"a URL is text, not {type(url).__name__}", hint=_URL_HINT)
    shown = re.sub(r"(//|^)[^/?#]*@", r"\1", url, count=1)  # without a password
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, _ = parts.hostname, parts.port
    except ValueError:  # a port that is none, or half an IPv6 address
        raise UsageError(f"{shown} is no URL of a service", hint=_URL_HINT) from None
    if "@" in parts.netloc:
        hint = f"leave them out: {shown}; the key of a service is $RESNET_INFER_API_KEY or the api_key of a Client"
        raise UsageError("the URL of a service has no user and no password", hint=hint)
    if not host or not parts.netloc.isprintable() or " " in parts.netloc or parts.scheme not in ("http", "https"):
        raise UsageError(f"{shown} is no URL of a service", hint=_URL_HINT)
    return parts


class IdleConnections:
    """Keep the open connections that are not in use, and give out the most recent one first.

    It is safe for use from several threads. A forked child begins without any: two processes that share a socket would
    read each other's responses.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: list[HTTPConnection] = []
        self.closed = False
        _ALL_POOLS.add(self)

    def forget(self) -> None:
        """Close this process's copies after a fork, and replace the lock, which a thread of the parent may hold."""
        self._lock = threading.Lock()
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()

    def take(self) -> HTTPConnection | None:
        """Return an idle connection, or None."""
        with self._lock:
            return self._connections.pop() if self._connections else None

    def give(self, connection: HTTPConnection) -> None:
        """Keep a connection for the next request, or close it after `close`."""
        with self._lock:
            if not self.closed:
                self._connections.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close all connections, and from then on each one that is given back."""
        with self._lock:
            self.closed = True
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()


_ALL_POOLS: weakref.WeakSet[IdleConnections] = weakref.WeakSet()
"""Pools of this process, to be emptied in a forked child."""


def _forget_all() -> None:
    """Empty all pools in a child that was just forked."""
    for idle in list(_ALL_POOLS):
        idle.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
