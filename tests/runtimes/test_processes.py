"""Processes are started with a Python, never with the program that contains one."""

from __future__ import annotations

import multiprocessing.spawn
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer import zoo
from resnet_infer.benchmarking.latency.side_by_side import Subject, measure
from resnet_infer.errors import RuntimeUnavailableError
from resnet_infer.runtimes.processes import command, interpreter
from tests.conftest import PICTURES, Outcome

ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["frozen", "/usr/sbin/uwsgi", "C:\\Apps\\editor.exe", "", None])
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A program that is no Python; starting it is an error."""
    name, popen = request.param, subprocess.Popen

    class Watched(popen):  # type: ignore[misc,valid-type]
        def __init__(self, arguments: list[str], *rest: object, **options: object) -> None:
            assert arguments[0] not in (sys.executable, name)
            super().__init__(arguments, *rest, **options)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    if name == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: name and os.fsencode(name))
    return str(name or "the program around this one")


def test_what_needs_a_process_says_so_and_starts_none(program: str) -> None:
    from resnet_infer.benchmarking.latency.paired_run import measure as benchmark
    from resnet_infer.benchmarking.latency.subjects import Entry, Pictures

    ways: list[Callable[[], object]] = [
        interpreter,
        lambda: measure([Subject(ARTIFACT)], 1, rounds=1, seconds=0.1),
        lambda: benchmark([Entry("m", Subject(ARTIFACT), 1)], Pictures("none", (b"",)), rounds=1, seconds=0.1),
    ]
    for way in ways:
        with pytest.raises(RuntimeUnavailableError, match=re.escape(program)) as raised:
            way()
        assert raised.value.hint


@pytest.mark.parametrize(
    "arguments", [("benchmark",), ("serve", "--port", "0"), ("export", "resnet20-cifar10", "--target", "auto")]
)
def test_commands_that_need_a_process_fail_in_a_line(
    program: str, arguments: tuple[str, ...], cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    end = ("-o", tmp_path / "made.onnx") if arguments[0] == "export" else ()
    outcome = cli(*arguments, *end)
    assert outcome.code == 1
    assert program in outcome.err
    assert "should not happen" not in outcome.err


@pytest.mark.parametrize("name", ["python", "python3.12", "pythonw.exe", "Python", "pypy3", "python3-dbg", "vpython3"])
@pytest.mark.parametrize("folder", ["/opt/a python/bin/", "C:\\tools\\", ""])
def test_an_interpreter_by_whatever_name_is_one(name: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: os.fsencode(folder + name))
    assert interpreter() == folder + name


def test_a_program_may_name_its_python() -> None:
    before = multiprocessing.spawn.get_executable()
    try:
        multiprocessing.set_executable("/opt/python/bin/python3")
        assert command("a.module")[0] == "/opt/python/bin/python3"
    finally:
        multiprocessing.set_executable(before)


APP = """
import os, sys
with open(os.environ["STARTS"], "a") as file:
    file.write("start\\n")
if len(open(os.environ["STARTS"]).readlines()) < 4:
    # PyInstaller sees what is imported, and not what is imported by name.
    import resnet_infer.benchmarking.latency.worker, resnet_infer.cli.commands.benchmark
    import resnet_infer.cli.commands.classify
    import resnet_infer.runtimes.onnxruntime
    from resnet_infer.cli.main import main
    main()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_frozen_program_starts_no_second_one(tmp_path: Path) -> None:
    pytest.importorskip("PyInstaller")
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    others = ("torch", "onnx", "openvino", "bentoml", "matplotlib", "cv2", "scipy", "pandas", "IPython", "pytest")
    subprocess.run(
        [
            *(sys.executable, "-m", "PyInstaller", "--onedir", "--log-level", "ERROR", "--paths", str(ROOT)),
            *("--collect-data", "resnet_infer"),
            *(word for name in others for word in ("--exclude-module", name)),
            "app.py",
        ],
        cwd=tmp_path,
        check=True,
        timeout=800,
    )
    starts = tmp_path / "starts"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        starts.write_text("", encoding="utf-8")
        return subprocess.run(
            [tmp_path / "dist" / "app" / "app", *arguments],
            env={**os.environ, "STARTS": str(starts)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    answered = run("classify", str(PICTURES / "cat.jpg"), "-m", zoo.SMALL)
    assert (answered.returncode, "cat" in answered.stdout) == (0, True), answered.stderr
    measured = run("benchmark", zoo.SMALL)
    assert (measured.returncode, starts.read_text(encoding="utf-8")) == (1, "start\n"), measured.stderr
    assert "this program is frozen" in measured.stderr
