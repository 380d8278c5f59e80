"""What the tests of hosts share: images, and what the command answers to them. `make hosts` runs them."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from resnet_infer import zoo
from tests.conftest import photographs


@dataclass(frozen=True)
class Expected:
    """What `resnet-infer classify` gives for a folder of images: the rows of CSV, and the lines of JSON."""

    model: str
    folder: Path
    paths: list[Path]
    rows: list[list[str]]
    answers: list[dict[str, Any]]

    def require_same(self, answers: Iterable[dict[str, Any]]) -> None:
        """Fail unless a host's answers, in the order of the images, are those of the command."""
        given = list(answers)
        rows = [
            [answer["source"], str(rank), one["label"], f"{one['probability']:.6f}", str(one["index"]), one["id"] or ""]
            for answer in given
            for rank, one in enumerate(answer["predictions"], 1)
        ]
        assert rows == self.rows
        assert given == self.answers

    def require_same_lines(self, text: str) -> None:
        """Fail unless each line of a host's output is the JSON of an answer, and all are those of the command."""
        self.require_same(map(json.loads, text.splitlines()))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the 123 photos of imagenet-sample, or those that the repository has."""
    found = photographs()
    folder = tmp_path_factory.mktemp("images")
    for number, path in enumerate(found):
        shutil.copy(path, folder / f"{number:03}-{path.name}")
    assert len(list(folder.iterdir())) == len(found)
    return folder


@pytest.fixture(scope="session")
def expected(images: Path) -> Callable[[str], Expected]:
    """The answers of the command, for each model."""

    @lru_cache
    def of(model: str = zoo.DEFAULT) -> Expected:
        def classify(form: str) -> list[str]:
            command = [sys.executable, "-m", "resnet_infer", "classify", str(images), "-m", model, "-f", form]
            return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.splitlines()

        header, *rows = csv.reader(classify("csv"))
        assert header == ["source", "rank", "label", "probability", "index", "id", "error"]
        assert {row[-1] for row in rows} == {""}
        paths = sorted(images.iterdir())
        assert len(rows) == 5 * len(paths)
        return Expected(
            model, images, paths, [row[:-1] for row in rows], [json.loads(line) for line in classify("jsonl")]
        )

    return of
