"""The table of routes: every row answers, is described and asks for its key, and no other place lists paths."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from inspect import iscoroutinefunction, signature
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from resnet_infer.serving.http import routing
from resnet_infer.serving.http.app import find_handler
from resnet_infer.serving.http.context import Context
from resnet_infer.serving.http.responses import as_json
from resnet_infer.serving.http.routes import ADMIN, OPEN, ROUTES, Route
from resnet_infer.serving.http.routing import Match, RouteTable
from resnet_infer.serving.http.schemas import json_body
from resnet_infer.serving.settings import Settings
from resnet_infer.zoo import SMALL
from tests.serving.conftest import Service
from tests.test_house import modules

USER, MASTER = {"X-API-Key": "user"}, {"Authorization": "Bearer master"}


async def echo(context: Context, request: Request) -> Response:
    """What a toy route answers."""
    return as_json({"model": context.manager.current.spec.name, **request.path_params})


def toy(path: str, method: str = "GET", handler: str = f"{__name__}:echo", **fields: Any) -> Route:
    return Route(method, path, handler, "A toy", json_body({"type": "object"}), **fields)


TOYS = (
    toy("/toy"),
    toy("/toy", "POST", needs_key=False),
    toy("/toy/open", needs_key=False),
    toy("/toy/{name}", needs_key=False),
    toy("/toy/{name}/{name2:model}/x", "PUT"),
    toy(f"{ADMIN}toy", is_admin=True),
    toy("/toy-admin", "DELETE", is_admin=True, errors=(418,)),
    toy("/toy-hidden", is_documented=False),
    toy("/toy-probe", is_probe=True),
)


class Services:
    """Services with the same routes: one without keys, one with both kinds. `close` ends them."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = routes
        self.open = Service(Settings(), routes=routes).start()
        self.locked = Service(Settings(), ("user",), ("master",), routes=routes).start()

    def close(self) -> None:
        self.open.close()
        self.locked.close()


def ask(service: Service, route: Route, **headers: str) -> Any:
    """The response to a request without a body."""
    path = route.label.replace("{name}", SMALL).replace("{version}", "1")
    return service.run(service.client.request(route.method, re.sub(r"{\w+}", "1", path), headers=headers))


def faults(services: Services) -> Iterator[str]:
    """What is wrong with the routes of two services, by the rows themselves."""
    documented = {(route.method.lower(), route.label): route for route in services.routes if route.is_documented}
    for service in (services.open, services.locked):
        found = service.get("/openapi.json").json()["paths"]
        keys = {(key, path) for path, item in found.items() for key in item if key != "parameters"}
        for method, path in keys ^ documented.keys():
            yield f"{method} {path} is not both in the table and in the document"
        for method, path in keys & documented.keys():
            is_secured = documented[method, path].needs_key and service is services.locked
            if ("security" in found[path][method]) != is_secured or ("401" in found[path][method]["responses"]) != (
                is_secured
            ):
                yield f"{method} {path} is described as though it {'did not need' if is_secured else 'needed'} a key"
            if found[path][method]["summary"] != documented[method, path].summary:
                yield f"{method} {path} has another summary"
    for route in services.routes:
        name = f"{route.method} {route.label}"
        given = {"no key": {}, "the API key": USER, "the admin key": MASTER}
        status = {what: ask(services.locked, route, **headers).status_code for what, headers in given.items()}
        status["no keys at all"] = ask(services.open, route).status_code
        good = {200} if route.method == "GET" else {200, *route.errors} - {404, 405, 500, 503}
        expected = {
            "no key": {401} if route.needs_key else good,
            "the API key": {403} if route.is_admin else good,
            "the admin key": good if route.is_admin or not route.needs_key else {401},
            "no keys at all": {403} if route.is_admin else good,
        }
        for what, allowed in expected.items():
            if status[what] not in allowed:
                yield f"{name} answers {status[what]} to {what}"


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    made = Services((*ROUTES, *TOYS))
    yield made
    made.close()


def test_every_row_answers_is_described_and_asks_for_its_key(services: Services) -> None:
    assert list(faults(services)) == []


def test_a_template_gives_its_parameters(services: Services) -> None:
    assert services.open.get("/toy/a%20b").json() == {"model": SMALL, "name": "a b"}
    assert services.open.get("/toy/open").json() == {"model": SMALL}
    done = services.open.run(services.open.client.put("/toy/a/b/c/x"))
    assert done.json() == {"model": SMALL, "name": "a", "name2": "b/c"}


def test_log_and_drain_read_the_row(services: Services, capfd: pytest.CaptureFixture[str]) -> None:
    service = Service(Settings(access_log=True), routes=services.routes).start()
    try:
        service.get("/toy-probe")
        service.get("/toy/a")
        service.app.traffic.draining = True
        assert [service.get(path).status_code for path in ("/toy-probe", "/toy/a", "/toy")] == [200, 503, 503]
        assert 'route="/toy/{name}",status="200"' in service.app.metrics.render().decode()
    finally:
        service.close()
    assert re.findall(r'"path": "(\S+)"', capfd.readouterr().err) == ["/toy/a", "/toy/a", "/toy"]


@pytest.mark.parametrize("victim", TOYS, ids=lambda route: f"{route.method} {route.label}")
def test_a_route_that_does_not_check_its_key_is_found(monkeypatch: pytest.MonkeyPatch, victim: Route) -> None:
    """The key check takes a row for what it is not: this is seen, and for no other row."""
    found = routing._found

    def forgetful(route: Route, parameters: Any) -> Match:
        match = found(route, parameters)
        return replace(match, needs_key=not route.needs_key, is_admin=False) if route is victim else match

    monkeypatch.setattr(routing, "_found", forgetful)
    services = Services((*ROUTES, *TOYS))
    try:
        seen = list(faults(services))
    finally:
        services.close()
    assert seen
    assert all(fault.startswith(f"{victim.method} {victim.label} answers") for fault in seen)


def test_a_route_that_does_not_answer_or_is_not_described_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    services = Services((*ROUTES, toy("/toy")))
    try:
        services.routes = (*ROUTES, replace(TOYS[0], summary="Other"), toy("/gone"))
        found = sorted({fault.partition(" to ")[0] for fault in faults(services)})
    finally:
        services.close()
    assert found == [
        "GET /gone answers 404",
        "get /gone is not both in the table and in the document",
        "get /toy has another summary",
    ]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.label}")
def test_a_row_names_a_function_of_context_and_request(route: Route) -> None:
    handler: Any = find_handler(route)
    assert iscoroutinefunction(handler)
    assert list(signature(handler).parameters) == ["context", "request"]


# The table itself


def test_these_routes_need_no_key() -> None:
    """What is open to everybody is decided here, too, and not only in a row."""
    assert {route.label for route in ROUTES if not route.needs_key} == {
        *("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready", "/openapi.json"),
        *("/", "/web/style.css", "/web/page.js", "/web/icon.svg"),
    }


def find(table: RouteTable, method: str, path: str, **scope: str) -> Match:
    return table.find({"method": method, "path": path, **scope})


def test_what_a_row_and_a_path_without_a_row_need() -> None:
    assert toy("/x").needs_key
    table = RouteTable(ROUTES)
    for path in ("/nothing", "/livez/", "/livez\n", "/LIVEZ", "//", "", "/web", "/v2/health", "/x/../livez"):
        assert find(table, "GET", path) == Match(), path
    assert Match().needs_key
    assert find(table, "GET", f"{OPEN}nothing") == Match(needs_key=False)
    for path in (ADMIN, f"{ADMIN}nothing", f"{ADMIN}reload/"):
        assert find(table, "POST", path) == Match(methods=("POST",), is_admin=True)


def test_a_wrong_method_needs_the_strictest_key_of_its_path() -> None:
    first, second = toy("/a", needs_key=False), toy("/a", "POST", is_admin=True)
    for table in (RouteTable((first, second)), RouteTable((second, first))):
        assert find(table, "GET", "/a").route is find(table, "HEAD", "/a").route is first
        assert find(table, "POST", "/a").route is second
        wrong = find(table, "PUT", "/a")
        assert (wrong.route, wrong.needs_key, wrong.is_admin) == (None, True, True)
        assert sorted(wrong.methods) == ["GET", "HEAD", "POST"]


def test_the_route_that_answers_is_the_one_whose_key_is_asked_for() -> None:
    """Where several paths fit, one row decides on both."""
    plain, first, second = toy("/x/y", needs_key=False), toy("/x/{a}"), toy("/{b}/y", needs_key=False)
    table = RouteTable((first, second, plain))
    for method in ("GET", "HEAD"):
        for path, route in (("/x/y", plain), ("/x/z", first), ("/z/y", second)):
            match = find(table, method, path)
            assert match.route is route
            assert match.needs_key == route.needs_key
    assert find(table, "GET", "/p/x/z", root_path="/p").parameters == {"a": "z"}


def test_a_path_with_parameters_opens_nothing_below_the_prefix_of_the_administration() -> None:
    table = RouteTable((toy("/{a}/{b}", needs_key=False), toy("/{a}/{b}/c", "POST", is_admin=True)))
    assert find(table, "GET", "/x/y").parameters == {"a": "x", "b": "y"}
    assert find(table, "GET", f"{ADMIN}y") == Match(methods=("POST",), is_admin=True)
    assert find(table, "POST", f"{ADMIN}y/c").is_admin


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([("/a", {}), ("/a", {})], "GET /a is twice"),
        ([("/a", {}), ("/a", {"method": "HEAD"})], "HEAD /a is twice"),
        ([("/{a}", {}), ("/{a:model}", {})], "twice"),
        ([("/{a:number}", {})], "number is no kind"),
        ([("/a", {"is_admin": True, "needs_key": False})], "needs a key"),
        ([(f"{ADMIN}a", {})], "need an admin key"),
        ([(f"{OPEN}a", {})], "need no key"),
    ],
)
def test_a_row_that_cannot_be_is_refused(rows: list[tuple[str, dict[str, Any]]], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        RouteTable(toy(path, **fields) for path, fields in rows)


# No other place lists paths

PATHS = {route.label for route in ROUTES} - {"/"}
SERVING_MAY_NAME = {
    ("serving/http/routes.py", ADMIN): "the prefix with a key of its own",
    ("serving/http/routes.py", OPEN): "the prefix without a key",
}
"""File and text -> why it may begin with a path, or with a folder of paths, outside of the table."""


def constants(tree: ast.AST) -> Iterator[ast.Constant]:
    """The texts of a module, without docstrings, also those below assignments."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node


def outside(tree: ast.Module) -> ast.Module:
    """The module without the table."""
    return ast.Module([node for node in tree.body if "ROUTES" not in ast.unparse(node).partition("=")[0]], [])


def named(text: str) -> set[str]:
    """The routes that a text names."""
    return {path for path in PATHS if path in text and re.search(rf"(?<![\w/}}]){re.escape(path)}(?![\w/{{])", text)}


def lists_of_paths(path: str, tree: ast.Module) -> Iterator[str]:
    """Literals that name several routes, and in the serving room any text that begins with one."""
    tree = outside(tree) if path == "serving/http/routes.py" else tree
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict | ast.Constant | ast.JoinedStr):
            texts = [str(item.value) for item in constants(node)]
            if len(set().union(*map(named, texts))) > 1 and not isinstance(node, ast.Constant):
                yield f"{path}:{node.lineno} lists routes"
    if path.startswith("serving/"):
        folders = {f"{found}/" for one in PATHS for found in [one.rpartition("/")[0]] if found}
        for item in constants(tree):
            text = str(item.value)
            if (text in folders or any(text.startswith(one) for one in PATHS)) and (path, text) not in SERVING_MAY_NAME:
                yield f"{path}:{item.lineno} names {text}"
            if len(named(text)) > 1:
                yield f"{path}:{item.lineno} lists routes"


def test_no_other_place_lists_paths() -> None:
    assert [fault for path, tree in modules() for fault in lists_of_paths(path, tree)] == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('HEALTH = ("/livez", "/readyz")', "client.py"),
        ('HEALTH = {"/livez": 1, "/x": "/v2/models/{name}/infer"}', "client.py"),
        ('f(["GET /model", "POST /classify"])', "cli/main.py"),
        ('if path == "/livez": pass', "serving/http/middleware.py"),
        ('path.startswith("/v2/")', "serving/http/middleware.py"),
        ('path.startswith("/admin/")', "serving/service.py"),
        ('X = r"GET /livez|/readyz"', "serving/service.py"),
        ('X = "/web/style.css"', "serving/http/page.py"),
    ],
)
def test_a_list_of_paths_is_found(text: str, path: str) -> None:
    assert list(lists_of_paths(path, ast.parse(text)))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('"""Answer `/livez` and `/readyz`."""', "serving/http/app.py"),
        ('f("GET", "/model")', "client.py"),
        ('X = ("/livez", "/data")', "client.py"),
        ('raise E(404, "not here; /openapi.json says what there is")', "serving/http/app.py"),
        ('ROUTES: tuple[Route, ...] = (Route("/livez"), Route("/readyz"))', "serving/http/routes.py"),
    ],
)
def test_what_is_no_list_of_paths_is_not_found(text: str, path: str) -> None:
    assert not list(lists_of_paths(path, ast.parse(text)))
