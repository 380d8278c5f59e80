"""Logits that are not finite are no answer: an error for that picture, wherever it is asked about, and for no other."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import resnet_infer
from resnet_infer.classifier import Classifier, Picture, softmax
from resnet_infer.errors import AnswerError, ResnetInferError
from resnet_infer.utils import strict_json
from tests.conftest import PICTURES, Outcome
from tests.not_finite import black, write_model

pytest.importorskip("onnx", reason="the model is made with onnx")
pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

Cli = Callable[..., Outcome]
PACKAGE = Path(resnet_infer.__file__).parent
NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures; the one in the middle has no answer."""
    made = tmp_path_factory.mktemp("pictures")
    for name in ("1-cat.jpg", "3-cat.jpg"):
        (made / name).write_bytes((PICTURES / "cat.jpg").read_bytes())
    (made / "2-black.png").write_bytes(black())
    return made


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=6))
def test_probabilities_are_numbers_or_none_of_them_is(rows: list[list[float]]) -> None:
    logits = np.array(rows, np.float32)
    finite = np.isfinite(logits).all(axis=1)
    found = softmax(logits)
    assert (np.isnan(found).all(axis=1) == ~finite).all()
    np.testing.assert_allclose(found[finite].sum(axis=1), 1)


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
@pytest.mark.parametrize("options", [(), ("--on-error", "skip"), ("--crops", "10"), ("--batch-size", "1")])
def test_classify_answers_the_others_and_fails(
    cli: Cli, model: Path, folder: Path, format: str, options: tuple[str, ...]
) -> None:
    done = cli("classify", folder, "-m", model, "-f", format, *options)
    assert done.code == 1
    assert "2-black.png: the logits of resnet20-cifar10 are not finite" in done.err
    assert "hint:" in done.err
    assert "nan" not in done.out.lower()
    assert done.out.count("cat.jpg") == (10 if format == "csv" else 2)
    if format == "json":
        first, black_one, last = strict_loads(done.out)["answers"]
        assert "predictions" in first
        assert "predictions" in last
        assert "not finite" in black_one["error"]
    elif format == "csv":
        table = list(csv.DictReader(io.StringIO(done.out)))
        assert ["not finite" in row["error"] for row in table] == [False] * 5 + [True] + [False] * 5
        assert all(math.isfinite(float(row["probability"])) for row in table if not row["error"])


@pytest.mark.parametrize("throughput", [False, True])
def test_a_classifier_has_an_error_for_the_picture_alone(model: Path, folder: Path, throughput: bool) -> None:
    with Classifier(model, throughput=throughput) as classifier:
        with pytest.raises(AnswerError, match="not finite"):
            classifier.classify(black())
        answers = list(classifier.stream([Picture(path.name, path) for path in sorted(folder.iterdir())]))
        assert [isinstance(answer.error, AnswerError) for answer in answers] == [False, True, False]
        assert answers[0].predictions == answers[2].predictions != ()
        assert answers[1].predictions == ()
        views = [classifier.views(Picture("", content)) for content in (black(), PICTURES / "cat.jpg")]
        with pytest.raises(AnswerError, match="picture 0 of 2"):
            classifier.probabilities(views)  # type: ignore[arg-type]
        with pytest.raises(AnswerError):
            classifier.predictions(classifier.runtime(views[0]), 5)  # type: ignore[arg-type]


def test_evaluate_counts_them_as_wrong_and_fails(cli: Cli, model: Path, tmp_path: Path) -> None:
    for name, contents in {"cat": [black(), (PICTURES / "cat.jpg").read_bytes()], "dog": [black()]}.items():
        for number, content in enumerate(contents):
            path = tmp_path / "data" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    done = cli("evaluate", model, tmp_path / "data", "--json")
    assert done.code == 1
    assert "2 of the answers are not finite numbers" in done.err
    (result,) = strict_loads(done.out)["results"]
    assert result["top1"]["wrong"] == 2


def test_compare_fails(cli: Cli, model: Path, folder: Path) -> None:
    done = cli("compare", model, "resnet20-cifar10", folder, "--json")
    assert done.code == 1
    assert strict_loads(done.out)["failures"] == ["the model's logits are not finite"]


def test_json_with_such_numbers_is_refused() -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ResnetInferError, match="not finite"):
            strict_json.dumps({"a": [value]})


def test_nothing_else_writes_json() -> None:
    """`json.dumps` and `json.dump` write NaN unless they are told not to."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            dotted = isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.dumps", "json.dump")
            names = node.names if isinstance(node, ast.ImportFrom) and node.module == "json" else []
            if dotted or {alias.name for alias in names} & {"dump", "dumps"}:
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == {"utils/strict_json.py"}


def strict_loads(text: str) -> Any:
    """JSON as RFC 8259 has it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)
