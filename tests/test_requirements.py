"""In CI a test that lacks a tool fails; what no installation ends may be skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.requirements import REQUIRE

TESTS = """
import pytest
def test_tool():
    pytest.skip("needs strace (apt-get install strace)")
@pytest.mark.skipif(True, reason="there is no Java")
def test_mark():
    pass
def test_device():
    pytest.skip("no CUDA here")
@pytest.mark.xfail(reason="a known defect")
def test_known():
    assert False
"""
MODULE = """
import pytest
pytest.importorskip("a_package_that_is_not_there", reason="the extra `serve`")
"""


@pytest.mark.parametrize("required", [False, True])
def test_what_could_be_installed_is_not_skipped(tmp_path: Path, required: bool) -> None:
    (tmp_path / "test_tests.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)
    environment = {name: value for name, value in os.environ.items() if name not in (REQUIRE, "PYTEST_ADDOPTS")}
    environment |= {"PYTHONPATH": str(ROOT)} | ({REQUIRE: "1"} if required else {})
    command = [sys.executable, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", "-p", "tests.requirements"]
    command += ["--continue-on-collection-errors", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    last = done.stdout.splitlines()[-1]
    if required:
        assert done.returncode == 1
        for name in ("test_module.py", "test_tests.py::test_tool", "test_tests.py::test_mark"):
            assert name in done.stdout
        assert "so this is not skipped: needs strace (apt-get install strace)" in done.stdout
        assert ("1 failed" in last, "2 errors" in last, "1 skipped" in last, "1 xfailed" in last) == (True,) * 4
    else:
        assert done.returncode == 0
        assert ("4 skipped" in last, "1 xfailed" in last) == (True, True)
