"""Rows of the table of routes that no request could fit are refused when they are made."""

from __future__ import annotations

import pytest

from resnet_infer.serving.http.routes import METHODS, Route
from resnet_infer.serving.http.schemas import json_body


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
