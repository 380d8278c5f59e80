"""A Jupyter notebook, which is executed by nbclient in a kernel of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_infer import zoo
from tests.hosts.conftest import Expected
from tests.hosts.host import PROGRAMS, host

NBCLIENT = r"\[NbClientApp\] (Executing|Save executed results)|\[IPKernelApp\] WARNING . Kernel is running over TCP"
"""What a log line begins with that reports no problem."""


def test_a_notebook(expected: Callable[[str], Expected], tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="needs nbclient: make hosts")
    command = expected(zoo.DEFAULT)
    words = [sys.executable, "-c", "from nbclient.cli import main; main()"]
    done = tmp_path / "done.ipynb"
    words += [str(PROGRAMS / "notebook.ipynb"), "--output", str(done)]
    with host(words, tmp_path, RESNET_INFER_MODEL=zoo.DEFAULT, PHOTOS=str(command.folder)) as running:
        running.require_clean_end(NBCLIENT)
    assert len(running.children) >= 1
    cells = [cell for cell in json.loads(done.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    opened, one, awaited, all_ = (cell["outputs"] for cell in cells)
    assert "".join(opened[0]["data"]["text/plain"]) == (
        "<Classifier resnet18-tinyimagenet: 200 classes, onnxruntime on cpu>"
    )
    first = command.answers[0]["predictions"]
    shown: dict[str, Any] = one[0]["data"]
    assert "".join(shown["text/plain"]).startswith(f"<Answer '{command.paths[0]}': {first[0]['label']} ")
    html = "".join(shown["text/html"])
    assert all(prediction["label"] in html for prediction in first)
    assert f"label='{first[0]['label']}'" in "".join(awaited[0]["data"]["text/plain"])
    assert {output["name"] for output in all_} == {"stdout"}
    command.require_same_lines("".join(line for output in all_ for line in output["text"]))
