"""The examples of the public names, run as they stand, in a folder that has the files that they name."""

from __future__ import annotations

import doctest
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resnet_infer
from resnet_infer import zoo
from tests.conftest import PICTURES

NAMES = [name for name in resnet_infer.__all__ if name != "__version__"]
SERVED = {"Client"}
"""Names whose example needs a running service at `URL`."""
URL = "http://127.0.0.1:3000"
NEEDS = {"export": "onnx", "ParityError": "onnx", "train": "torch", "TrainingError": "torch"}
"""Public name -> the package that its example needs, beside ONNX Runtime."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of an example: cat.jpg, model.safetensors, vehicles/ with 16 pictures of two classes."""
    shutil.copy(PICTURES / "cat.jpg", tmp_path / "cat.jpg")
    shutil.copy(zoo.built_in(zoo.SMALL, ".safetensors"), tmp_path / "model.safetensors")
    for label in ("airplane", "ship"):
        (tmp_path / "vehicles" / label).mkdir(parents=True)
        picture = Image.open(PICTURES / f"{label}.jpg")
        for number in range(8):
            part = picture.crop((number, number, picture.width, picture.height)).resize((64, 48))
            part.save(tmp_path / "vehicles" / label / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    return tmp_path


def examples(name: str, text: str) -> doctest.DocTest:
    """The examples of a docstring. A skipped one is an error."""
    assert "+SKIP" not in text
    known: dict[str, Any] = {public: getattr(resnet_infer, public) for public in NAMES}
    found = doctest.DocTestParser().get_doctest(text, {**known, "np": np, "Path": Path}, name, None, 0)
    assert found.examples, f"{name} has no example"
    return found


def failures(test: doctest.DocTest) -> str:
    """What a run of the examples reports, nothing if all of them answer as they say."""
    report = io.StringIO()
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=report.write)
    return report.getvalue()


def run(name: str, url: str = URL) -> str:
    text = resnet_infer.__doc__ if name == "resnet_infer" else getattr(resnet_infer, name).__doc__
    return failures(examples(name, (text or "").replace(URL, url)))


@pytest.mark.parametrize("name", ["resnet_infer", *(name for name in NAMES if name not in SERVED)])
def test_the_example_of_a_public_name_answers_what_it_says(name: str, folder: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason="an extra")
    assert run(name) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SERVED))
def test_the_example_of_the_client_answers_what_it_says(name: str, folder: Path) -> None:
    pytest.importorskip("bentoml", reason="the extra `serve`")
    from tests.serving.servers import serving

    with short_folder() as place, serving(place, zoo.SMALL, "--device", "cpu") as server:
        assert run(name, server.url) == ""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name, for the service's sockets."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_a_wrong_example_is_noticed(folder: Path) -> None:
    assert "Expected" in failures(examples("x", ">>> 1 + 1\n3\n"))
    assert failures(examples("x", ">>> 1 + 1\n2\n")) == ""
    for text in ("no example", ">>> 1 + 1  # doctest: +SKIP\n3\n"):
        with pytest.raises(AssertionError):
            examples("x", text)
