"""Errors have fields for programs, which survive pickle and copy, and one table of reasons."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path
from typing import get_args

import pytest

from resnet_infer import errors
from resnet_infer.data.image import read_image
from resnet_infer.data.walk import FoundError
from resnet_infer.errors import PictureError, Reason, ResnetInferError, about, reason_of
from resnet_infer.models.spec import ModelSpec
from resnet_infer.reasons import REASONS
from resnet_infer.serving.inference.jobs import RefusedError
from resnet_infer.utils.extras import needs
from tests.conftest import PICTURES, ROOT

FIELDS = {"message", "hint", "source", "reason"}
WITH_SOURCE = {"ModelError", "PictureError", "DataError", "SplitError", "RuntimeUnavailableError", "MissingExtraError"}
"""Errors that are raised with a reason; all of them have a source wherever they are about one thing."""
OTHERS = {"classifier.py", "client.py", "onnx.py"}
"""Files whose errors get their fields from a helper of their own, or from `about`."""


def test_the_table_has_each_reason_once() -> None:
    assert list(REASONS) == sorted(get_args(Reason))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "error",
    [
        ResnetInferError("a", hint="b", source=Path("c"), reason="missing"),
        errors.ServiceError("a", status=503, source="http://x"),
        errors.AnswerError("a", source="cat.jpg"),
        FoundError("folder/x.heic", "is odd"),
        RefusedError("full", 7),
    ],
    ids=lambda error: type(error).__name__,
)
def test_fields_survive(error: ResnetInferError, again: object) -> None:
    assert callable(again)
    found = again(error)
    assert type(found) is type(error)
    assert vars(found) == vars(error)
    assert vars(found).keys() >= FIELDS
    assert (str(found), found.args) == (str(error), error.args)


def test_every_class_has_the_fields() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ResnetInferError)]
    assert len(kinds) >= 15
    for kind in kinds:
        found = kind("what happened", source="a")
        assert (found.message, found.source) == ("what happened", "a")
        assert found.reason is None or found.reason in REASONS


def test_a_program_can_tell_errors_apart(tmp_path: Path) -> None:
    damaged, text, absent = tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.jpg"
    damaged.write_bytes((PICTURES / "cat.jpg").read_bytes()[:300])
    text.write_text("no picture")
    for path, reason in ((damaged, "damaged"), (text, "unsupported"), (absent, "missing")):
        with pytest.raises(PictureError) as caught:
            read_image(path)
        assert (caught.value.source, caught.value.reason) == (str(path), reason)
    with pytest.raises(PictureError) as caught:
        read_image(PICTURES / "cat.jpg", max_pixels=10)
    assert caught.value.reason == "too_large"
    with pytest.raises(ResnetInferError) as missing, needs("export", "this"):
        raise ModuleNotFoundError("no", name="onnx") from None
    assert missing.value.source == "onnx"
    with pytest.raises(ResnetInferError) as newer:
        ModelSpec.loads('{"format": 99}', "model.onnx")
    assert (newer.value.source, newer.value.reason) == ("model.onnx", "newer_format")


def test_a_block_is_about_something() -> None:
    for own, source in ((None, "a"), ("b", "b")):
        with pytest.raises(ResnetInferError) as caught, about("a"):
            raise ResnetInferError("x", source=own)
        assert caught.value.source == source


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(2, "x"), "missing"),
        (PermissionError(13, "x"), "unreadable"),
        (MemoryError(), "memory"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "x"), "damaged"),
        (ResnetInferError("x", reason="late"), "late"),
        (ValueError(), "unreadable"),
    ],
)
def test_the_reason_of_other_errors(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def without_reason(source: str) -> list[int]:
    """The lines that make an error of `WITH_SOURCE` without a reason, where its class has none by default."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in WITH_SOURCE:
            default = getattr(errors, node.func.id).default_reason
            given = {word.arg for word in node.keywords}
            if not default and "reason" not in given:
                found.append(node.lineno)
    return found


def test_errors_are_raised_with_a_reason() -> None:
    assert without_reason("raise ModelError('x', hint='y')\nraise ModelError('x', reason='missing')") == [1]
    package = ROOT / "resnet_infer"
    found = [
        f"{path.relative_to(package)}:{line}"
        for path in sorted(package.rglob("*.py"))
        if path.name not in OTHERS and "cli" not in path.parts
        for line in without_reason(path.read_text(encoding="utf-8"))
    ]
    assert found == []
