"""Rows of the table of routes that no request could fit are refused; requests that fit no row need a key."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from resnet_infer.serving.http.routes import METHODS, ROUTES, Route
from resnet_infer.serving.http.schemas import json_body
from tests.serving.conftest import Service


@pytest.mark.parametrize("method", ["get", "ANY", "CONNECT", ""])
def test_an_unknown_method_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=rf"{method} /toy: the method is one of {', '.join(METHODS)}"):
        Route(method, "/toy", "module:function", "A toy", json_body("Model"))


@pytest.mark.parametrize(
    "path", ["toy", "", "/toy/{a-b}", "/toy/{}", "/toy/{1}", "/toy/{a", "/toy/a}", "/toy/{a}/{a}", "/toy/{a}/{a:model}"]
)
def test_a_path_that_nothing_fits_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="a path begins with a slash, and has each parameter once"):
        Route("GET", path, "module:function", "A toy", json_body("Model"))


@pytest.mark.parametrize("path", ["/", "/toy", "/toy/{a}", "/{a:model}/{b}.json", "/t\u00f6y/{\u00f6}"])
def test_other_paths_are_not(path: str) -> None:
    assert Route("PATCH", path, "module:function", "A toy", json_body("Model")).path == path


@pytest.fixture(scope="module")
def locked(make_service: Callable[..., Service]) -> Service:
    """A service with both kinds of keys. It refuses a key before it needs a model."""
    return make_service(keys=("user",), admin=("master",), start=False)


def status(service: Service, method: str, path: str) -> int:
    answer = service.run(service.client.request(method, path))
    found: int = answer.status_code
    return found


def test_head_needs_the_key_of_get(locked: Service) -> None:
    paths = [route.label.replace("{", "").replace("}", "") for route in ROUTES if "GET" in route.methods]
    keyed = [route.needs_key for route in ROUTES if "GET" in route.methods]
    assert [status(locked, "HEAD", path) == 401 for path in paths] == keyed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", ["/nothing", "/typed/classify", "/schema.json", "/livez/", "/model/x", "/v2/"])
def test_a_path_without_a_row_needs_a_key(locked: Service, method: str, path: str) -> None:
    """Among them are the paths that BentoML answers itself."""
    assert status(locked, method, path) == 401


def test_a_wrong_method_needs_the_key_of_its_path(locked: Service) -> None:
    assert {status(locked, method, "/classify") for method in METHODS} == {401}
    assert {status(locked, method, "/model") for method in METHODS} == {401}
