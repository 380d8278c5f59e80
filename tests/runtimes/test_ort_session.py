"""The one import of ONNX Runtime: it reports nothing to its maker unless the user wants that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

CODE = "import os; from resnet_infer.runtimes import ort_session; print(os.environ['ORT_DISABLE_TELEMETRY'])"


@pytest.mark.parametrize(("chosen", "seen"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_telemetry_is_off_unless_the_user_has_chosen(chosen: str | None, seen: str, tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    if chosen is not None:
        environment["ORT_DISABLE_TELEMETRY"] = chosen
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == seen
    if seen == "1":
        assert done.stderr == ""
        assert list(tmp_path.iterdir()) == [], "ONNX Runtime wrote into an empty home"
