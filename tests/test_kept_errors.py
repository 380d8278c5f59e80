"""An error that is kept holds nothing of the picture that it is about."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnet_infer.classifier import Classifier, Picture
from resnet_infer.data.datasets import Dataset, Sample
from resnet_infer.errors import PictureError
from resnet_infer.evaluation.record import Record
from resnet_infer.evaluation.runner import Member, Predictor, run
from resnet_infer.evaluation.scorer import LocalScorer
from resnet_infer.serving.inference.model_manager import gather
from tests.evaluation.conftest import Reds

Keep = Callable[[list[bytes]], Iterable[BaseException | None]]
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
CLASSIFIER = Classifier(Reds())


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind)
    return file.getvalue()


FILES = {kind: encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")}


@dataclass(frozen=True)
class Streamed:
    """Through `Classifier.stream`."""

    throughput: bool
    crops: Literal[1, 10] = 1

    def __call__(self, contents: list[bytes]) -> Iterable[BaseException | None]:
        pictures = [Picture(str(number), content) for number, content in enumerate(contents)]
        classifier = Classifier(CLASSIFIER.runtime, throughput=self.throughput)
        return [answer.error for answer in classifier.stream(iter(pictures), crops=self.crops)]


def viewed(contents: list[bytes]) -> Iterable[BaseException | None]:
    found = [CLASSIFIER.views(Picture("picture", content)) for content in contents]
    return [item for item in found if isinstance(item, BaseException)]


def evaluated(contents: list[bytes]) -> Iterable[BaseException | None]:
    samples = [Sample(str(number), 0, lambda content=content: content) for number, content in enumerate(contents)]  # type: ignore[misc]
    predictor = Predictor((Member(0),), np.zeros(len(samples), np.int64))
    dataset, record = Dataset("damaged", ("0",), samples, "given"), Record(1, len(samples))
    _, unreadable = run(
        dataset, [LocalScorer(CLASSIFIER, "1-crop")], [predictor], record, lanes=1, batch_size=8, skip=True
    )
    return [item.error for item in unreadable]


def held(error: BaseException) -> list[object]:
    return [error.__traceback__, error.__cause__, error.__context__]


WAYS: dict[str, Keep] = {
    "stream": Streamed(False),
    "throughput": Streamed(True),
    "ten crops": Streamed(False, 10),
    "views": viewed,
    "evaluation": evaluated,
}


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(sorted(FILES)),
    way=st.sampled_from(sorted(WAYS)),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=6),
)
def test_a_kept_error_holds_nothing(kind: str, way: str, cuts: list[float], flips: list[tuple[float, int]]) -> None:
    contents = []
    for cut in cuts:
        content = bytearray(FILES[kind] + bytes(1000))
        for place, change in flips:
            content[int(place * len(content))] ^= change
        contents.append(bytes(content[: int(cut * len(content))]) + b"\0\0")
    before = [sys.getrefcount(content) for content in contents]
    kept = [error for error in WAYS[way](contents) if error]
    gc.collect()
    assert [sys.getrefcount(content) for content in contents] == before
    assert all(held(error) == [None] * 3 for error in kept)


def test_an_error_of_the_service_holds_nothing() -> None:
    import asyncio

    async def failing() -> list[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        try:
            raise PictureError("damaged") from ValueError("bytes")
        except PictureError as error:
            future.set_exception(error)
        return list(await gather([future]))  # type: ignore[list-item]

    (error,) = asyncio.run(failing())
    assert isinstance(error, PictureError)
    assert held(error) == [None] * 3


@pytest.mark.parametrize("crops", [1, 10])
def test_the_error_that_classify_raises_is_whole(crops: Literal[1, 10]) -> None:
    with pytest.raises(Exception, match=r"^picture: ") as raised, suppress(ZeroDivisionError):
        CLASSIFIER.classify(b"\xff\xd8\xff" + bytes(100), crops=crops)
    assert raised.value.__traceback__


def test_an_error_that_classify_raises_holds_no_picture() -> None:
    contents = [b"\xff\xd8\xff" + bytes([number]) * 100 for number in range(3)]
    before = [sys.getrefcount(content) for content in contents]
    kept = []
    for number in range(len(contents)):
        try:
            CLASSIFIER.classify(contents[number])
        except PictureError as error:
            kept.append(error)
    gc.collect()
    assert len(kept) == len(contents)
    assert [sys.getrefcount(content) for content in contents] == before
