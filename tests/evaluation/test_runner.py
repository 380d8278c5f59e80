"""Every picture is counted once, and rightly, whatever the batches, lanes, workers, protocols and neighbours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_infer.classifier import Classifier
from resnet_infer.data.damaged import NAMED
from resnet_infer.data.datasets import Content, Dataset, Sample
from resnet_infer.errors import PictureError
from resnet_infer.evaluation.evaluate import same_content
from resnet_infer.evaluation.record import Record
from resnet_infer.evaluation.result import Answers, Rate
from resnet_infer.evaluation.runner import Member, Predictor, Seconds, Unreadable, run
from resnet_infer.evaluation.scorer import LocalScorer
from resnet_infer.runtimes.base import Images, Logits
from resnet_infer.zoo import SMALL
from tests.evaluation.conftest import Reds, plain_picture

Make = Callable[..., Dataset]


def measure(
    dataset: Dataset, scorers: Sequence[LocalScorer], *, lanes: int = 1, batch_size: int = 32, **options: Any
) -> tuple[Record, Seconds, list[Unreadable]]:
    """Each scorer as a predictor of its own, whose classes are the data's."""
    labels = np.array([sample.label for sample in dataset.samples], np.int64)
    predictors = [Predictor((Member(number),), labels) for number in range(len(scorers))]
    record = options.pop("record", None) or Record(len(scorers), len(dataset.samples))
    seconds, unreadable = run(
        dataset, scorers, predictors, record, lanes=lanes, batch_size=max(batch_size, 10), **options
    )
    return record, seconds, unreadable


def scorer(protocol: str = "1-crop", **options: Any) -> LocalScorer:
    return LocalScorer(Classifier(Reds(**options)), protocol, scales=(8, 12) if protocol == "multi-scale" else None)


def broken() -> Content:
    raise PictureError("broken.jpg: damaged")


# Counting


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=70),
    lanes=st.integers(1, 4),
    batch_size=st.integers(1, 64),
    workers=st.integers(1, 5),
    protocols=st.lists(st.sampled_from(["native", "1-crop", "10-crop", "multi-scale"]), min_size=1, max_size=3),
)
def test_every_picture_is_counted_once(
    make_dataset: Make,
    pairs: list[tuple[int, int]],
    lanes: int,
    batch_size: int,
    workers: int,
    protocols: list[str],
) -> None:
    answers, labels = map(list, zip(*pairs, strict=True))
    dataset = make_dataset(answers, labels)
    scorers = [scorer(protocol) for protocol in protocols]
    kept: list[int] = []
    record, seconds, _ = measure(
        dataset,
        scorers,
        lanes=lanes,
        batch_size=batch_size,
        workers=workers,
        keep=lambda index, digest, given: kept.append(index),
    )
    assert kept == list(range(len(pairs)))
    assert seconds.pictures == len(pairs)
    for number in range(len(scorers)):
        found = Answers.of(record, number, np.array(labels))
        assert found.pictures.tolist() == kept
        assert found.top1.tolist() == answers
        assert found.right.tolist() == [answer == label for answer, label in pairs]
        assert (found.ranks < 12).all()


def test_five_wrong_of_forty(make_dataset: Make) -> None:
    labels = [number % 12 for number in range(40)]
    answers = [label if number % 8 else (label + 1) % 12 for number, label in enumerate(labels)]
    record, _, _ = measure(make_dataset(answers, labels), [scorer()])
    found = Answers.of(record, 0, np.array(labels))
    rate = Rate(int((~found.right).sum()), len(found.right))
    assert (rate.wrong, rate.total, rate.error) == (5, 40, 12.5)
    assert rate.interval[0] < 12.5 < rate.interval[1]


# Negative controls


@pytest.fixture
def right(make_dataset: Make) -> Dataset:
    """Sixty pictures, all answered rightly."""
    labels = sorted(number % 12 for number in range(60))
    return make_dataset(labels, labels)


def wrong(dataset: Dataset) -> int:
    record, _, _ = measure(dataset, [scorer()])
    return int((record.ranks[0] > 0).sum())


def test_shuffled_labels_change_the_count_as_expected(right: Dataset) -> None:
    assert wrong(right) == 0
    labels = [sample.label for sample in right.samples]
    shuffled = np.random.default_rng(0).permutation(labels)
    samples = [replace(sample, label=int(label)) for sample, label in zip(right.samples, shuffled, strict=True)]
    assert wrong(replace(right, samples=samples)) == int((shuffled != labels).sum()) > 50


def test_classes_in_the_order_of_text_change_the_count_as_expected(right: Dataset) -> None:
    """10 classes of 12 have changed places, which `map_classes` and `sanity_checks` are there for."""
    as_text = sorted(right.classes)
    samples = [replace(sample, label=as_text.index(right.classes[sample.label])) for sample in right.samples]
    assert wrong(replace(right, samples=samples)) == 50


def test_a_picture_that_is_there_twice_is_counted_twice_and_told(right: Dataset) -> None:
    again = Sample("11/again.png", 11, right.samples[-1].read)
    other = Sample("11/other.png", 11, lambda: plain_picture(3))
    record, _, _ = measure(replace(right, samples=[*right.samples, again, other]), [scorer()])
    assert record.answered.sum() == 62
    assert (record.ranks[0] > 0).sum() == 1
    assert record.same_digest() == [[59, 60]]
    assert measure(right, [scorer()])[0].same_digest() == []


def test_only_the_same_bytes_are_a_duplicate() -> None:
    def gone() -> Content:
        raise PictureError("gone")

    contents = [lambda: b"a", lambda: b"b", lambda: b"a", gone, lambda: b"b", lambda: b"c"]
    samples = [Sample(str(number), 0, read) for number, read in enumerate(contents)]
    found = same_content(Dataset("", ("x",), samples, "given"), [[0, 1, 2, 3, 4], [5]])
    assert found == [[0, 2], [1, 4]]


def test_answers_that_are_no_numbers_count_as_wrong(right: Dataset) -> None:
    class Overflowing(Reds):
        def _run(self, images: Images) -> Logits:
            logits = super()._run(images)
            logits[images[:, 4, 4, 0] == 5] = np.nan
            logits[images[:, 4, 4, 0] == 6, 0] = np.inf
            return logits

    record, _, _ = measure(right, [LocalScorer(Classifier(Overflowing()), "1-crop")])
    found = Answers.of(record, 0, np.array([sample.label for sample in right.samples]))
    assert (found.top1 == -1).tolist() == [sample.label in (5, 6) for sample in right.samples]
    assert found.right.tolist() == [sample.label not in (5, 6) for sample in right.samples]
    assert np.isfinite(found.calibration_error())


# Ensembles


def test_an_ensemble_is_the_mean_of_its_members(right: Dataset) -> None:
    scorers = [scorer("1-crop"), scorer("10-crop", names=tuple(reversed([str(n) for n in range(12)])))]
    labels = np.array([sample.label for sample in right.samples])
    order = np.arange(12)[::-1]
    predictors = [
        Predictor((Member(0),), labels),
        Predictor((Member(1),), 11 - labels),
        Predictor((Member(0), Member(1, order)), labels),
    ]
    record = Record(3, len(labels))
    run(right, scorers, predictors, record, lanes=1, batch_size=32)
    picture = [sample.read() for sample in right.samples[:1]]
    first, second = (part.classifier.probabilities([np.asarray(picture)])[0] for part in scorers)
    expected = (first + second[order]) / 2
    assert record.top1[2, 0] == expected.argmax()
    assert record.confidence[2, 0] == pytest.approx(expected.max(), abs=1e-6)
    # The second model calls the pictures by the same numbers, which are other classes to it.
    assert (record.ranks[0] == 0).all()
    assert (record.ranks[1] > 0).sum() == 60
    assert (record.ranks[2] <= 1).all()


# What cannot be read


@pytest.mark.parametrize("lanes", [1, 3])
def test_unreadable_pictures_are_skipped_and_told(make_dataset: Make, lanes: int) -> None:
    dataset = make_dataset([1] * 100, [1] * 100)
    samples = list(dataset.samples)
    for number in (0, 50, 99):
        samples[number] = replace(samples[number], read=broken)
    record, seconds, unreadable = measure(replace(dataset, samples=samples), [scorer()], lanes=lanes, skip=True)
    assert [item.number for item in unreadable] == [0, 50, 99]
    assert (int(record.answered.sum()), seconds.pictures) == (97, 97)
    assert len(Answers.of(record, 0, np.ones(100, np.int64)).ranks) == 97


@pytest.mark.parametrize("lanes", [1, 3])
def test_unreadable_pictures_are_an_error_that_names_them_all(make_dataset: Make, lanes: int) -> None:
    dataset = make_dataset([1] * 100, [1] * 100)
    samples = list(dataset.samples)
    for number in (7, 50, 99):

        def gone(number: int = number) -> Content:
            raise PictureError(f"{number}.png: gone")

        samples[number] = replace(samples[number], read=gone)
    with pytest.raises(PictureError, match=r"^3 of the 100 pictures of plain cannot be read:\n  7.*\n  50.*\n  99"):
        measure(replace(dataset, samples=samples), [scorer()], lanes=lanes)
    all_broken = [replace(sample, read=broken) for sample in samples]
    with pytest.raises(PictureError, match=f"^at least {NAMED} of the 100"):
        measure(replace(dataset, samples=all_broken), [scorer()], lanes=lanes)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


# Going on


def test_what_is_answered_is_not_asked_again(right: Dataset) -> None:
    record, _, _ = measure(right, [scorer()])
    local = scorer()
    half = Record(1, 60)
    for index in range(0, 60, 2):
        half.add(index, index + 1, [(0, 11, 0.5)])  # type: ignore[list-item]
    found, seconds, _ = measure(right, [local], record=half)
    assert seconds.pictures == 30
    assert sum(local.classifier.runtime.rows) == 30  # type: ignore[attr-defined]
    assert found.top1[0, 1::2].tolist() == record.top1[0, 1::2].tolist()
    assert (found.top1[0, ::2] == 11).all()


# Memory


@pytest.mark.parametrize("lanes", [1, 4])
def test_few_pictures_are_open_at_a_time(lanes: int) -> None:
    opened = answered = most = 0

    def read() -> Content:
        nonlocal opened
        opened += 1
        return plain_picture(1)

    class Endless(Sequence[Sample]):
        def __len__(self) -> int:
            return 3000

        def __getitem__(self, index: Any) -> Any:
            return Sample(str(index), 1, read)

        def __iter__(self) -> Iterator[Sample]:
            return (self[index] for index in range(len(self)))

    def advance(count: int) -> None:
        nonlocal answered, most
        answered += count
        most = max(most, opened - answered)

    dataset = Dataset("many", tuple(map(str, range(12))), Endless(), "given")
    measure(dataset, [scorer("1-crop"), scorer("10-crop")], lanes=lanes, batch_size=20, advance=advance)
    assert answered == opened == 3000
    assert most <= 60 * lanes


def test_time_is_divided_among_the_stages(right: Dataset) -> None:
    _, seconds, _ = measure(right, [scorer("1-crop"), scorer("10-crop")])
    assert min(seconds.decode, *seconds.resize, *seconds.inference) > 0
    assert seconds.wall > 0


class Elsewhere(Reds):
    """Computes in a thread of its own, as OpenVINO does, while the calling thread sleeps."""

    def _run(self, images: Images) -> Logits:
        found: list[Logits] = []

        def work() -> None:
            until = perf_counter() + 0.02
            while perf_counter() < until:
                pass
            found.append(super(Elsewhere, self)._run(images))

        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        return found[0]

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "threads": 1}


@pytest.mark.parametrize("lanes", [1, 2])
def test_stage_times_see_work_in_another_thread(make_dataset: Make, lanes: int) -> None:
    """The clock of the calling thread stands still meanwhile."""
    runtime = Elsewhere()
    other = LocalScorer(Classifier(runtime), "1-crop")
    _, seconds, _ = measure(make_dataset([1] * 12, [1] * 12), [other], lanes=lanes, batch_size=10)
    assert seconds.inference[0] >= 0.9 * 0.02 * len(runtime.rows)


class Here(Reds):
    """Computes on the calling thread, with one."""

    on_calling_thread = True

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "threads": 1}


def test_models_that_are_compared_are_timed_by_the_same_clock(make_dataset: Make) -> None:
    """Waiting counts for one of them only if it counts for all."""
    here, there = (LocalScorer(Classifier(kind()), "1-crop") for kind in (Here, Elsewhere))
    assert here.clock is not there.clock
    dataset = make_dataset([1] * 3, [1] * 3)
    assert measure(dataset, [here])[1].by_clock is False
    assert measure(dataset, [here, there])[1].by_clock is True


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_the_clock_of_a_runtime_sees_its_calls(name: str) -> None:
    """With one thread: whichever clock times it, it sees at least the processor's time that the process took."""
    pytest.importorskip(name, reason="the runtime is an extra")
    with Classifier(SMALL, runtime=name, device="cpu", threads=1) as classifier:
        local = LocalScorer(classifier, "1-crop")
        geometry = classifier.spec.input
        views = [[np.zeros((8, geometry.crop, geometry.crop, 3), np.uint8)]] * 4
        local.score(views)

        def share() -> float:
            busy, own = process_time(), local.clock()
            for _ in range(20):
                local.score(views)
            return (local.clock() - own) / (process_time() - busy)

        # Now and then another thread of the tests' process is busy meanwhile.
        assert max(share() for _ in range(4)) > 0.7
