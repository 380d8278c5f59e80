"""Load images with PIL's default settings, whatever the calling program has set."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

from PIL import ImageFile


def strict_load(picture: ImageFile.ImageFile) -> None:
    """Decode the pixels as `ImageFile.load` does while `ImageFile.LOAD_TRUNCATED_IMAGES` is not set.

    The program that uses this package may have set it, for all of its threads. Raises `OSError` for damaged data.
    """
    _LOAD(picture)


def _copy(function: Callable[..., object]) -> Callable[..., object]:
    """Copy a function so that it reads its own copy of the module's settings."""
    assert isinstance(function, FunctionType)
    settings = {**function.__globals__, "LOAD_TRUNCATED_IMAGES": False}
    return FunctionType(function.__code__, settings, function.__name__, function.__defaults__, function.__closure__)


_LOAD = _copy(ImageFile.ImageFile.load)
