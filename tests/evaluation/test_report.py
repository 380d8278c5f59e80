"""The report is one page that is whole, escapes what it is told, and needs nothing beside it."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnet_infer import zoo
from resnet_infer.classifier import Classifier
from resnet_infer.data.datasets import Dataset
from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.report import GROUPS, confusion, page, write_report
from resnet_infer.evaluation.result import BINS, Answers, Evaluation
from tests.evaluation.conftest import Reds
from tests.evaluation.test_runner import measure, scorer

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects drawings, pictures and every address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.seen: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def drawings(text: str) -> list[ElementTree.Element]:
    parts = text.split("<svg")[1:]
    return [ElementTree.fromstring("<svg" + part.partition("</svg>")[0] + "</svg>") for part in parts]


@pytest.fixture(scope="module")
def found(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """With a broken picture, and one of an evil name that is answered wrongly."""
    folder = tmp_path_factory.mktemp("report") / "album"
    shutil.copytree(album, folder)
    (folder / "cat" / "broken <b>.jpg").write_bytes(b"broken")
    shutil.copy(next((folder / "ship").iterdir()), folder / "cat" / "<script>alert('&')<.png")
    return evaluate(
        [None], folder, EvaluationConfig(protocols=["native", "10-crop"], device="cpu", skip_unreadable=True)
    )


def test_the_page_needs_nothing_beside_it(found: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(found, path)
    text = path.read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.addresses
    assert all(address.startswith("data:image/") for address in parsed.addresses)
    assert "script" not in parsed.seen
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text


def test_it_shows_errors_confusions_reliability_and_mistakes(found: Evaluation) -> None:
    text = page(found)
    parsed = Page(text)
    assert parsed.seen.count("details") == 2
    assert len(drawings(text)) == 1 + 2 * 2
    for item in found.results:
        assert str(item.top1) in text
        assert f"{item.answered.calibration_error():.2f}%" in text
    wrong = [min(item.top1.wrong, 24) for item in found.results]
    assert len(parsed.addresses) == sum(wrong)
    for address in parsed.addresses:
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
            assert 0 < max(picture.size) <= 160
    assert "He et al. 2016" not in text
    assert "the paper's figure" not in text


@pytest.mark.usefixtures("as_cifar10")
def test_the_paper_stands_beside_its_own_pictures(album: Path) -> None:
    text = page(evaluate([None], album, EvaluationConfig(device="cpu")))
    assert "8.75 (He et al. 2016)" in text
    assert "measured here, onnxruntime, cpu" in text
    assert "Highway, 19 layers" in text
    assert "the paper's figure" in text
    assert "Beside the paper: CIFAR-10 test, native" in text


def test_what_it_is_told_is_escaped(found: Evaluation) -> None:
    text = page(found)
    assert "<script>" not in text
    assert "cat/&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;.png" in text
    assert "skipped cat/broken &lt;b&gt;.jpg" in text


def test_a_picture_that_has_gone_does_not_stop_it(album: Path, tmp_path: Path) -> None:
    folder = tmp_path / "album"
    shutil.copytree(album, folder)
    found = evaluate([None], folder, EvaluationConfig(device="cpu"))
    shutil.rmtree(folder)
    assert "<img" not in page(found)


def test_many_classes_are_drawn_in_groups() -> None:
    names = [f"class {number}" for number in range(1000)]
    generator = np.random.default_rng(0)
    labels, top1 = generator.integers(0, 1000, (2, 500))
    top1[0] = -1
    drawn = ElementTree.fromstring(confusion(labels, top1, names))
    cells = [part for part in drawn.iter("rect") if part.get("class") in ("right", "wrong")]
    assert len(cells) == GROUPS**2
    titles = [part.findtext("title") or "" for part in cells]
    assert "class 0 … class 39 answered class 40 … class 79: " in titles[1]
    assert sum(int(title.rpartition(": ")[2].partition(" ")[0]) for title in titles) == 499


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy(pairs: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    zeros = np.zeros(len(pairs), np.int64)
    answered = Answers(zeros, zeros, (~right).astype(np.int64), zeros, confidence)
    gap = 0.0
    for number in range(BINS):
        inside = (confidence * BINS >= number) & ((confidence * BINS < number + 1) | (number == BINS - 1))
        gap += abs(confidence[inside].sum() - right[inside].sum())
    assert answered.calibration_error() == pytest.approx(100 * gap / len(pairs))
    assert sum(part.pictures for part in answered.reliability()) == len(pairs)


def test_a_model_without_mistakes_has_a_page_too(make_dataset: Callable[..., Dataset]) -> None:
    from resnet_infer.evaluation.result import Result

    labels = [number % 12 for number in range(40)]
    dataset = make_dataset(labels, labels)
    record, seconds, unreadable = measure(dataset, [scorer()])
    spec = Classifier(Reds()).spec
    answered = Answers.of(record, 0, np.array(labels))
    result = Result("reds", "1-crop", (), ("reds",), spec, {}, "name", answered, 0.0, 0.0, [])
    text = page(Evaluation(dataset, [result], record, seconds, unreadable, [], [], 0))
    Page(text)
    assert "<p>None.</p>" in text


def test_models_are_compared_with_the_reference(album: Path) -> None:
    found = evaluate(
        [None], album, EvaluationConfig(reference=zoo.SMALL, protocols=["native", "10-crop"], device="cpu")
    )
    text = page(found)
    Page(text)
    table = text.partition("<h2>Against resnet20-cifar10</h2>")[2].partition("</table>")[0]
    assert table.count("<td class=n>+0.00</td>") == 2
