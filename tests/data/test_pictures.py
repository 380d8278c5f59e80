"""What is taken as an image: the same pixels have the same logits to the bit, whatever they are given as."""

from __future__ import annotations

import io
import json
import mmap
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image, ImageSequence

from resnet_infer import zoo
from resnet_infer.classifier import Answer, Classifier, Picture
from resnet_infer.data.picture_kinds import kind_of
from resnet_infer.data.pictures import Unreadable, picture_of
from resnet_infer.data.preprocess import Pixels
from resnet_infer.errors import PictureError, UsageError
from tests.conftest import PICTURES

PIXELS = np.random.default_rng(1).integers(0, 256, (40, 52, 3), dtype=np.uint8)


def encoded(image: Image.Image | Pixels, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


PNG = encoded(PIXELS)
ONE_AND_TEN: tuple[Literal[1, 10], ...] = (1, 10)


def equal(one: Answer, other: Answer) -> bool:
    assert one.logits is not None
    assert other.logits is not None
    return np.array_equal(one.logits, other.logits)


@pytest.fixture(scope="module")
def classifier() -> Iterator[Classifier]:
    with Classifier(zoo.SMALL, device="cpu", threads=1) as opened:
        yield opened


def spooled() -> Any:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    file.write(PNG)  # the position is at its end
    return file


def zipped_in_memory(folder: Path) -> zipfile.ZipFile:
    with zipped(folder):
        return zipfile.ZipFile(io.BytesIO((folder / "photos.zip").read_bytes()))


def zipped(folder: Path) -> zipfile.ZipFile:
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("in/photo.png", PNG)
    return zipfile.ZipFile(folder / "photos.zip")


def saved(folder: Path) -> Path:
    path = folder / "photo.png"
    path.write_bytes(PNG)
    return path


def mapped(folder: Path) -> mmap.mmap:
    with saved(folder).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class Fspath:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


class Pipe(io.RawIOBase):
    """A stream that cannot seek and gives three bytes at a time."""

    def __init__(self) -> None:
        self._left = PNG

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), 3)
        part, self._left = self._left[:count], self._left[count:]
        buffer[: len(part)] = part
        return len(part)


FORMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bytes": (lambda folder: PNG, "picture"),
    "bytearray": (lambda folder: bytearray(PNG), "picture"),
    "memoryview": (lambda folder: memoryview(PNG), "picture"),
    "text": (lambda folder: str(saved(folder)), "{}/photo.png"),
    "path": (saved, "{}/photo.png"),
    "another path": (lambda folder: Fspath(saved(folder)), "{}/photo.png"),
    "opened image": (lambda folder: Image.open(saved(folder)), "{}/photo.png"),
    "image": (lambda folder: Image.fromarray(PIXELS), "picture"),
    "array": (lambda folder: PIXELS, "picture"),
    "view of an array": (lambda folder: np.asfortranarray(PIXELS[..., ::-1])[..., ::-1], "picture"),
    "read-only array": (lambda folder: np.frombuffer(PIXELS.tobytes(), np.uint8).reshape(PIXELS.shape), "picture"),
    "BytesIO": (lambda folder: io.BytesIO(PNG), "picture"),
    "open file": (lambda folder: saved(folder).open("rb"), "{}/photo.png"),
    "unbuffered file": (lambda folder: saved(folder).open("rb", buffering=0), "{}/photo.png"),
    "spooled file": (lambda folder: spooled(), "picture"),
    "pipe": (lambda folder: Pipe(), "picture"),
    "mapped file": (lambda folder: mapped(folder), "picture"),
    "member": (lambda folder: zipped(folder).open("in/photo.png"), "in/photo.png"),
    "zip path in memory": (lambda folder: zipfile.Path(zipped_in_memory(folder), "in/photo.png"), "in/photo.png"),
    "zip path": (lambda folder: zipfile.Path(zipped(folder), "in/photo.png"), "{}/photos.zip/in/photo.png"),
    "Picture": (lambda folder: Picture("mine", PIXELS), "mine"),
    "Picture of a file": (lambda folder: Picture("mine", str(saved(folder))), "mine"),  # type: ignore[arg-type,unused-ignore]
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("crops", [1, 10])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_pixels_have_the_same_logits(
    form: str, crops: Literal[1, 10], classifier: Classifier, tmp_path: Path
) -> None:
    make, source = FORMS[form]
    expected = classifier.ask(PNG, crops=crops)
    answer = classifier.ask(make(tmp_path), crops=crops)
    assert answer.source == source.format(tmp_path)
    assert answer.logits is not None
    assert answer.logits.dtype == np.float32
    assert answer.logits.shape == (crops, 10)
    np.testing.assert_array_equal(answer.logits, expected.logits)
    assert answer.predictions == expected.predictions
    (streamed,) = classifier.stream(iter([make(tmp_path)]), crops=crops)
    np.testing.assert_array_equal(streamed.logits, expected.logits)
    assert classifier.classify(make(tmp_path), crops=crops) == list(expected.predictions)


def changed() -> Pixels:
    other: Pixels = PIXELS.copy()
    other[20, 20] ^= 1
    return other


def test_another_pixel_has_other_logits(classifier: Classifier) -> None:
    """So that the comparison above would notice."""
    assert not equal(classifier.ask(changed()), classifier.ask(PNG))
    assert not equal(classifier.ask(PIXELS[..., ::-1]), classifier.ask(PNG))


def moded(mode: str) -> Image.Image:
    grey = Image.fromarray(PIXELS[..., 0])
    if mode in ("La", "LA", "PA"):
        return grey.convert("LA").convert(mode)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(Image.fromarray(PIXELS), *profiles, outputMode="LAB") or grey
    if mode.startswith("I;16"):
        return Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    if mode in ("I", "F"):
        return grey.convert(mode)
    if mode in ("RGBA", "RGBa"):
        return Image.fromarray(np.dstack([PIXELS, PIXELS[..., :1]])).convert(mode)
    return Image.fromarray(PIXELS).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
def test_an_image_of_any_mode_is_answered_as_its_file(mode: str, classifier: Classifier) -> None:
    image = moded(mode)
    kind = "TIFF" if mode in ("CMYK", "F", "I", "I;16") else "PNG"
    expected = classifier.ask(encoded(image, kind))
    assert expected.error is None
    np.testing.assert_array_equal(classifier.ask(image).logits, expected.logits)


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "YCbCr", "HSV", "LAB", "RGBX"])
def test_an_image_of_a_mode_that_no_file_has_is_answered(mode: str, classifier: Classifier) -> None:
    image = moded(mode)
    assert image.mode == mode
    assert len(classifier.classify(image)) == 5


def test_grey_pixels_are_those_of_a_grey_file(classifier: Classifier) -> None:
    grey = PIXELS[..., 1]
    np.testing.assert_array_equal(classifier.ask(grey).logits, classifier.ask(encoded(grey)).logits)


def test_a_transparent_colour_is_white_as_in_the_file(classifier: Classifier) -> None:
    image = Image.fromarray((PIXELS > 100).astype(np.uint8) * 255)
    image.info["transparency"] = (255, 0, 0)
    file = encoded(image, transparency=(255, 0, 0))
    np.testing.assert_array_equal(classifier.ask(image).logits, classifier.ask(file).logits)
    assert not equal(classifier.ask(image), classifier.ask(np.asarray(image)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_the_orientation_of_an_image_is_that_of_its_file(turn: int, kind: str) -> None:
    from tests.test_classifier import Quadrants

    tag = Image.Exif()
    tag[274] = turn
    file = encoded(PIXELS, kind, exif=tag)
    obeys, ignores = Classifier(Quadrants(exif=True)), Classifier(Quadrants(exif=False))
    with Image.open(io.BytesIO(file)) as image:
        held = Picture("held", image)
        for one in (obeys, ignores):
            for given in (image, held, pickle.loads(pickle.dumps(held))):
                expected = obeys if kind == "TIFF" else one  # PIL turns it when it loads it
                np.testing.assert_array_equal(one.ask(given).logits, expected.ask(file).logits)
        if kind != "TIFF":
            assert equal(obeys.ask(image), ignores.ask(image)) == (turn == 1)


def test_the_note_on_an_image_is_that_on_its_file(classifier: Classifier) -> None:
    dark = Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16) * 30)
    assert classifier.ask(dark).note == classifier.ask(encoded(dark)).note
    with pytest.warns(UserWarning, match="picture: its 16-bit samples use only"):
        classifier.classify(dark)


# Several


def test_several_images_have_several_answers(classifier: Classifier) -> None:
    one, two = classifier.classify(PIXELS), classifier.classify(changed())
    for given in ([PIXELS, changed()], (PNG, changed()), np.stack([PIXELS, changed()])):
        assert classifier.classify(given) == [one, two]
    assert classifier.classify([PIXELS]) == [one] == classifier.classify(PIXELS[None])
    answers = list(classifier.stream(np.stack([PIXELS, changed()])))
    assert [answer.source for answer in answers] == ["pictures[0]", "pictures[1]"]
    names = np.array([str(PICTURES / "cat.jpg"), str(PICTURES / "ship.jpg")])
    assert [answer.predictions[0].label for answer in classifier.stream(names)] == ["cat", "ship"]


def test_a_source_may_use_its_memory_and_its_files_again(classifier: Classifier, tmp_path: Path) -> None:
    frames = [np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8) for number in range(40)]
    expected = [classifier.ask(frame).logits for frame in frames]

    def camera() -> Iterator[Any]:
        buffer = np.empty_like(frames[0])
        for frame in frames:
            buffer[:] = frame
            yield buffer

    def files() -> Iterator[Any]:
        for frame in frames:
            with io.BytesIO(encoded(frame)) as file:
                yield file

    first, *others = map(Image.fromarray, frames)
    film = encoded(first, "PNG", save_all=True, append_images=others)
    sources = (camera(), files(), ImageSequence.Iterator(Image.open(io.BytesIO(film))))
    for source in sources:
        for answer, logits in zip(classifier.stream(source), expected, strict=True):
            np.testing.assert_array_equal(answer.logits, logits)


def test_one_of_several_that_cannot_be_read_is_named(classifier: Classifier, tmp_path: Path) -> None:
    closed = io.BytesIO(PNG)
    closed.close()
    cut = Image.open(io.BytesIO(PNG[:2000]))
    member = zipfile.Path(zipped(tmp_path), "in/none.png")
    given: list[Any] = [PIXELS, b"text", closed, cut, member, tmp_path, PNG]
    answers = list(classifier.stream(given))
    assert [answer.error is None for answer in answers] == [True, False, False, False, False, False, True]
    messages = [str(answer.error) for answer in answers if answer.error]
    assert messages[0].startswith("pictures[1]: unsupported: text")
    assert "pictures[2]: it cannot be read (I/O operation on closed file" in messages[1]
    assert messages[2].startswith("pictures[3]: it cannot be read (")
    assert messages[3].startswith(f"{tmp_path}/photos.zip/in/none.png: ")
    assert "hint: give the files in it" in messages[4]
    assert all(answer.error is None or answer.error.__traceback__ is None for answer in answers)
    for item, kept in zip(given, answers, strict=True):
        alone = classifier.ask(item)  # which names it "picture" where it has no name
        assert type(alone.error) is type(kept.error)
        assert str(alone.error) == str(kept.error).replace(f"{kept.source}: ", f"{alone.source}: ")
    with pytest.raises(PictureError, match=r"^pictures\[1\]: unsupported"):
        classifier.classify(given)
    for folder in (zipfile.Path(zipped(tmp_path), "in/"), tmp_path):
        with pytest.raises(PictureError, match=r"directory\n  hint: give the files in it"):
            classifier.classify(folder)


# Refusals

WRONG: list[tuple[Any, str]] = [
    (None, "None is no picture"),
    (3, "3 is no picture"),
    ([], "an empty list has no pictures"),
    ((), "an empty tuple has no pictures"),
    (PIXELS[None][:0], r"an array of uint8 \(0, 40, 52, 3\) has no pictures"),
    ([[PNG]], "a list is no picture.*\n.*flat list"),
    (iter([PNG]), "a list_iterator is no picture.*\n.*`stream`"),
    ({PNG}, "a set is no picture.*\n.*give a list"),
    (PIXELS / 255, r"uint8, not an array of float64 \(40, 52, 3\)\n.*255 \* array"),
    (PIXELS.astype(np.uint16), r"not an array of uint16.*\n.*array >> 8"),
    (PIXELS > 3, r"not an array of bool.*\n.*255 \* array.astype"),
    (PIXELS.transpose(2, 0, 1), r"not an array of uint8 \(3, 40, 52\)\n.*transpose\(1, 2, 0\)"),
    (np.dstack([PIXELS, PIXELS[..., :1]]), r"\(40, 52, 4\)\n.*opacity"),
    (PIXELS[..., :1], r"\(40, 52, 1\)\n.*grey: array\[..., 0\]"),
    (PIXELS[0, 0], r"not an array of uint8 \(3,\)"),
    (PIXELS[:0], r"not an array of uint8 \(0, 52, 3\)"),
    ([PIXELS[None]], r"not an array of uint8 \(1, 40, 52, 3\)\n.*not in a list"),
    (np.array(["a.jpg"]), r"not an array of <U5 \(1,\)\n.*classify\(list\(array\)\)"),
    (np.array([Path("a.jpg")]), r"not an array of object \(1,\)\n.*classify\(list\(array\)\)"),
    (PIXELS.transpose(2, 0, 1)[None], r"\(1, 3, 40, 52\)\n.*array.transpose\(0, 2, 3, 1\)"),
    ("", "path of a picture is empty"),
    ("x" * 5000, r"a text of 5,000 characters is no path\n.*base64"),
    (io.StringIO("text"), r"a StringIO reads text\n.*\"rb\""),
    (pytest, "a module is no picture"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_picture_is_refused_by_name(wrong: Any, message: str, classifier: Classifier) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        classifier.classify(wrong)
    assert len(str(raised.value)) < 300
    if not isinstance(wrong, (list, tuple)) and not (isinstance(wrong, np.ndarray) and wrong.ndim == 4):
        with pytest.raises(UsageError, match=message):
            Picture("name", wrong)
        answers: list[Any] = []
        with pytest.raises(UsageError, match=message):
            answers.extend(classifier.stream([PNG, wrong]))
        assert len(answers) <= 1


def test_a_wrong_item_is_named_by_its_place(classifier: Classifier) -> None:
    three: Any = 3
    for given in ([PNG, three], iter([PNG, three])):
        with pytest.raises(UsageError, match=r"^pictures\[1\]: 3 is no picture") as raised:
            list(classifier.stream(given))
        assert raised.value.source == "pictures[1]"
    with pytest.raises(UsageError, match=r"^pictures\[1\]: an array of one picture"):
        classifier.classify([PNG, PIXELS[0, 0]])
    with pytest.raises(UsageError, match=r"^3 is no picture"):
        classifier.classify(three)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("~/cat.jpg", f"nothing here does: {Path.home() / 'cat.jpg'}"),
        ("photos/*.jpg", "sorted(Path('photos').glob('*.jpg'))"),
        ("*.jpg", "sorted(Path('.').glob('*.jpg'))"),
    ],
)
def test_a_path_that_was_not_resolved_says_how(path: str, hint: str, classifier: Classifier) -> None:
    with pytest.raises(PictureError) as raised:
        classifier.classify(path)
    assert hint in str(raised.value.hint)


class Upload:
    """As that of an ASGI framework."""

    async def read(self, size: int = -1) -> bytes:
        return PNG


def test_an_asynchronous_file_is_refused(classifier: Classifier) -> None:
    with pytest.raises(UsageError, match=r"`read` of a.*Upload is asynchronous\n.*await file.read"):
        classifier.classify(Upload())  # type: ignore[call-overload]


@pytest.mark.parametrize("single", ["a.jpg", Path("a.jpg"), PNG, PIXELS, Image.fromarray(PIXELS), Picture("a", PNG)])
def test_a_stream_of_a_single_picture_is_refused(single: Any, classifier: Classifier) -> None:
    for given in (single, io.BytesIO(PNG)):
        with pytest.raises(UsageError, match=r"takes several pictures, not .*\n.*`classify`"):
            classifier.stream(given)
    for nothing in (None, 3):
        with pytest.raises(UsageError, match=r"takes several pictures, not .*\n.*iterable"):
            classifier.stream(nothing)  # type: ignore[arg-type]


def test_a_web_address_is_refused(classifier: Classifier) -> None:
    with pytest.raises(PictureError, match=r"^https://a.example/cat.jpg: pictures are not fetched.*\n.*urlopen"):
        classifier.classify("https://a.example/cat.jpg")


def test_a_picture_is_named_by_a_text() -> None:
    with pytest.raises(UsageError, match="the source of a picture is its name, a text, not None"):
        Picture(None, PNG)  # type: ignore[arg-type]


def test_an_image_of_too_many_pixels_is_refused(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_infer.data.picture_kinds.MAX_PIXELS", 100)
    with pytest.raises(PictureError, match="picture: 20x20 pixels are more than the limit of 100"):
        classifier.classify(Image.new("RGB", (20, 20)))
    found = classifier.views(Picture("held", PIXELS), max_pixels=100)
    assert isinstance(found, PictureError)
    assert str(found) == "held: 52x40 pixels are more than the limit of 100"


# What a picture shows of itself


def test_a_picture_is_shown_without_its_content(tmp_path: Path) -> None:
    shown = {
        Picture("a", PNG): (f"Picture('a', {len(PNG):,} bytes)", {"source": "a", "bytes": len(PNG)}),
        Picture("b", Path("b.jpg")): ("Picture('b', 'b.jpg')", {"source": "b", "path": "b.jpg"}),
    }
    for picture, (text, document) in shown.items():
        assert repr(picture) == text
        assert json.loads(json.dumps(picture.to_json())) == document
    pixels = Picture("c" * 5000, PIXELS)
    assert repr(pixels).endswith("...{}', 52x40 pixels)".format("c" * 100))
    assert pixels.to_json() == {"source": "c" * 5000, "width": 52, "height": 40}
    assert Picture("a", PNG) == Picture("a", bytearray(PNG)) != Picture("b", PNG)
    assert Picture("a", PIXELS) == Picture("a", PIXELS.copy()) != Picture("a", changed())
    assert len({Picture("a", PIXELS), Picture("a", PIXELS.copy()), Picture("a", PNG)}) == 2


def test_kinds_are_named() -> None:
    things: list[Any] = [None, [], {}, b"x", 1.5, Path]
    assert [kind_of(item) for item in things] == [*("None", "an empty list", "an empty dict", "bytes", "1.5", "a type")]


def test_what_cannot_be_read_keeps_its_place() -> None:
    closed = io.BytesIO()
    closed.close()
    found = picture_of(closed)
    assert isinstance(found, Unreadable)
    assert picture_of(found) is found
