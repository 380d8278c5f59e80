"""Find the route of a request, and with it the key that the request needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from resnet_infer.serving.http.routes import ADMIN, OPEN, ROUTES, Route

MATCH = "resnet_infer.match"
"""Key in a scope: what the table of routes says about the request (`Match`)."""

_TEXT = {
    "": r"[^/]+",
    # The name may have slashes; it ends where the Open Inference Protocol's own path goes on.
    "model": r"(?:(?!/(?:infer|ready)\Z|/versions/[^/]+(?:/|\Z))(?s:.))+",
}
"""Kind of a parameter in a path -> regular expression of its text."""
_PARAMETER = re.compile(r"{(\w+):?(\w*)}")


@dataclass(frozen=True)
class Match:
    """Hold the route of a request, or None, and what follows for the request.

    `parameters` are the texts of the parameters in the path. `methods` are those that the path has; a path without a
    route has none, except below `ADMIN`. A path without a route needs a key, except below `OPEN`.
    """

    route: Route | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    needs_key: bool = True
    is_admin: bool = False
    is_probe: bool = False


class RouteTable:
    """Find routes by method and path.

    A path without parameters is found in a dictionary. It goes before those with parameters, of which the first in the
    table that has the method counts. Below `ADMIN` only routes with an admin key are found.

    Raises `ValueError` for a route that is twice in the table, or that has a parameter of an unknown kind.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._direct: dict[tuple[str, str], Match] = {}
        self._plain: dict[str, list[Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        seen: set[tuple[str, str]] = set()
        for route in self.routes:
            if seen & {(method, route.label) for method in route.methods}:
                raise ValueError(f"{route.method} {route.label} is twice in the table of routes")
            seen |= {(method, route.label) for method in route.methods}
            if "{" in route.path:
                self._patterns.append((_compile(route.path), route))
                continue
            self._plain.setdefault(route.path, []).append(route)
            self._direct |= {(method, route.path): _found(route, {}) for method in route.methods}
        self._admin_methods = _methods(route for route in self.routes if route.is_admin)

    def find(self, scope: MutableMapping[str, Any]) -> Match:
        """Return what the table says about a request, from its ASGI scope."""
        method, path = scope["method"], scope["path"]
        return self._direct.get((method, path)) or self._search(method, path.removeprefix(scope.get("root_path", "")))

    def _search(self, method: str, path: str) -> Match:
        """Return what the table says about a path with parameters, a wrong method, or a path that has no route."""
        is_admin = path.startswith(ADMIN)
        matches: list[tuple[dict[str, str], Route]] = [({}, route) for route in self._plain.get(path, [])] or [
            (found.groupdict(), route)
            for pattern, route in self._patterns
            if (found := pattern.fullmatch(path)) and (route.is_admin or not is_admin)
        ]
        for parameters, route in matches:
            if method in route.methods:
                return _found(route, parameters)
        routes = [route for _, route in matches]
        if routes:
            return Match(
                methods=_methods(routes),
                needs_key=any(route.needs_key for route in routes),
                is_admin=any(route.is_admin for route in routes),
                is_probe=all(route.is_probe for route in routes),
            )
        return Match(
            methods=self._admin_methods if is_admin else (), needs_key=not path.startswith(OPEN), is_admin=is_admin
        )


def _compile(path: str) -> re.Pattern[str]:
    """Return the regular expression of a path with parameters."""
    pattern, end = "", 0
    for found in _PARAMETER.finditer(path):
        name, kind = found.groups()
        if kind not in _TEXT:
            raise ValueError(f"{path}: {kind} is no kind of parameter")
        pattern += f"{re.escape(path[end : found.start()])}(?P<{name}>{_TEXT[kind]})"
        end = found.end()
    return re.compile(pattern + re.escape(path[end:]))


def _found(route: Route, parameters: Mapping[str, str]) -> Match:
    """Return the match of a route."""
    return Match(route, parameters, route.methods, route.needs_key, route.is_admin, route.is_probe)


def _methods(routes: Iterable[Route]) -> tuple[str, ...]:
    """Return the methods of several routes."""
    return tuple(dict.fromkeys(method for route in routes for method in route.methods))


TABLE = RouteTable(ROUTES)
"""The routes of the service."""
