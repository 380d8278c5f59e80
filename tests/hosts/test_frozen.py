"""A program that PyInstaller has made, which finds what it needs by the hook that the package ships."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer import zoo
from tests.hosts.conftest import Expected
from tests.hosts.host import PROGRAMS, host

pytestmark = pytest.mark.timeout(600)  # PyInstaller works for minutes on a busy machine


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in a folder without Python and the package."""
    pytest.importorskip("PyInstaller", reason="needs PyInstaller: make hosts")
    folder = tmp_path_factory.mktemp("frozen")
    command = [sys.executable, "-m", "PyInstaller", "--onedir", "--log-level", "ERROR", str(PROGRAMS / "frozen.py")]
    subprocess.run(command, cwd=folder, check=True, timeout=500)
    return folder / "dist" / "frozen"


@pytest.mark.parametrize("model", [zoo.DEFAULT, zoo.SMALL])
def test_a_frozen_program(model: str, frozen: Path, expected: Callable[[str], Expected], tmp_path: Path) -> None:
    command = expected(model)
    with host([frozen / "frozen", command.folder], tmp_path, RESNET_INFER_MODEL=model, PYTHONPATH="") as running:
        running.require_clean_end()
    command.require_same_lines(running.out)


def test_packages_of_extras_are_left_out(frozen: Path) -> None:
    contained = {path.name for path in (frozen / "_internal").iterdir()}
    assert {"onnxruntime", "resnet_infer"} <= contained
    assert not contained & {"torch", "openvino", "bentoml"}
