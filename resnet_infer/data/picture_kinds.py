"""Convert what a program may hold of an image - an array, a PIL image, a file object - to the content of a `Picture`.

Every refusal is a `UsageError` that names what was given and what to give instead.
"""

from __future__ import annotations

import inspect
import io
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.formats.kinds import UnusableError
from resnet_infer.data.formats.samples import Range, stretched
from resnet_infer.data.formats.tiff.directory import orientation
from resnet_infer.data.image import DIRECTORY_HINT, MAX_PIXELS, TURNS, piped_bytes, to_rgb
from resnet_infer.errors import PictureError, Reason, UsageError, first_line, reason_of
from resnet_infer.utils.console import printable

if TYPE_CHECKING:
    from resnet_infer.data.pictures import Content

MOST_CHARACTERS = 4096
"""Most characters of a path: Linux's PATH_MAX. A longer text is the content of something."""
ORIENTATION = "orientation"
"""Key in `info` of a picture's pixels: the number of their EXIF orientation."""
TAKEN = (
    "a picture is a path, the bytes of a file, a binary file object, a PIL image, or an array: uint8 (height, width, "
    "3) in RGB"
)
_URL = re.compile(r"https?://", re.IGNORECASE)
_ORIENTATION_TAG = 274


def content_of(source: object, given: object) -> Content:
    """Return the content of a `Picture` called `source`: a path, bytes, or an RGB image that nothing else refers to.

    Raises `UsageError` for what is no picture, and `PictureError` if it cannot be read.
    """
    if not isinstance(source, str):
        raise UsageError(f"the source of a picture is its name, a text, not {kind_of(source)}")
    if isinstance(given, (str, os.PathLike)):
        return given if isinstance(given, Path) else _path(source, given)
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    if isinstance(given, np.ndarray):
        return _from_array(given)
    if isinstance(given, Image.Image):
        return _read(source, lambda: _from_pil(given))
    if callable(getattr(given, "read", None)):
        return _read(source, lambda: _from_file(given))
    if callable(getattr(given, "read_bytes", None)):
        return _read(source, lambda: _from_traversable(given))
    raise _refused(given)


def name_of(given: object) -> str | None:
    """Return the name that what was given has: its path, or the name of its file; None if it has none."""
    if isinstance(given, (str, os.PathLike)):
        return os.fsdecode(given)
    if callable(getattr(given, "read_bytes", None)):
        archive = getattr(given, "root", None)  # of a zipfile.Path; one in memory has no name
        return str(getattr(given, "at", "")) if getattr(archive, "filename", "") is None else str(given)
    for attribute in ("filename", "name"):
        name = getattr(given, attribute, None)
        if isinstance(name, (str, os.PathLike)) and name:
            return os.fsdecode(name)
    return None


def upright(pixels: Image.Image, source: str, *, exif: bool, max_pixels: int) -> Image.Image:
    """Return the pixels of a `Picture`, turned by their orientation if `exif`.

    Raises `PictureError` if there are more than `max_pixels`.
    """
    if pixels.width * pixels.height > max_pixels:
        message = f"{source}: {pixels.width}x{pixels.height} pixels are more than the limit of {max_pixels}"
        raise PictureError(message, source=source, reason="too_large")
    turn = TURNS.get(pixels.info.get(ORIENTATION, 1)) if exif else None
    return pixels if turn is None else pixels.transpose(turn)


def encoded(pixels: Image.Image) -> bytes:
    """Return the pixels of a `Picture` as a PNG, which is lossless, with their orientation in its EXIF."""
    file = io.BytesIO()
    tags = Image.Exif()
    if pixels.info.get(ORIENTATION) in TURNS:
        tags[_ORIENTATION_TAG] = pixels.info[ORIENTATION]
    pixels.save(file, "PNG", compress_level=1, **({"exif": tags} if tags else {}))
    return file.getvalue()


def kind_of(given: object) -> str:
    """Return the kind of an argument, in a few words for a message.

    >>> kind_of(np.zeros((2, 3))), kind_of(None), kind_of([])
    ('an array of float64 (2, 3)', 'None', 'an empty list')
    """
    if given is None:
        return "None"
    if isinstance(given, np.ndarray):
        return f"an array of {given.dtype} {given.shape}"
    if isinstance(given, (int, float, complex)):
        return f"{given!r:.40}"
    kind = type(given)
    if kind in (bytes, bytearray):
        return kind.__name__
    name = kind.__qualname__ if kind.__module__ in ("builtins", "_io") else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(given, (list, tuple, set, dict)) and not given:
        return f"an empty {name}"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def several(given: object) -> list[object]:
    """Return the pictures in an array (N, height, width, 3), or the items of an array of names.

    Raises `UsageError` for anything else, which is a single picture or yields none.
    """
    if isinstance(given, np.ndarray) and (given.ndim == 4 or given.dtype.kind in "OU"):
        if _channels_first(given):
            raise UsageError(
                f"an array of pictures is uint8 (N, height, width, 3), not {kind_of(given)}", hint=_shape_hint(given)
            )
        return list(given)
    if given is None or isinstance(given, (int, float)):
        hint = f"give an iterable of pictures; {TAKEN}"
    else:
        hint = "for a single picture use `classify`, or a list with it: [picture]"
    raise UsageError(f"`stream` takes several pictures, not {kind_of(given)}", hint=hint)


def _path(source: str, given: str | os.PathLike[str]) -> Path:
    """Return the path that a text or another object stands for."""
    name = os.fsdecode(given)
    if not name:
        raise UsageError("the path of a picture is empty")
    if len(name) > MOST_CHARACTERS:
        raise UsageError(
            f"a text of {len(name):,} characters is no path",
            hint="give the content of a file as bytes; text in base64 has to be decoded: base64.b64decode(text)",
        )
    if _URL.match(name) and not os.path.lexists(name):
        raise PictureError(
            printable(f"{source}: pictures are not fetched from the web"),
            hint="fetch it and give its bytes: urllib.request.urlopen(url).read()",
            source=source,
            reason="unsupported",
        )
    return Path(name)


def _read(source: str, read: Callable[[], Content]) -> Content:
    """Return what `read` returns; a failure of any kind becomes a `PictureError` that begins with `source`."""
    hint = None
    reason: Reason
    try:
        return read()
    except UsageError:
        raise
    except UnusableError as error:
        why, reason = str(error), error.reason
    except MemoryError:
        why, reason = "there is not enough memory for it", "memory"
    except IsADirectoryError as error:
        why, hint, reason = error.strerror or "it is a directory", DIRECTORY_HINT, "unreadable"
    except Exception as error:  # PIL's plugins and file objects of any library raise anything
        why = getattr(error, "strerror", None) or f"it cannot be read ({first_line(error)})"
        reason = reason_of(error)
    raise PictureError(printable(f"{source}: {why}"), hint=hint, source=source, reason=reason)


def _from_array(array: NDArray[Any]) -> Image.Image:
    """Copy pixels, uint8 (height, width, 3) or grey (height, width), to an RGB image. Raises `UsageError`."""
    if array.dtype != np.uint8:
        if array.dtype.kind == "f":
            hint = "if its values are 0 to 1: (255 * array).round().astype(np.uint8); if 0 to 255: .astype(np.uint8)"
        elif array.dtype.kind in "OU":
            hint = "an array of paths or of other pictures is given as a list: classify(list(array))"
        elif array.dtype.kind == "b":
            hint = "black and white: 255 * array.astype(np.uint8)"
        else:
            hint = "of 16 bits: (array >> 8).astype(np.uint8); if its values are 0 to 255: array.astype(np.uint8)"
        raise UsageError(f"pixels are uint8, not {kind_of(array)}", hint=hint)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not array.size:
        raise UsageError(
            f"an array of one picture is uint8 (height, width, 3), or (height, width) of grey, not {kind_of(array)}",
            hint=_shape_hint(array),
        )
    image = Image.fromarray(np.ascontiguousarray(array))  # of RGB a copy: PIL has four bytes for each pixel
    return image if image.mode == "RGB" else image.convert("RGB")


def _channels_first(array: NDArray[Any]) -> bool:
    """Return whether an array is that of several pictures, (N, 3, height, width)."""
    return array.ndim == 4 and array.shape[1] == 3 and array.shape[3] != 3


def _shape_hint(array: NDArray[Any]) -> str | None:
    """Return what to do with pixels of another shape, if that is clear."""
    if _channels_first(array):
        return "channels are last, and several pictures are no item of a list: classify(array.transpose(0, 2, 3, 1))"
    if array.ndim == 4:
        return "several pictures, (N, height, width, 3), are given by themselves and not in a list: classify(array)"
    if array.ndim == 3 and array.shape[2] == 4:
        return 'with opacity: PIL.Image.fromarray(array, "RGBA"), which is shown over white; or array[..., :3]'
    if array.ndim == 3 and array.shape[2] == 1:
        return "grey: array[..., 0]"
    if array.ndim == 3 and array.shape[0] == 3:
        return "channels are last: array.transpose(1, 2, 0)"
    return None


def _from_pil(image: Image.Image) -> Image.Image:
    """Convert a PIL image to RGB as `read_image` converts the pixels of a file, and note its orientation.

    Raises `UnusableError`, and what PIL raises.
    """
    if image.width * image.height > MAX_PIXELS:
        raise UnusableError(f"{image.width}x{image.height} pixels are more than the limit of {MAX_PIXELS}")
    if not image.width * image.height:
        raise UnusableError(f"it has no pixels ({image.width}x{image.height})")
    image.load()
    note = image.info.get("note") if ORIENTATION in image.info else None  # pixels of another `Picture`
    if image.mode.startswith("I;16"):
        samples = np.asarray(image)
        range_ = Range(2**16 - 1)
        range_.add(samples)
        note, grey = range_.note(), (samples >> 8).astype(np.uint8)
        grey[samples == image.info.get("transparency", -1)] = 255
        rgb = Image.fromarray(grey).convert("RGB")
    elif image.mode in ("I", "F"):
        grey, note = stretched(np.asarray(image))
        rgb = Image.fromarray(grey).convert("RGB")
    else:
        plain = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode]) if image.mode in ("La", "RGBa") else image
        rgb = to_rgb(plain)
    rgb.info = {ORIENTATION: _orientation(image), **({"note": note} if note else {})}
    return rgb


def _orientation(image: Image.Image) -> int:
    """Return the number of the EXIF orientation of a PIL image: 1 for a TIFF, which PIL turns when it loads it."""
    if ORIENTATION in image.info:
        return int(image.info[ORIENTATION])
    exif = image.info.get("exif", b"")
    return orientation(exif) if isinstance(exif, bytes) and image.format != "TIFF" else 1


def _from_file(given: object) -> bytes:
    """Read a binary file object from its start, or from where it is if it cannot seek.

    Raises `UsageError` for a file of text or an asynchronous one, and what reading raises.
    """
    file = cast(IO[bytes], given)
    if inspect.iscoroutinefunction(file.read):
        raise UsageError(f"`read` of {kind_of(given)} is asynchronous", hint="give its bytes: await file.read()")
    if isinstance(given, io.TextIOBase) or isinstance(cast(object, file.read(0)), str):
        raise UsageError(f"{kind_of(given)} reads text", hint='open it in binary mode: open(path, "rb")')
    with suppress(Exception):  # a pipe, or the body of a response, is read on from where it is
        file.seek(0)
    return piped_bytes(file)


def _from_traversable(given: object) -> bytes:
    """Read a path that is not in the file system. Raises what opening raises."""
    opener = getattr(given, "open", None)
    is_dir = getattr(given, "is_dir", None)
    if is_dir is not None and is_dir():
        raise IsADirectoryError(0, "it is a directory")
    if opener is None:
        return bytes(cast(Any, given).read_bytes())
    with opener("rb") as file:
        return piped_bytes(file)


def _refused(given: object) -> UsageError:
    """Return the error for what is no picture."""
    hint: str | None = TAKEN
    if isinstance(given, (list, tuple)):
        hint = "`classify` takes one picture or a flat list of them" if given else "give a list of pictures"
    elif hasattr(given, "__array__"):
        hint = "give an array of it: np.asarray(...), uint8 (height, width, 3) in RGB"
    elif isinstance(given, Iterable):
        hint = "for several pictures give a list, or use `stream`, which takes any iterable"
    return UsageError(f"{kind_of(given)} is no picture", hint=hint)
