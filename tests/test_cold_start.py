"""What a fresh process loads, and what works where optional packages are not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_infer.zoo import DEFAULT, SMALL
from tests.conftest import DEMO, PICTURES

HEAVY = ("torch", "onnx", "tensorrt", "bentoml")

PROBE = """
import json, sys
for name in {absent!r}:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from resnet_infer.cli.main import app
try:
    app({arguments!r})
except SystemExit as stop:
    code = stop.code
print(json.dumps({{"code": code, "loaded": [m for m in {heavy!r} if sys.modules.get(m)]}}), file=sys.stderr)
"""


def fresh(*arguments: str, absent: tuple[str, ...] = (), cache: Path) -> tuple[int, list[str], str, str]:
    """Run the command in a new process, with the packages `absent` missing."""
    code = PROBE.format(absent=absent, arguments=list(arguments), heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "RESNET_INFER_CACHE": str(cache), "PYTHONIOENCODING": "utf-8"},
    )
    *notes, last = done.stderr.strip().splitlines()
    report = json.loads(last)
    return report["code"], report["loaded"], done.stdout, "\n".join(notes)


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code, loaded, out, _ = fresh("--help", cache=tmp_path)
    assert (code, loaded) == (0, [])
    assert "classify" in out


@pytest.mark.parametrize(("model", "label"), [(SMALL, "ship"), (DEFAULT, "espresso")])
def test_classify_loads_nothing_heavy_and_needs_only_onnxruntime(model: str, label: str, tmp_path: Path) -> None:
    picture = DEMO / "coffee.jpg" if model == DEFAULT else PICTURES / "ship.jpg"
    code, loaded, out, _ = fresh("classify", str(picture), "-m", model, absent=HEAVY, cache=tmp_path)
    assert (code, loaded) == (0, [])
    assert label in out.splitlines()[1]
    assert fresh("classify", str(picture), "-m", model, cache=tmp_path)[1] == []


def test_export_works_without_torch(tmp_path: Path) -> None:
    code, loaded, _, notes = fresh(
        "export", "-o", str(tmp_path / "model.onnx"), absent=("torch", "tensorrt", "bentoml"), cache=tmp_path
    )
    assert (code, loaded) == (0, ["onnx"])
    assert "parity PASS against the unfused graph" in notes


@pytest.mark.parametrize(
    ("arguments", "absent", "extra"),
    [
        (("classify", str(PICTURES / "cat.jpg")), "onnxruntime", "cpu"),
        (("export", "-o", "model.onnx"), "onnx", "export"),
        (("train", str(PICTURES)), "torch", "train"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, arguments: tuple[str, ...], absent: str, extra: str
) -> None:
    code, _, _, notes = fresh(*arguments, absent=(absent,), cache=tmp_path)
    assert code == 1
    assert f'pip install "resnet-infer[{extra}]"' in notes
    assert "Traceback" not in notes
