"""The report in a real browser, on a desktop and on a phone, light and dark."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_infer import zoo
from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser, an extra of the tests")

Open = Callable[..., Any]
SCREENSHOTS = "RESNET_INFER_SCREENSHOTS"
"""The folder that pictures of the page are written to, if this variable names one."""
DESKTOP, PHONE = 1280, 390


@pytest.fixture(scope="module")
def report(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a long name and a long folder, all rows opened."""
    place = tmp_path_factory.mktemp("report")
    model = place / ("a_rather_long_name_without_any_space_" * 3 + ".onnx")
    shutil.copy(zoo.built_in(zoo.SMALL, ".onnx"), model)
    found = evaluate(
        [zoo.SMALL, str(model)], album, EvaluationConfig(reference=zoo.SMALL, protocols=["native", "10-crop"])
    )
    write_report(found, place / "report.html")
    text = (place / "report.html").read_text(encoding="utf-8")
    (place / "report.html").write_text(text.replace("<details>", "<details open>"), encoding="utf-8")
    return place / "report.html"


@pytest.fixture
def show(browser: Any, report: Path) -> Iterator[Open]:
    contexts = []

    def show(width: int, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.goto(report.as_uri())
        if folder := os.environ.get(SCREENSHOTS):
            page.screenshot(path=str(Path(folder) / f"report-{width}-{scheme}.png"), full_page=True)
        return page

    yield show
    for context in contexts:
        context.close()


def style(page: Any, selector: str, name: str) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        selector, "(nodes, name) => nodes.map(node => getComputedStyle(node)[name])", name
    )
    return found


def test_the_curve_of_reliability_is_a_line(show: Open) -> None:
    page = show(DESKTOP)
    assert set(style(page, "polyline", "fill")) == {"none"}
    assert set(style(page, "polyline", "strokeWidth")) == {"2px"}
    assert set(style(page, "polyline", "stroke")) == set(style(page, "svg:has(polyline) circle", "fill"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_nothing_overflows_sideways(show: Open, width: int, scheme: str) -> None:
    page = show(width, scheme)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(255, 255, 255)",
            "dark": "rgb(21, 26, 32)",
        }[scheme]
    )


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_letters_of_drawings_can_be_read(show: Open, width: int) -> None:
    page = show(width)
    sizes = page.eval_on_selector_all(
        "svg text",
        "nodes => nodes.map(node => parseFloat(getComputedStyle(node).fontSize) * node.getScreenCTM().a"
        " / Math.cos(Math.atan2(node.getScreenCTM().b, node.getScreenCTM().a)))",
    )
    upright = [size for size in sizes if size > 0 and size < 100]
    assert upright
    assert min(upright) >= 9.9


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_wider_than_the_page_shows_that_it_scrolls(show: Open, scheme: str) -> None:
    """Its edge is shaded, unless its end is there."""
    page = show(PHONE, scheme)
    scroller = page.locator(".scroll").first
    assert scroller.evaluate("node => node.scrollWidth") > PHONE

    def edge() -> int:
        with Image.open(io.BytesIO(scroller.screenshot())) as picture:
            column = np.asarray(picture.convert("L"), int)[:, -1]
        return abs(int(np.median(column[len(column) // 3 : -len(column) // 3])) - int(column[0]))

    assert edge() > 40
    scroller.evaluate("node => node.scrollTo(node.scrollWidth, 0)")
    assert edge() <= 1
