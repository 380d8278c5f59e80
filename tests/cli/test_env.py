"""`resnet-infer env`: what is here, what is missing, and how to install it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import pytest

from resnet_infer import __version__
from resnet_infer.extras import EXTRAS
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
    assert report["cores"] >= 1
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


def test_what_is_missing_comes_with_the_command_that_installs_it(cli: Cli, installed: Callable[..., None]) -> None:
    installed()
    report = json.loads(cli("env", "--json").out)
    assert set(report["packages"].values()) == {None}
    assert report["devices"] == []
    assert report["missing"] == {
        f'pip install "resnet-infer[{extra}]"': list(modules) for extra, modules in EXTRAS.items()
    }
    done = cli("env")
    assert done.code == 0
    assert "none: no runtime is installed" in done.out
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
