"""What classifiers give: answers with logits, in time, beside an event loop, and short in a notebook."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_infer import zoo
from resnet_infer.answers import Answer, Prediction
from resnet_infer.calls import AnswerTimeoutError
from resnet_infer.classifier import Classifier, softmax
from resnet_infer.client import Client
from resnet_infer.errors import ModelError, PictureError, UsageError
from resnet_infer.runtimes.base import Images, Logits
from tests.conftest import PICTURES
from tests.data.test_pictures import ONE_AND_TEN
from tests.serving.test_client import listening
from tests.test_classifier import Quadrants, noise, png

CAT = PICTURES / "cat.jpg"


@pytest.fixture(scope="module")
def classifier() -> Iterator[Classifier]:
    with Classifier(zoo.SMALL, device="cpu", threads=1) as opened:
        yield opened


class Slow(Quadrants):
    """A runtime whose calls last until they may end, at most 20 s."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end, self.calls = threading.Event(), 0

    def _run(self, images: Images) -> Logits:
        self.calls += 1
        self.may_end.wait(20)
        return super()._run(images)


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "classify"]


def settled(condition: Any) -> bool:
    """Whether a condition holds within five seconds."""
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(condition())


# Logits and classes


def test_the_logits_make_the_predictions(classifier: Classifier) -> None:
    for crops in ONE_AND_TEN:
        answer = classifier.ask(CAT, crops=crops, top_k=None)
        assert answer.logits is not None
        assert answer.logits.base is None  # or it would keep those of a batch
        means = softmax(answer.logits).mean(axis=0)
        assert len(answer.predictions) == 10
        assert [item.probability for item in answer.predictions] == [means[item.index] for item in answer.predictions]
        assert answer.predictions == classifier.predictions(answer.logits, None)


def test_an_error_has_no_logits(classifier: Classifier) -> None:
    answer = classifier.ask(b"text")
    assert isinstance(answer.error, PictureError)
    assert answer.logits is None
    assert "logits" not in classifier.ask(CAT).to_json()
    assert classifier.ask(CAT) == classifier.ask(CAT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "at least 1, or None for all classes, not 0"),
        ({"top_k": "3"}, "not '3'"),
        ({"top_k": 2.0}, "not 2.0"),
        ({"crops": "1"}, "crops is 1 or 10, not '1'"),
        ({"crops": True}, "crops is 1 or 10, not True"),
        ({"timeout": 0}, "a timeout is a number of seconds above 0 and up to 1,000,000 or None, not 0"),
        ({"timeout": "3"}, "not '3'"),
        ({"timeout": float("nan")}, "not nan"),
        ({"timeout": 1e10}, "not 10000000000.0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str, classifier: Classifier) -> None:
    with Client("http://127.0.0.1:1") as client:
        for one in (classifier, client):
            for method in (one.classify, one.ask):
                with pytest.raises(UsageError, match=message):
                    method(CAT, **options)
            with pytest.raises(UsageError, match=message):
                asyncio.run(one.aclassify(CAT, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": "2"}, "threads is a whole one from 1 to .*, not '2'"),
        ({"device": None}, "there is no device None"),
        ({"runtime": None}, "unknown runtime None"),
        ({"runtime": b"torch"}, "unknown runtime b'torch'"),
        ({"model": b"x" * 10**6}, "a model is a path or a name, not bytes of 1,000,000 bytes\n.*to a file"),
        ({"model": 3}, "a model is a path or a name, not int"),
        ({"model": np.zeros(9)}, "a model is a path or a name, not ndarray"),
        ({"model": "no.onnx"}, "no.onnx"),
    ],
)
def test_a_classifier_of_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, ModelError), match=message) as raised:
        Classifier(**options)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": None}, "a URL is text, not NoneType"),
        ({"url": "http://h:x"}, "http://h:x is no URL of a service"),
        ({"url": "http://anna:secret@h:x"}, "http://h:x is no URL of a service"),
        ({"url": "http://anna:secret@h"}, "no user and no password\n  hint: leave them out: http://h; the key"),
        ({"url": "anna:secret@h/a@b"}, "no user and no password\n  hint: leave them out: h/a@b; the key"),
        ({"url": "http://h:99999"}, "is no URL of a service"),
        ({"url": "http://[::1"}, "is no URL of a service"),
        ({"url": "http://a b"}, "is no URL of a service"),
        ({"timeout": "5"}, "a timeout is a number of seconds above 0 and up to 1,000,000, not '5'"),
        ({"timeout": None}, "not None"),
        ({"timeout": -1}, "not -1"),
        ({"timeout": 1e12}, "not 1000000000000.0"),
        ({"api_key": "key\n"}, "an API key is text of one line"),
        ({"api_key": 3}, "an API key is text of one line"),
    ],
)
def test_a_client_of_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Client(**{"url": "http://127.0.0.1:1", **options})


def test_a_closed_classifier_says_so() -> None:
    with Classifier(zoo.SMALL) as opened:
        pass
    for use in (lambda: opened.ask(CAT), lambda: pickle.dumps(opened)):
        with pytest.raises(UsageError, match="was closed") as raised:
            use()
        assert raised.value.reason == "closed"


class Located:
    def __fspath__(self) -> str:
        return str(zoo.built_in(zoo.SMALL, ".onnx"))


def test_a_model_may_be_any_path() -> None:
    with Classifier(Located()) as opened:
        assert opened.spec.name == zoo.SMALL


@pytest.mark.parametrize("workers", [-1, 0, "2"])
def test_workers_are_counted(workers: Any, classifier: Classifier) -> None:
    with pytest.raises(UsageError, match="the number of workers is a whole one"):
        classifier.stream([CAT], workers=workers)


# In time


def test_a_call_that_is_in_time_is_answered(classifier: Classifier) -> None:
    assert classifier.classify(CAT, timeout=20) == classifier.classify(CAT)
    assert classifier.classify([CAT, CAT], timeout=20) == classifier.classify([CAT, CAT])
    with pytest.raises(PictureError, match=r"no\.jpg: No such file"):
        classifier.classify("no.jpg", timeout=20)


def test_a_call_that_is_late_says_so_and_begins_nothing_more() -> None:
    runtime = Slow()
    classifier = Classifier(runtime)
    pictures = [png(noise(number)) for number in range(200)]
    begin = time.monotonic()
    with pytest.raises(AnswerTimeoutError, match=r"no answer within 0.2 s; the step that had begun .* nothing follows"):
        classifier.classify(pictures, timeout=0.2)
    assert 0.2 <= time.monotonic() - begin < 2
    assert len(threads()) == 1
    runtime.may_end.set()
    assert settled(lambda: not threads())
    assert runtime.calls < 7  # of batches of 32
    other = Slow()
    with pytest.raises(TimeoutError):
        Classifier(other).ask(pictures[0], timeout=0.01)
    other.may_end.set()
    assert settled(lambda: not threads())


def test_a_late_call_of_a_client_says_so_and_closes_its_connection() -> None:
    gone = threading.Event()

    class Never(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            if not self.connection.recv(1):
                gone.set()
            self.close_connection = True

    with listening(Never) as url, Client(url) as client:
        begin = time.monotonic()
        with pytest.raises(AnswerTimeoutError, match=rf"no answer within 0.3 s; the connection to {url} is closed"):
            client.classify(CAT, timeout=0.3)
        assert time.monotonic() - begin < 2
        assert gone.wait(5)
        with pytest.raises(AnswerTimeoutError):
            client.classify([CAT] * 30, timeout=0.3)


def test_notes_and_errors_of_late_calls_are_those_of_others(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="None is no picture"):
        classifier.classify(None, timeout=5)  # type: ignore[call-overload]


# Beside an event loop


def test_the_event_loop_goes_on(classifier: Classifier) -> None:
    ticks = 0

    async def ticking() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.002)
            ticks += 1

    async def main() -> Any:
        task = asyncio.create_task(ticking())
        found = await classifier.aclassify([CAT] * 60)
        several = await asyncio.gather(*(classifier.aclassify(CAT) for _ in range(5)))
        task.cancel()
        return found, several

    found, several = asyncio.run(main())
    assert found == [classifier.classify(CAT)] * 60
    assert several == [classifier.classify(CAT)] * 5
    assert ticks > 5


def test_a_cancelled_call_begins_nothing_more() -> None:
    runtime = Slow()
    classifier = Classifier(runtime)
    pictures = [png(noise(number)) for number in range(200)]

    async def main() -> None:
        task = asyncio.create_task(classifier.aclassify(pictures))
        while not runtime.calls:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        runtime.may_end.set()

    asyncio.run(main())  # which waits for the thread
    assert 1 <= runtime.calls < 7
    assert not threads()


def test_a_late_call_beside_an_event_loop_says_so() -> None:
    runtime = Slow()

    async def main() -> None:
        with pytest.raises(AnswerTimeoutError, match=r"no answer within 0\.1 s"):
            await Classifier(runtime).aclassify(CAT, timeout=0.1)
        runtime.may_end.set()

    asyncio.run(main())


def test_errors_come_out_of_the_event_loop(classifier: Classifier) -> None:
    with pytest.raises(PictureError, match=r"no\.jpg: No such file"):
        asyncio.run(classifier.aclassify("no.jpg"))
    with pytest.raises(UsageError, match="None is no picture"):
        asyncio.run(classifier.aclassify(None))  # type: ignore[call-overload]


# In a notebook


def test_an_answer_is_shown_briefly(classifier: Classifier) -> None:
    answer = classifier.ask(CAT, top_k=None)
    assert repr(answer).endswith("cat.jpg': cat 0.998, dog 0.002, bird 0.000, deer 0.000, frog 0.000 and 5 more>")
    broken = classifier.ask("no.jpg")
    assert repr(broken) == "<Answer 'no.jpg': PictureError: no.jpg: No such file or directory>"
    long = Answer("s" * 9000, (Prediction("l" * 9000, 0.5, 0),) * 1000)
    assert len(repr(long)) < 2000
    assert repr(Answer("nothing")) == "<Answer 'nothing': no predictions>"


def test_an_answer_is_a_table_in_a_notebook(classifier: Classifier) -> None:
    html = classifier.ask(CAT, top_k=2)._repr_html_()
    assert html.count("<tr>") == 3
    assert ">cat<" in html
    assert "99.8%" in html
    wild = Answer("<script>", (Prediction("<b>", 0.5, 0),) * 30, note="<i>")._repr_html_()
    assert "<script>" not in wild
    assert "<b>&lt;script&gt;" in wild
    assert "<p>and 10 more</p>" in wild
    assert "&lt;i&gt;" in wild
    assert "<table>" not in Answer("x", error=PictureError("x: <none>"))._repr_html_()


def test_a_prediction_is_plain_json() -> None:
    assert json.dumps(Prediction("cat", 0.5, 3).to_json()) == (
        '{"label": "cat", "probability": 0.5, "index": 3, "id": null}'
    )


def test_classifiers_and_clients_say_what_they_are() -> None:
    classifier = Classifier(zoo.SMALL, device="cpu")
    assert repr(classifier) == "<Classifier resnet20-cifar10: 10 classes, onnxruntime on cpu>"
    before = classifier.runtime.describe()
    classifier.close()
    assert repr(classifier).endswith(", closed>")
    assert classifier.runtime.describe() == before
    client = Client("http://user.example:3000", api_key="secret")
    assert repr(client) == "<Client http://user.example:3000>"
    client.close()
    assert repr(client) == "<Client http://user.example:3000, closed>"
