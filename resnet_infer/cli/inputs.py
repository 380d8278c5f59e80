"""Find the images that the arguments of `resnet-infer classify` name."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_infer.errors import PictureError, bare
from resnet_infer.runtimes.registry import SUFFIXES
from resnet_infer.utils.console import printable
from resnet_infer.utils.files import suffix_of

if TYPE_CHECKING:
    from resnet_infer.classifier import Answer, Picture
    from resnet_infer.data.walk import Passed

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def pictures(inputs: list[str], passed: Passed) -> Iterator[Picture | Answer]:
    """Yield the images that the arguments name, in the order given, and an answer with an error for each failure."""
    from resnet_infer.classifier import Answer, Picture
    from resnet_infer.data.walk import FoundError, search

    for argument in inputs:
        if argument == "-":
            try:
                yield Picture("stdin", _stdin())
            except PictureError as error:
                yield Answer("stdin", error=bare(error))
        elif _URL.match(argument) and not os.path.lexists(argument):
            yield Answer(
                argument,
                error=PictureError(
                    printable(f"{argument}: pictures are not fetched from the web"),
                    hint=f"curl -sSfL {argument} | resnet-infer classify -",
                ),
            )
        elif _is_model(argument):
            yield Answer(
                argument,
                error=PictureError(
                    printable(f"{argument}: this is a model, and no picture"), hint=f"name it with --model {argument}"
                ),
            )
        else:
            for found in search(argument, passed):
                if isinstance(found, FoundError):
                    yield Answer(found.source, error=PictureError(printable(found.message), hint=found.hint))
                else:
                    yield Picture(str(Path(found)), Path(found))


def _is_model(argument: str) -> bool:
    """Tell whether an argument is a model's file, or the name of a model and of no file."""
    from resnet_infer.models.weights.builtin import FOLDER

    if suffix_of(Path(argument)) in SUFFIXES:
        return True
    if os.path.lexists(argument) or not re.fullmatch(r"[a-z]+[0-9]+[a-z0-9._-]*", argument):
        return False
    from resnet_infer.models.weights.published import find_published

    return (FOLDER / f"{argument}.onnx").exists() or find_published(argument) is not None


def _stdin() -> bytes:
    """Return the image on standard input. Raises `PictureError` if it cannot be read or there are several."""
    from resnet_infer.data.image import piped_bytes
    from resnet_infer.data.several import second_picture

    if sys.stdin is None:
        raise PictureError("stdin: standard input is closed")
    try:
        content = piped_bytes(sys.stdin.buffer)
    except (OSError, ValueError, AttributeError) as error:  # a folder, a closed stream, a stream of text
        raise PictureError(f"stdin: {getattr(error, 'strerror', None) or 'standard input cannot be read'}") from error
    if second_picture(content):
        raise PictureError(
            "stdin: more than one picture came on standard input",
            hint="name the files, or hand over one at a time",
        )
    return content
