"""Read requests to `/classify`: an image as the body, a form (RFC 7578) or JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from resnet_infer.classifier import Crops
from resnet_infer.errors import did_you_mean
from resnet_infer.serving.http.middleware import HttpError, Receive
from resnet_infer.serving.settings import Settings
from resnet_infer.utils.heap import give_back

RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""Content types of an image body besides `image/*`: none, bytes, and the default of curl's --data-binary."""
OPTIONS = ("crops", "top_k", "activation_map", "timeout_ms")
"""Options of a request, in its query, form or JSON."""
LARGE_JSON = 1 << 18
"""Bytes from which JSON is parsed in a thread."""
LARGE_BODY = 1 << 22
"""Bytes from which the memory of a body's parts is returned to the system."""
JSON_PARTS = 1000
"""Commas, lists or objects that large JSON may have in any case."""
ECHO_LENGTH = 40
"""Most characters of a request that an error message repeats."""


@dataclass(frozen=True)
class UploadedImage:
    """Hold the encoded bytes of an image and the name it was sent with, or the reason why it is not an image."""

    source: str
    content: bytes = b""
    error: str = ""


@dataclass(frozen=True)
class ClassifyRequest:
    """Hold the images and options of a request; `timeout` is in seconds.

    `several` says that the response is a list, even for one image. `maps` requests class activation maps.
    """

    pictures: tuple[UploadedImage, ...]
    several: bool
    crops: Crops = 1
    top_k: int = 5
    maps: bool = False
    timeout: float | None = None


async def read_classify_request(request: Request, settings: Settings) -> ClassifyRequest:
    """Return the images and options of a request.

    Raises `HttpError`: 400 for a request that cannot be understood, 413 for too many images, 415 for another type.
    """
    named = next((value for name, value in request.scope["headers"] if name == b"content-type"), b"")
    kind = named.partition(b";")[0].strip().lower().decode("latin-1")
    options: dict[str, Any] = {}
    if request.scope["query_string"]:
        options.update(_once(request.query_params.multi_items()))
    if kind in RAW or kind.startswith("image/"):
        body = await read_body(request.receive)
        if not body:
            raise HttpError(400, "the body is empty; it is a picture")
        parsed = ClassifyRequest((UploadedImage("picture", body),), several=False)
    elif kind == "multipart/form-data":
        parsed, more = await _read_form(request, settings)
        options |= more
    elif kind == "application/json":
        body = await read_body(request.receive)
        max_parts = JSON_PARTS + 16 * settings.max_pictures
        parse = asyncio.to_thread(_read_json, body, max_parts) if len(body) > LARGE_JSON else None
        parsed, more = await parse if parse else _read_json(body, max_parts)
        options |= more
    else:
        raise HttpError(415, f"{kind[:ECHO_LENGTH]} is not read; send image/*, multipart/form-data or application/json")
    if len(parsed.pictures) > settings.max_pictures:
        raise HttpError(413, f"a request has at most {settings.max_pictures} pictures", reason="size")
    return with_options(parsed, options) if options else parsed


async def read_body(receive: Receive) -> bytes:
    """Return the body, without the copy that Starlette's `Request.body()` makes. Raises `ClientDisconnect`."""
    pieces: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    if len(pieces) == 1:
        return pieces[0]
    body = b"".join(pieces)
    if len(body) >= LARGE_BODY:  # otherwise the body would take its memory twice
        del pieces, message
        give_back()
    return body


def require_few_parts(body: bytes, max_parts: int) -> None:
    """Raise `HttpError`, 413, for large JSON of more than `max_parts` parts: parsing it would block the interpreter."""
    if len(body) > LARGE_JSON and any(body.count(character) > max_parts for character in (b",", b"[", b"{")):
        raise HttpError(413, "the JSON has too many parts; a picture is one text in base64", reason="size")


def with_options(request: ClassifyRequest, options: Mapping[str, Any]) -> ClassifyRequest:
    """Return the request with its options, which are text where they come from a URL or a form.

    Raises `HttpError`, 400, for an unknown option or a value out of range.
    """
    for name in options:
        if name not in OPTIONS:
            shown = name[:ECHO_LENGTH]
            raise HttpError(400, f"there is no option {shown!r}" + did_you_mean(shown, OPTIONS))
    crops = _number(options, "crops", 1)
    if crops not in (1, 10):
        raise HttpError(400, f"crops is 1 or 10, not {crops}")
    maps = options.get("activation_map", False)
    if not isinstance(maps, bool):
        if maps not in ("true", "false"):
            raise HttpError(400, "activation_map is true or false")
        maps = maps == "true"
    if maps and crops == 10:
        raise HttpError(400, "an activation map is of one crop, not of ten")
    timeout = _number(options, "timeout_ms", 0)
    return replace(
        request,
        crops=1 if crops == 1 else 10,
        top_k=_number(options, "top_k", 5),
        maps=maps,
        timeout=timeout / 1000 if timeout else None,
    )


def _number(options: Mapping[str, Any], name: str, default: int) -> int:
    """Return an option that is a whole number from 1. Raises `HttpError`, 400."""
    if name not in options:
        return default
    value = options[name]
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**9:
        raise HttpError(400, f"{name} is a whole number from 1")
    return value


def _once(items: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return `items`, or raise `HttpError`, 400, if a name is given twice."""
    seen: set[str] = set()
    for name, _ in items:
        if name in seen:
            raise HttpError(400, f"{name[:ECHO_LENGTH]} is given more than once")
        seen.add(name)
    return items


class _InMemory(MultiPartParser):
    """Parse a form without writing files. The middleware has bounded the body."""

    spool_max_size = 0  # never moves to a file on disk


async def _read_form(request: Request, settings: Settings) -> tuple[ClassifyRequest, dict[str, Any]]:
    """Return the images and options of a form. Raises `HttpError`, 400 or 413."""
    chunks: AsyncGenerator[bytes, None] = request.stream()
    parser = _InMemory(request.headers, chunks, max_files=settings.max_pictures, max_fields=len(OPTIONS))
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status, reason = (413, "size") if error.message.startswith("Too many files") else (400, "")
        raise HttpError(status, f"the form cannot be read: {error.message}", reason=reason) from error
    except AssertionError as error:  # raised by python-multipart for input that it does not expect
        raise HttpError(400, "the form cannot be read") from error
    try:
        return await _from_form(form)
    finally:
        await form.close()


async def _from_form(form: FormData) -> tuple[ClassifyRequest, dict[str, Any]]:
    """Return the images and options of a parsed form. Raises `HttpError`, 400."""
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    options = dict(_once([(name, value) for name, value in form.multi_items() if not isinstance(value, UploadFile)]))
    names = {name for name, _ in files}
    if names not in ({"image"}, {"images"}) or (names == {"image"} and len(files) > 1):
        raise HttpError(400, "a form has one file called `image`, or any number of files called `images`")
    pictures = [UploadedImage(file.filename or name, await file.read()) for name, file in files]
    return ClassifyRequest(tuple(pictures), several="images" in names), options


def _read_json(body: bytes, max_parts: int) -> tuple[ClassifyRequest, dict[str, Any]]:
    """Return the images and options of a JSON body. Raises `HttpError`, 400 or 413."""
    require_few_parts(body, max_parts)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "the body is no JSON") from error
    if not isinstance(value, dict) or ("image" in value) == ("images" in value):
        raise HttpError(400, "the JSON is an object with `image`, or with a list `images`; a picture is in base64")
    if "image" in value:
        return ClassifyRequest((decode(value.pop("image"), "image"),), several=False), value
    images = value.pop("images")
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        raise HttpError(400, "`images` is a list with at least one picture, each text in base64")
    return ClassifyRequest(tuple(decode(image, f"images[{i}]") for i, image in enumerate(images)), several=True), value


def decode(text: object, source: str) -> UploadedImage:
    """Decode an image's base64 text. An error becomes part of the result."""
    if not isinstance(text, str):
        return UploadedImage(source, error="a picture is text in base64")
    try:
        return UploadedImage(source, base64.b64decode(text.encode("ascii"), validate=True))
    except (binascii.Error, UnicodeEncodeError):
        return UploadedImage(source, error="the text is no base64")
