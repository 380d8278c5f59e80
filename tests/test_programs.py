"""Every program of benchmarks/, experiments/ and tools/ explains itself without its packages, and starts nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from resnet_infer.utils.extras import EXTRAS
from tests.conftest import ROOT

FOLDERS = ("benchmarks", "experiments", "tools")
PEERS = {"torchvision", "timm", "transformers", "nncf", "litserve", "fastapi", "matplotlib"}
ABSENT = sorted({module.partition(".")[0] for modules in EXTRAS.values() for module in modules} | PEERS)
"""Packages that a plain installation lacks."""
HELP = """
import runpy, subprocess, sys
name, *absent = sys.argv[1:]
sys.modules.update(dict.fromkeys(absent))
def refuse(*arguments, **options):
    raise AssertionError("--help started a process")
subprocess.Popen.__init__ = refuse
sys.argv = [name, "--help"]
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


def programs() -> list[str]:
    """Return the names of the modules that run something."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [path for path in paths if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
    return [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in found]


@pytest.mark.parametrize("name", programs())
def test_help_needs_no_package_and_starts_nothing(name: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "benchmarks" / "results").iterdir()}
    command = [sys.executable, "-c", HELP, name, *ABSENT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: " in done.stdout or f"python {name.rpartition('.')[2]}.py" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_all_folders_have_programs() -> None:
    assert {name.partition(".")[0] for name in programs()} == set(FOLDERS)
