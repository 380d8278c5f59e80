"""Name what is classified: a path, the bytes of a file, or decoded pixels.

Arrays, PIL images and file objects are converted by `picture_kinds`, which is imported when one of them is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.arrivals import Ready
from resnet_infer.errors import PictureError, UsageError, bare

NAME_CHARACTERS = 200
"""Most characters of a name in a `repr`."""


class HasRead(Protocol):
    """Describe a binary file object: an open file, `io.BytesIO`, a member of an archive."""

    def read(self, size: int = ..., /) -> bytes:
        """Return the next bytes, at most `size`."""


class HasReadBytes(Protocol):
    """Describe a path that is not in the file system: `zipfile.Path`, `importlib.resources.files(...)`."""

    def read_bytes(self) -> bytes:
        """Return the whole content."""


Content: TypeAlias = Path | bytes | Image.Image
"""Content of a `Picture`: a path, the bytes of an encoded file, or decoded pixels (RGB)."""
PictureInput: TypeAlias = Union[  # pyright does not read an alias that is one text
    str, PathLike[str], bytes, bytearray, memoryview, Image.Image, NDArray[np.uint8], HasRead, HasReadBytes, "Picture"
]
"""What is taken as one image."""


@dataclass(frozen=True, init=False, repr=False)
class Picture:
    """Name an image to be classified: `source` is its name in results and messages, `content` where its pixels are.

    `content` is given as

    - a path (`str` or `os.PathLike`), which is read when the image is classified;
    - the bytes of an encoded file (`bytes`, `bytearray`, `memoryview`);
    - a binary file object, which is read now from its start (or from where it is, if it cannot seek), or a
      `zipfile.Path` or another `importlib` traversable;
    - pixels: an array, uint8 (height, width, 3) in the order red, green, blue, or (height, width) of grey. OpenCV has
      blue first: give it `array[..., ::-1]`;
    - a PIL image of any mode. It is converted as a file would be, and turned by the orientation in
      `info["exif"]` if the model's spec says so. (PIL itself turns a TIFF when it loads it.)

    The attribute `content` is then a `Path`, `bytes` or an RGB image of PIL. Pixels and buffers are copied, so they may
    be changed afterwards. Raises `UsageError` for anything else, and `PictureError` if it cannot be read.

    >>> Picture("frame 7", np.zeros((480, 640, 3), np.uint8))
    Picture('frame 7', 640x480 pixels)
    """

    source: str
    content: Content

    def __init__(self, source: str, content: PictureInput) -> None:
        if isinstance(content, Picture):
            content = content.content
        if type(source) is not str or not isinstance(content, (bytes, Path)):
            from resnet_infer.data.picture_kinds import content_of

            content = content_of(source, content)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "content", content)

    def __repr__(self) -> str:
        content = self.content
        if isinstance(content, Path):
            shown = repr(shortened(str(content)))
        elif isinstance(content, bytes):
            shown = f"{len(content):,} bytes"
        else:
            shown = f"{content.width}x{content.height} pixels"
        return f"Picture({shortened(self.source)!r}, {shown})"

    def __hash__(self) -> int:
        return hash(self.source)  # PIL images have no hash

    def to_json(self) -> dict[str, Any]:
        """Return `source` and, instead of the content, its `path`, the number of `bytes`, or `width` and `height`."""
        content = self.content
        if isinstance(content, Path):
            return {"source": self.source, "path": str(content)}
        if isinstance(content, bytes):
            return {"source": self.source, "bytes": len(content)}
        return {"source": self.source, "width": content.width, "height": content.height}


_SINGLE = (str, PathLike, bytes, bytearray, memoryview, np.ndarray, Image.Image, Picture)
"""Types of a single image, some of which can be iterated over; and of arrays, which may be several."""


@dataclass(frozen=True)
class Unreadable:
    """Stand for an image that could not be read when its turn came, with the error of its answer.

    It is no tuple, which would be several images.
    """

    source: str
    error: PictureError


def picture_of(given: object, unnamed: str = "picture") -> Picture | Unreadable:
    """Return the picture that `given` is; what it cannot be read for becomes part of the answer.

    Its source is its path or the name of the file; `unnamed` where there is none. Raises `UsageError` for what is no
    picture.
    """
    if isinstance(given, (Picture, Unreadable)):
        return given
    if isinstance(given, bytes):
        source = unnamed
    elif isinstance(given, Path):
        source = str(given)
    else:
        from resnet_infer.data.picture_kinds import name_of

        source = name_of(given) or unnamed
    try:
        return Picture(source, given)  # type: ignore[arg-type]  # checked there
    except PictureError as error:
        return Unreadable(source, bare(error))


def pictures_of(given: Iterable[object]) -> Iterable[Picture | Unreadable]:
    """Return the pictures of a list, of an array (N, height, width, 3), or of any other iterable.

    Each is converted when its turn comes, by whoever reads them; those without a name are `pictures[0]`, `pictures[1]`
    and so on. Raises `UsageError` for a single picture, and for what cannot be iterated over.
    """
    if isinstance(given, (list, tuple)):
        return Ready(_numbered(iter(given)))
    no_single = not isinstance(given, _SINGLE) and not hasattr(given, "read") and not hasattr(given, "read_bytes")
    if no_single and isinstance(given, Iterable):
        return _numbered(iter(given))
    from resnet_infer.data.picture_kinds import several

    return Ready(_numbered(iter(several(given))))


def _numbered(given: Iterator[object]) -> Iterator[Picture | Unreadable]:
    """Return an iterator that converts every item when it is read."""
    return map(_item, given, count())


def _item(given: object, number: int) -> Picture | Unreadable:
    """Return the picture with this number. The message of a `UsageError` begins with its place."""
    name = f"pictures[{number}]"
    try:
        return picture_of(given, name)
    except UsageError as error:
        error.message = f"{name}: {error.message}"
        error.args, error.source = (error.message,), error.source or name
        raise


def shortened(text: str) -> str:
    """Return a text without its middle if it has more than `NAME_CHARACTERS` characters."""
    half = NAME_CHARACTERS // 2
    return text if len(text) <= NAME_CHARACTERS else f"{text[:half]}...{text[-half:]}"
