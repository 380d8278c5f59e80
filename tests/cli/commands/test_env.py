"""`resnet-infer env`: what is here, what is missing, and how to install it."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from resnet_infer._version import __version__
from resnet_infer.utils.extras import EXTRAS
from tests.conftest import Outcome

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
    assert done.code == 0
    assert "none: no runtime can be used" in done.out
    assert done.out.count("not installed") == len(report["packages"])


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
    assert json.loads(cli("env", "--json").out)["missing"] == {'pip install "resnet-infer[gpu]"': ["cuda"]}


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


def test_two_wheels_of_onnx_runtime_are_named_with_the_way_out(cli: Cli, installed: Callable[..., None]) -> None:
    pytest.importorskip("onnxruntime", reason="tells what is imported (the extra `cpu` or `gpu`)")
    installed(onnxruntime="1.26.0", onnxruntime_gpu="1.27.0")
    report = json.loads(cli("env", "--json").out)
    assert report["packages"]["onnxruntime"] == "onnxruntime 1.26.0, onnxruntime-gpu 1.27.0"
    assert "CPUExecutionProvider" in report["onnxruntime"]["providers"]
    (problem,) = report["problems"]
    both = "pip uninstall -y onnxruntime onnxruntime-gpu && "
    for extra in ("cpu", "gpu"):
        assert f'{both}pip install "resnet-infer[{extra}]"' in problem
    assert f'{both}pip install "resnet-infer[gpu]"' in report["missing"]
    assert problem in cli("env").out


def test_a_runtime_that_does_not_load_is_a_problem_and_no_error(
    cli: Cli, installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libcublas.so.12: cannot open shared object file')")
    installed(onnxruntime_gpu="1.27.0")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnxruntime" or "ort_session" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("resnet_infer.runtimes.ort_session", raising=False)
    done = cli("env", "--json")
    report = json.loads(done.out)
    assert (done.code, report["devices"], report["onnxruntime"]) == (0, [], None)
    (problem,) = report["problems"]
    assert "libcublas.so.12" in problem
    assert "pip install --force-reinstall --no-deps onnxruntime-gpu" in problem


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


def test_without_tensorrt_no_engine_runs(cli: Cli, installed: Callable[..., None]) -> None:
    installed(onnx="1.3")
    assert json.loads(cli("env", "--json").out)["engines"] is None
    assert not any(line.startswith("engines") for line in cli("env").out.splitlines())
