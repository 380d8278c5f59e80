"""`Classifier`: every picture its answer, in order, whatever the batches, the crops and the neighbours."""

from __future__ import annotations

import io
import itertools
import json
import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

import resnet_infer
from resnet_infer import zoo
from resnet_infer.classifier import Answer, Classifier, Picture, softmax
from resnet_infer.data.preprocess import Pixels
from resnet_infer.errors import ModelError, PictureError, RuntimeUnavailableError, UsageError
from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime
from tests.conftest import PICTURES

DEMO = {"airplane.jpg": "airplane", "car.jpg": "automobile", "cat.jpg": "cat", "ship.jpg": "ship"}
ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")


class Quadrants(Runtime):
    """Four classes: a logit is the red of a quadrant. It remembers how many rows came at a time."""

    name = "quadrants"

    def __init__(self, *, ids: bool = False, **geometry: Any) -> None:
        shape = {"resize": 8, "crop": 8, "mean": np.zeros(3), "std": np.ones(3), **geometry}
        names = ("top left", "top right", "bottom left", "bottom right")
        class_ids = ("n01", "n02", "n03", "n04") if ids else None
        super().__init__(ModelSpec("stub", None, names, InputSpec(**shape), class_ids=class_ids), "cpu", (None, None))
        self.rows: list[int] = []
        self.closed = False

    def _run(self, images: Images) -> Logits:
        self.rows.append(len(images))
        red, half = images[..., 0].astype(np.float32) / 16, images.shape[1] // 2
        parts = [red[:, a, b] for a in (np.s_[:half], np.s_[half:]) for b in (np.s_[:half], np.s_[half:])]
        return np.stack([part.mean(axis=(1, 2)) for part in parts], axis=1)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def classifier() -> Iterator[Classifier]:
    with Classifier(ARTIFACT, device="cpu") as opened:
        yield opened


def png(pixels: Pixels, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def noise(seed: int, height: int = 12, width: int = 15) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


GOOD = [Picture(f"good {i}", png(noise(i))) for i in range(6)]
BAD = [Picture("empty", b""), Picture("text", b"no picture"), Picture("nowhere", Path("no", "such", "picture.jpg"))]


# One picture


@pytest.mark.parametrize(("file", "label"), DEMO.items())
def test_the_pictures_are_recognised(classifier: Classifier, file: str, label: str) -> None:
    assert classifier.classify(PICTURES / file)[0].label == label


def test_a_path_a_string_and_bytes_are_answered_alike(classifier: Classifier) -> None:
    path = PICTURES / "cat.jpg"
    expected = classifier.classify(path)
    assert classifier.classify(str(path)) == classifier.classify(path.read_bytes()) == expected


def test_predictions_are_ranked_probabilities_of_the_classes(classifier: Classifier) -> None:
    names = classifier.spec.classes
    found = classifier.classify(PICTURES / "ship.jpg", top_k=10**6)
    assert sorted(item.label for item in found) == sorted(names)
    assert [item.label for item in found] == [names[item.index] for item in found]
    assert sum(item.probability for item in found) == pytest.approx(1)
    assert [item.probability for item in found] == sorted((item.probability for item in found), reverse=True)
    for top_k in (1, 3):
        assert classifier.classify(PICTURES / "ship.jpg", top_k=top_k) == found[:top_k]


def test_class_ids_stand_beside_the_labels_and_ties_go_to_the_first_class() -> None:
    grey = png(np.full((8, 8, 3), 99, np.uint8))
    with Classifier(Quadrants(ids=True)) as classifier:
        found = classifier.classify(grey)
    assert [(item.index, item.id, item.probability) for item in found] == [(i, f"n0{i + 1}", 0.25) for i in range(4)]
    assert Classifier(Quadrants()).classify(grey)[0].id is None


def test_the_runtime_is_closed_with_the_classifier() -> None:
    runtime = Quadrants()
    with Classifier(runtime):
        assert not runtime.closed
    assert runtime.closed


def test_the_package_offers_the_classifier() -> None:
    assert resnet_infer.Classifier is Classifier
    with resnet_infer.Classifier() as default:
        assert default.classify(PICTURES / "cat.jpg", top_k=1)[0].label == "cat"


# Geometry


def test_ten_crops_are_the_mean_of_ten_probabilities(classifier: Classifier) -> None:
    """The ten views (paper, section 3.4), cut and averaged here one by one."""
    spec = classifier.spec.input
    with Image.open(PICTURES / "airplane.jpg") as photo:
        wide = photo.convert("RGB").crop((0, 0, photo.width, photo.height // 2))
    ratio = spec.resize / min(wide.size)
    size = (int(wide.width * ratio), spec.resize)
    pixels = np.asarray(wide.resize(size, Image.Resampling[spec.interpolation.upper()]))
    height, width = pixels.shape[:2]
    assert width > spec.crop
    middle = (round((height - spec.crop) / 2), round((width - spec.crop) / 2))
    places = [(y, x) for y in (0, height - spec.crop) for x in (0, width - spec.crop)] + [middle]
    probabilities = []
    for view in (pixels, pixels[:, ::-1]):
        for y, x in places:
            (logits,) = classifier.runtime(view[None, y : y + spec.crop, x : x + spec.crop]).astype(np.float64)
            exponentials = np.exp(logits - logits.max())
            probabilities.append(exponentials / exponentials.sum())
    expected = np.mean(probabilities, axis=0)
    source = png(np.asarray(wide))
    found = {item.index: item.probability for item in classifier.classify(source, crops=10, top_k=len(expected))}
    assert [found[i] for i in range(len(expected))] == pytest.approx(expected, abs=1e-5)
    one = {item.index: item.probability for item in classifier.classify(source, top_k=len(expected))}
    assert [one[i] for i in range(len(expected))] == pytest.approx(probabilities[4], abs=1e-5)
    assert one != pytest.approx(found, abs=1e-3)


@pytest.mark.parametrize("crops", [1, 10])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_spec_says_whether_exif_is_obeyed(orientation: int, crops: Literal[1, 10]) -> None:
    tag = Image.Exif()
    tag[274] = orientation
    pixels = noise(3, 16, 10)
    tagged = png(pixels, exif=tag)
    with Image.open(io.BytesIO(tagged)) as photo:
        turned = png(np.asarray(ImageOps.exif_transpose(photo)))
    obeys, ignores = Classifier(Quadrants(exif=True)), Classifier(Quadrants(exif=False))
    assert obeys.classify(tagged, crops=crops) == obeys.classify(turned, crops=crops)
    assert ignores.classify(tagged, crops=crops) == ignores.classify(png(pixels), crops=crops)
    if crops == 1:
        assert (obeys.classify(tagged) == ignores.classify(tagged)) == (orientation == 1)


def test_a_picture_too_narrow_to_resize_is_refused_before_it_fills_the_memory() -> None:
    line = png(np.zeros((1, 60_000, 3), np.uint8))
    with pytest.raises(PictureError, match=r"^picture: 60000x1 pixels are too narrow"):
        Classifier(Quadrants(resize=256, crop=224)).classify(line)
    assert Classifier(Quadrants()).classify(line)


# Many pictures


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    chosen=st.lists(st.sampled_from([*GOOD, *BAD]), max_size=30),
    batch_size=st.integers(1, 64),
    crops=st.sampled_from([1, 10]),
    throughput=st.booleans(),
    workers=st.integers(1, 3),
)
def test_answers_do_not_depend_on_batches_or_neighbours(
    chosen: list[Picture], batch_size: int, crops: Literal[1, 10], throughput: bool, workers: int
) -> None:
    runtime = Quadrants()
    classifier = Classifier(runtime, throughput=throughput)
    answers = list(classifier.stream(chosen, crops=crops, batch_size=batch_size, workers=workers))
    rows, runtime.rows = runtime.rows, []
    assert [answer.source for answer in answers] == [picture.source for picture in chosen]
    for picture, answer in zip(chosen, answers, strict=True):
        if picture in BAD:
            assert answer.predictions == ()
            assert str(answer.error).startswith(str(picture.source))
        else:
            assert isinstance(picture.content, bytes)
            alone = classifier.classify(picture.content, crops=crops)
            assert [item.label for item in answer.predictions] == [item.label for item in alone]
            assert [item.probability for item in answer.predictions] == pytest.approx(
                [item.probability for item in alone]
            )
    assert max(rows, default=0) <= max(batch_size, crops)
    assert sum(rows) == crops * sum(picture in GOOD for picture in chosen)


@pytest.mark.parametrize("throughput", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_real_model_answers_alike_in_any_batch(
    classifier: Classifier, photos: Callable[..., NDArray[np.uint8]], batch_size: int, throughput: bool
) -> None:
    pictures = [Picture(str(i), png(pixels)) for i, pixels in enumerate(photos(20, 40))]
    pictures.insert(9, BAD[0])
    with Classifier(ARTIFACT, device="cpu", throughput=throughput) as other:
        found = list(other.stream(pictures, batch_size=batch_size))
    expected = [answer for picture in pictures for answer in classifier.stream([picture])]
    for one, alone in zip(found, expected, strict=True):
        assert (one.source, one.error is None) == (alone.source, alone.error is None)
        probabilities = {item.label: item.probability for item in alone.predictions}
        assert {item.label: item.probability for item in one.predictions} == pytest.approx(probabilities, abs=1e-5)


def test_batches_are_filled() -> None:
    runtime = Quadrants()
    pictures = [*GOOD, BAD[0], *GOOD, *BAD, *GOOD]
    assert len(list(Classifier(runtime).stream(pictures, batch_size=7))) == len(pictures)
    assert runtime.rows == [7, 7, 4]


@pytest.mark.parametrize(("crop", "count", "expected"), [(8, 600, 32), (112, 600, 32), (224, 200, 8), (900, 6, 1)])
def test_lanes_take_no_larger_batches_than_are_of_use(crop: int, count: int, expected: int) -> None:
    runtime = Quadrants(resize=crop, crop=crop)
    classifier = Classifier(runtime, throughput=True)
    classifier.lanes = 2
    list(classifier.stream([GOOD[0]] * count, batch_size=32))
    assert max(runtime.rows) == expected
    assert sum(runtime.rows) == count


@pytest.mark.parametrize("picture", [GOOD[0], BAD[1]])
@pytest.mark.parametrize("throughput", [False, True])
def test_an_endless_stream_is_answered_with_bounded_memory(picture: Picture, throughput: bool) -> None:
    """Also one in which nothing can be read."""
    taken = 0

    def endless() -> Iterator[Picture]:
        nonlocal taken
        while True:
            taken += 1
            yield picture

    classifier = Classifier(Quadrants(), throughput=throughput)
    before = threading.active_count()
    stream = classifier.stream(endless(), batch_size=4)
    margin = 60 * classifier.lanes
    for count, answer in enumerate(itertools.islice(stream, 200), start=1):
        assert (answer.error is None) == (picture in GOOD)
        assert taken - count <= margin
    stream.close()
    assert threading.active_count() == before


def test_errors_of_the_runtime_are_not_swallowed() -> None:
    class Broken(Quadrants):
        def _run(self, images: Images) -> Logits:
            raise MemoryError("out of memory")

    with pytest.raises(MemoryError):
        list(Classifier(Broken()).stream(GOOD * 3, batch_size=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"top_k": 0}, {"crops": 5}, {"crops": 0}])
def test_a_stream_that_makes_no_sense_is_a_usage_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        list(Classifier(Quadrants()).stream(GOOD, **wrong))


def test_a_picture_that_cannot_be_read_is_raised_by_classify_and_told_by_stream(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes((PICTURES / "cat.jpg").read_bytes()[:3000])
    classifier = Classifier(Quadrants())
    with pytest.raises(PictureError, match=r"broken\.jpg: damaged or truncated JPEG"):
        classifier.classify(path)
    (answer,) = classifier.stream([Picture("mine", path)])
    assert isinstance(answer.error, PictureError)
    assert json.loads(json.dumps(answer.to_json())) == {"source": "mine", "error": answer.error.message}


def test_an_answer_notes_a_picture_that_can_hardly_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "dark.png"
    Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16) * 30).save(path)
    classifier = Classifier(Quadrants())
    plain, noted = classifier.stream([GOOD[0], Picture("dark", path)])
    assert plain.note is None
    assert "note" not in plain.to_json()
    assert noted.to_json()["note"] == noted.note
    assert "16-bit samples use only" in str(noted.note)
    with pytest.warns(UserWarning, match=r"dark\.png: its 16-bit samples use only"):
        classifier.classify(path)


def test_an_answer_is_plain_json() -> None:
    (answer,) = Classifier(Quadrants(ids=True)).stream([GOOD[0]], top_k=1)
    (item,) = answer.predictions
    assert json.loads(json.dumps(answer.to_json())) == {
        "source": "good 0",
        "predictions": [{"label": item.label, "probability": item.probability, "index": item.index, "id": item.id}],
    }
    assert answer == Answer("good 0", (item,))


# Which runtime


def test_torch_takes_the_checkpoint_itself(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="the extra `train`")
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    expected = {item.label: item.probability for item in classifier.classify(PICTURES / "cat.jpg")}
    for model in (None, zoo.SMALL, zoo.built_in(zoo.SMALL, ".safetensors")):
        with Classifier(model, runtime="torch", device="cpu") as other:
            assert other.runtime.name == "torch"
            found = {item.label: item.probability for item in other.classify(PICTURES / "cat.jpg")}
        assert found == pytest.approx(expected, abs=1e-4)
    assert not (tmp_path / "cache").exists()
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ModelError, match="is an artifact already"):
        Classifier(ARTIFACT, runtime="torch")


def test_throughput_gives_every_batch_its_own_thread() -> None:
    with Classifier(ARTIFACT, device="cpu", throughput=True) as many:
        assert many.runtime.describe()["threads"] == 1
        assert many.lanes >= 1
    with Classifier(ARTIFACT, device="cpu") as one:
        assert one.lanes == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"runtime": "onnx"}, UsageError),
        ({"device": "cdua"}, UsageError),
        ({"model": "resnet20-cifra10"}, ModelError),
        ({"device": "cuda:77"}, RuntimeUnavailableError),
    ],
)
def test_what_is_named_is_used_or_refused(options: dict[str, Any], error: type[Exception]) -> None:
    if options.get("device") == "cuda:77":
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("CUDA is here")
    with pytest.raises(error):
        Classifier(**options)


@given(
    st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5), min_size=1, max_size=4),
    st.sampled_from([-2048.0, 0.0, 2048.0]),
)
def test_softmax_is_a_distribution_that_a_shift_does_not_change(rows: list[list[float]], shift: float) -> None:
    logits = np.array(rows, np.float32)
    found = softmax(logits)
    assert found.dtype == np.float64
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(-1), 1)
    np.testing.assert_allclose(softmax(logits + np.float32(shift)), found, atol=1e-2)
    for row, probabilities in zip(logits.astype(np.longdouble), found, strict=True):
        exact = np.exp(row - row.max())
        np.testing.assert_allclose(probabilities, (exact / exact.sum()).astype(np.float64), atol=1e-12)


def test_a_runtime_that_is_open_takes_no_options() -> None:
    runtime = Classifier().runtime
    for options in ({"device": "cpu"}, {"threads": 1}, {"runtime": "torch"}, {"spin": False}):
        with pytest.raises(UsageError, match="already has its device"):
            Classifier(runtime, **options)
    with pytest.raises(UsageError, match="threads is a whole one from 1"):
        Classifier(threads=0)


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(0, 40),
    batch_size=st.integers(1, 40),
    crops=st.sampled_from([1, 10]),
    throughput=st.booleans(),
    workers=st.integers(1, 3),
)
def test_answers_before_an_error_of_the_source_are_given_before_it(
    count: int, batch_size: int, crops: Literal[1, 10], throughput: bool, workers: int
) -> None:
    pictures = [[*GOOD, *BAD][number % 9] for number in range(count)]

    def source() -> Iterator[Picture]:
        yield from pictures
        raise OSError("the bucket is gone")

    stream = Classifier(Quadrants(), throughput=throughput).stream(
        source(), crops=crops, batch_size=batch_size, workers=workers
    )
    answers: list[Any] = []
    with pytest.raises(OSError, match="the bucket is gone"):
        answers.extend(stream)
    assert [answer.source for answer in answers] == [picture.source for picture in pictures]


@pytest.mark.parametrize("crops", [1, 10])
@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("throughput", [False, True])
def test_a_source_may_wait_for_each_answer(throughput: bool, batch_size: int, crops: Literal[1, 10]) -> None:
    asked: queue.Queue[Picture | None] = queue.Queue()
    pictures = [[*GOOD, *BAD][number % 9] for number in range(12)]
    asked.put(pictures[0])
    classifier = Classifier(Quadrants(), throughput=throughput)
    answers = []
    for answer in classifier.stream(iter(partial(asked.get, timeout=20), None), crops=crops, batch_size=batch_size):
        answers.append(answer)
        asked.put(pictures[len(answers)] if len(answers) < len(pictures) else None)
    whole = list(classifier.stream(pictures, crops=crops, batch_size=batch_size))
    assert [answer.source for answer in answers] == [answer.source for answer in whole]
    assert [answer.to_json() for answer in answers] == [answer.to_json() for answer in whole]


@pytest.mark.parametrize("counts", [(1, 3), (1, 10), (10, 1, 1), (2, 2, 1), (0, 1), (0, 0)])
def test_views_of_pictures_are_averaged_over_one_picture_only(counts: tuple[int, ...]) -> None:
    classifier = Classifier(Quadrants())
    views = [
        np.stack([noise(10 * number + view, 8, 8) for view in range(count)] or [noise(0, 8, 8)])[:count]
        for number, count in enumerate(counts)
    ]
    with pytest.raises(UsageError, match="same number of views"):
        classifier.probabilities(views)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_as_many_views_of_each_picture_give_what_each_gives_alone(count: int) -> None:
    classifier = Classifier(Quadrants())
    views = [np.stack([noise(10 * number + view, 8, 8) for view in range(count)]) for number in range(4)]
    alone = np.concatenate([classifier.probabilities([item]) for item in views])
    assert classifier.probabilities(views) == pytest.approx(alone)
    assert classifier.probabilities([]).shape == (0, 4)


def test_a_picture_has_one_view_or_ten() -> None:
    with pytest.raises(UsageError, match="crops is 1 or 10, not 3"):
        Classifier(Quadrants()).views(GOOD[0], 3)  # type: ignore[arg-type]


def test_an_artifact_that_answers_with_another_number_of_rows_is_refused() -> None:
    class Short(Quadrants):
        def _run(self, images: Images) -> Logits:
            return super()._run(images)[1:]

    with pytest.raises(
        ModelError, match=r"answered 2 pictures with float32 of shape \(1, 4\), and its spec names 4 classes"
    ):
        list(Classifier(Short()).stream(GOOD[:2]))
