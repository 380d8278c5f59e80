"""The page in a browser: what opens it, and what the tests look at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

SCREENSHOTS = "RESNET_INFER_SCREENSHOTS"
"""The folder that pictures of the page are written to, if this variable names one."""


class Open:
    """Opens pages, and takes note of all that a good page does not do."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.contexts: list[Any] = []
        self.faults: list[str] = []

    def __call__(self, url: str, width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("request", lambda request: self._check(request, url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._listen)
        self.contexts.append(context)
        page.goto(url)
        return page

    def _check(self, request: Any, url: str) -> None:
        if not request.url.startswith((url, "blob:", "data:")):
            self.faults.append(f"asks {request.url}")

    def _listen(self, message: Any) -> None:
        if message.type == "error" and "status of" not in message.text:  # of an answer that is an error on purpose
            self.faults.append(message.text)


def painted(card: Any) -> int:
    """Pixels of the map that are to be seen."""
    count: int = card.locator("canvas").evaluate(
        """canvas => {
            const { width, height } = canvas;
            if (!width || !height) return 0;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            return data.filter((value, index) => index % 4 == 3 && value).length;
        }"""
    )
    return count


def keep(page: Any, name: str) -> None:
    if folder := os.environ.get(SCREENSHOTS):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)
