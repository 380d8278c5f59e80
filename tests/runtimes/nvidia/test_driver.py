"""What the driver says, asked through its library: a stand-in, or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_infer.runtimes.nvidia import driver
from resnet_infer.runtimes.nvidia.driver import ask_driver, module_version
from tests.conftest import ROOT

ASK = """
import json
from dataclasses import asdict
from resnet_infer.runtimes.nvidia.driver import ask_driver
print(json.dumps(asdict(ask_driver())))
"""


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libcuda-of-nobody.so.1")
    found = ask_driver()
    assert (found.cuda, found.gpus) == (None, ())
    assert "there is no NVIDIA driver here (libcuda-of-nobody.so.1: cannot open" in str(found.error)


def test_the_driver_tells_cuda_and_gpus(stand_in: Path) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(stand_in), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["cuda"], found["gpus"], found["error"]) == ([13, 0], ["Dummy GPU"], None)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Thu Jul\nGCC version: gcc 12.3.0", "580.65.06"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (x)\n", "570.124.06"),
        ("something else", None),
        (None, None),
    ],
)
def test_the_version_of_the_kernel_module(tmp_path: Path, text: str | None, version: str | None) -> None:
    path = tmp_path / "version"
    if text is not None:
        path.write_text(text)
    assert module_version(path) == version
