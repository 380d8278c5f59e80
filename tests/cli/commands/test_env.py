"""`resnet-infer env`: what is here, what is missing, and how to install it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from resnet_infer._version import __version__
from resnet_infer.cli.doctor.probe import Event, runtime_of
from resnet_infer.runtimes.registry import RuntimeInfo
from resnet_infer.utils.extras import EXTRAS
from tests.conftest import ROOT, Outcome

Cli = Callable[..., Outcome]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the packages' metadata say that just these distributions are installed."""

    def only(**versions: str) -> None:
        def find(name: str) -> str:
            try:
                return versions[name.replace("-", "_")]
            except KeyError:
                raise PackageNotFoundError(name) from None

        monkeypatch.setattr("importlib.metadata.version", find)

    return only


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every package be imported without a fault, in no time, and every runtime answer on a CPU."""

    def probe(modules: Iterable[str]) -> dict[str, list[Event]]:
        found = {"step": "import", "seconds": 0.1, "version": "1", "folder": None, "providers": [], "cuda": False}
        answers = {"step": "cpu", "seconds": 0.1, "answers": True}
        return {name: [found, answers][: 1 if runtime_of(name) is None else 2] for name in modules}

    monkeypatch.setattr("resnet_infer.cli.commands.env.probe", probe)
    monkeypatch.setattr("resnet_infer.cli.doctor.facts.outside_range", lambda: ())


def test_it_tells_versions_machine_and_devices(cli: Cli) -> None:
    done = cli("env", "--json")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert report["resnet-infer"] == __version__
    assert report["python"] == platform.python_version()
    assert 1 <= report["usable_cores"] <= report["cores"]
    assert report["memory_gb"] is None or report["memory_gb"] > 0
    assert report["problems"] == []
    assert report["processor"]
    assert set(report["packages"]) == {module for modules in EXTRAS.values() for module in modules}
    for found in filter(None, report["packages"].values()):
        name, number = found.split()
        assert version(name) == number
    if report["packages"]["onnxruntime"]:
        assert "cpu" in report["devices"]


def test_the_table_tells_the_same(cli: Cli) -> None:
    report = json.loads(cli("env", "--json").out)
    done = cli("env")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].index(__version__) == lines[1].index(report["python"])
    for value in (report["platform"], report["processor"], ", ".join(report["devices"])):
        assert any(line.endswith(f"  {value}") for line in lines)
    for module, found in report["packages"].items():
        assert any(line.startswith(module) and line.endswith(found or "not installed") for line in lines)
    for command in report["missing"]:
        assert any(line.endswith(command) for line in lines)


@pytest.mark.usefixtures("healthy")
def test_what_is_missing_comes_with_the_command_that_installs_it(
    cli: Cli, installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed()
    monkeypatch.setattr("resnet_infer.cli.commands.env.find_spec", lambda _: None)
    report = json.loads(cli("env", "--json").out)
    assert set(report["packages"].values()) == {None}
    assert report["devices"] == []
    assert report["missing"] == {
        f'pip install "resnet-infer[{extra}]"': list(modules) for extra, modules in EXTRAS.items()
    }
    done = cli("env")
    assert done.code == 1
    assert "none: no runtime can be used" in done.out
    assert done.out.count("not installed") == len(report["packages"])
    assert [one["name"] for one in report["problems"]] == ["no-runtime"]


@pytest.mark.parametrize(("flag", "openvino"), [("amx_int8", False), ("amx_int8", True), ("avx2", False)])
@pytest.mark.usefixtures("healthy")
def test_a_runtime_that_would_be_faster_here_is_named(
    flag: str, openvino: bool, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_infer.cli.commands.env.flags", lambda: frozenset({flag}))
    monkeypatch.setattr(RuntimeInfo, "is_installed", property(lambda row: row.name != "openvino" or openvino))
    faster = json.loads(cli("env", "--json").out)["faster"]
    if openvino or flag != "amx_int8":
        assert faster == []
        assert "faster: openvino" not in cli("env").out
        return
    assert faster[0]["runtime"] == "openvino"
    assert (faster[0]["precisions"], faster[0]["ratio"]) == (["int8"], 2.2)
    out = " ".join(cli("env").out.split())
    assert "faster: openvino INT8 models, many pictures or a service: 2.2 times as fast at batch 1" in out
    assert 'to install it: pip install "resnet-infer[openvino]"' in out


@pytest.mark.usefixtures("healthy")
def test_where_all_is_there_nothing_is_missing(cli: Cli, installed: Callable[..., None]) -> None:
    pytest.importorskip("onnxruntime", reason="tells the devices (the extra `cpu` or `gpu`)")
    installed(
        onnxruntime_gpu="1.2",
        tensorrt="10.1",
        cuda_bindings="12.9",
        onnx="1.3",
        torch="2.5",
        matplotlib="3.9",
        bentoml="1.4",
        mlcommons_loadgen="6.0",
        openvino="2026.4",
    )
    report = json.loads(cli("env", "--json").out)
    assert report["missing"] == {}
    assert report["packages"]["onnxruntime"] == "onnxruntime-gpu 1.2"
    assert "pip install" not in cli("env").out


@pytest.mark.usefixtures("healthy")
def test_one_package_of_two_is_not_enough(cli: Cli, installed: Callable[..., None]) -> None:
    pytest.importorskip("onnxruntime", reason="tells the devices (the extra `cpu` or `gpu`)")
    installed(
        onnxruntime_gpu="1.2",
        tensorrt="10.1",
        onnx="1.3",
        torch="2.5",
        matplotlib="3.9",
        bentoml="1.4",
        mlcommons_loadgen="6.0",
        openvino="2026.4",
    )
    assert json.loads(cli("env", "--json").out)["missing"] == {
        f'pip install "resnet-infer[{extra}]"': ["cuda"] for extra in ("tensorrt", "tensorrt-cu12")
    }


@pytest.mark.usefixtures("healthy")
def test_a_quota_and_a_limit_are_shown(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_infer.cli.commands.env.machine_cores", lambda: 64)
    monkeypatch.setattr("resnet_infer.cli.commands.env.usable_cores", lambda: 2)
    monkeypatch.setattr("resnet_infer.cli.commands.env.cpu_quota", lambda: 1.5)
    monkeypatch.setattr("resnet_infer.cli.commands.env.memory_limit", lambda: 2_000_000_000)
    report = json.loads(cli("env", "--json").out)
    assert [report[key] for key in ("cores", "usable_cores", "cpu_quota", "memory_limit_gb")] == [64, 2, 1.5, 2]
    out = cli("env").out
    assert "64, of which 2 may be used; the control group's quota is 1.5" in out
    assert "the control group's limit is 2 GB" in out


@pytest.mark.usefixtures("healthy")
def test_two_wheels_of_onnx_runtime_are_named_with_the_way_out(cli: Cli, installed: Callable[..., None]) -> None:
    pytest.importorskip("onnxruntime", reason="tells what is imported (the extra `cpu` or `gpu`)")
    installed(onnxruntime="1.26.0", onnxruntime_gpu="1.27.0")
    report = json.loads(cli("env", "--json").out)
    assert report["packages"]["onnxruntime"] == "onnxruntime 1.26.0, onnxruntime-gpu 1.27.0"
    (problem,) = report["problems"]
    assert problem["name"] == "two-distributions"
    both = "pip uninstall -y onnxruntime onnxruntime-gpu && "
    for extra in ("cpu", "gpu", "gpu-cu12"):
        assert f'{both}pip install "resnet-infer[{extra}]"' in problem["remedy"]
    done = cli("env")
    assert done.code == 1
    *_, told, remedy = done.out.splitlines()
    assert told.endswith(problem["message"])
    assert remedy.endswith(f"remedy: {problem['remedy']}")


def test_a_runtime_that_does_not_load_is_a_problem(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libcublas.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    done = cli("env", "--json")
    report = json.loads(done.out)
    assert (done.code, report["onnxruntime"]) == (1, None)
    assert "onnxruntime" not in {row["runtime"] for row in report["runtimes"]}
    (problem,) = report["problems"]
    assert problem["name"] == "import-fails"
    assert "libcublas.so.12" in problem["message"]
    assert "pip install" in problem["remedy"]


@pytest.mark.parametrize("broken", ["numpy", "filelock", "onnxruntime"])
def test_it_runs_where_a_package_is_broken(broken: str, tmp_path: Path) -> None:
    (tmp_path / f"{broken}.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    environment = {**os.environ, "PYTHONPATH": path, "RESNET_INFER_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "resnet_infer", "env", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)["problems"]
    assert f"{broken}: its process was ended by SIGILL" in [problem["message"] for problem in found]


def test_a_cache_that_cannot_be_used_is_a_problem(
    cli: Cli, healthy: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "file" / "cache"))
    done = cli("env")
    assert done.code == 1
    assert "remedy: set RESNET_INFER_CACHE to a folder" in done.out


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    ("package", "version", "majors", "row"),
    [
        (
            "10.16.1.11",
            "10.16.1.11",
            [8, 10],
            "of TensorRT 10.16.1.11; version-compatible ones of 8 and 10, if no newer",
        ),
        ("8.6.1.post1", "8.6.1", [8], "of TensorRT 8.6.1; version-compatible ones of 8, if no newer"),
    ],
)
def test_it_tells_which_engines_an_installed_tensorrt_runs(
    cli: Cli, installed: Callable[..., None], package: str, version: str, majors: list[int], row: str
) -> None:
    installed(tensorrt=package)
    assert json.loads(cli("env", "--json").out)["engines"] == {"tensorrt": version, "version_compatible": majors}
    assert any(line.split(maxsplit=1) == ["engines", row] for line in cli("env").out.splitlines())


@pytest.mark.usefixtures("healthy")
def test_without_tensorrt_no_engine_runs(cli: Cli, installed: Callable[..., None]) -> None:
    installed(onnx="1.3")
    assert json.loads(cli("env", "--json").out)["engines"] is None
    assert not any(line.startswith("engines") for line in cli("env").out.splitlines())
