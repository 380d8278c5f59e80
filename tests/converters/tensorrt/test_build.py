"""The builder's options, errors, timing cache, progress and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resnet_infer.errors import (
    ModelError,
    ResnetInferError,
    UsageError,
)

onnx = pytest.importorskip("onnx", reason="the extra `export`")
pytest.importorskip("onnxruntime", reason="answers for the engines (the extra `cpu`)")

from tests.tensorrt import machine as machines  # noqa: E402
from tests.tensorrt.graphs import small  # noqa: E402
from tests.tensorrt.machine import Machine  # noqa: E402

pytestmark = pytest.mark.usefixtures("notes_on_stderr")

VERSIONS = ("8.6.1", "10.3.0", "10.16.1.11", "11.4.0.106")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield from machines.install(monkeypatch)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.engine"


def build(target: Path, progress: Any = None, **options: Any) -> Any:
    from resnet_infer.converters.tensorrt.export import BuildOptions, build_engine

    return build_engine(small(), target, precision="fp32", options=BuildOptions(**options), progress=progress)


def test_every_option_reaches_the_builder(machine: Machine, target: Path) -> None:
    options: dict[str, Any] = {
        "min_batch": 2,
        "opt_batch": 3,
        "max_batch": 5,
        "workspace": 1 << 20,
        "optimization_level": 5,
    }
    info = build(target, version_compatible=True, hardware_compatible=True, **options)
    (built,) = machine.built
    assert built.names == {"VERSION_COMPATIBLE"}
    assert built.pools == {"WORKSPACE": 1 << 20}
    assert built.builder_optimization_level == 5
    assert built.hardware_compatibility_level.name == "AMPERE_PLUS"
    assert [shape[0] for shape in built.profiles[0].shapes["images"]] == [2, 3, 5]
    assert info.version_compatible
    assert info.hardware_compatible


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_batch": 0},
        {"min_batch": 9},
        {"opt_batch": 65},
        {"max_batch": 7},
        {"workspace": 0},
        {"optimization_level": 6},
        {"optimization_level": -1},
    ],
)
def test_options_out_of_range_are_usage_errors(machine: Machine, target: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        build(target, **wrong)


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
def test_what_the_parser_cannot_read_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, target: Path, version: str
) -> None:
    machines.set_version(machine, monkeypatch, version)
    machine.parser_errors = [(2, "conv0", "Conv", "no importer"), (-1, "", "", "out of sorts")] + 9 * [
        (3, "conv1", "Conv", "as before")
    ]
    message = r"cannot read the model: node conv0 \(Conv\): no importer; out of sorts; .* \(and 6 more\)"
    with pytest.raises(ModelError, match=rf"TensorRT {version} {message}"):
        build(target)
    assert not list(target.parent.iterdir())
    machine.assert_clean()


@pytest.mark.parametrize("what", ["build_error", "load_error", "context_error"])
def test_what_the_builder_cannot_do_is_said_with_its_reason(machine: Machine, target: Path, what: str) -> None:
    setattr(machine, what, "Error Code 2: OutOfMemory (requested 9 GiB)")
    with pytest.raises(ResnetInferError, match="Error Code 2: OutOfMemory") as caught:
        build(target)
    assert "consequence" not in str(caught.value)
    assert not list(target.parent.iterdir())
    machine.assert_clean()


def test_a_timing_cache_is_made_and_used_again(
    machine: Machine, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "caches" / "timing.cache"
    build(target, timing_cache=cache)
    assert machine.built[-1].cache.content == b""
    assert cache.read_bytes() == b"timings of this GPU, more"
    build(target, timing_cache=cache)
    assert machine.built[-1].cache.content == b"timings of this GPU, more"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [b"garbage", b"timings of another GPU"])
def test_a_foreign_timing_cache_is_left_out_and_replaced(
    machine: Machine, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(content)
    build(target, timing_cache=cache)
    assert machine.built[-1].cache.content == b""
    assert cache.read_bytes() == b"timings of this GPU, more"
    assert "is damaged, or of another GPU or TensorRT" in capsys.readouterr().err


def test_a_timing_cache_that_cannot_be_read_or_written_costs_no_engine(
    machine: Machine, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(target, timing_cache=tmp_path)
    told = capsys.readouterr().err
    assert "cannot be read" in told
    assert "was not saved" in told
    assert target.exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_progress_is_told_where_tensorrt_tells_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, target: Path, version: str
) -> None:
    machines.set_version(machine, monkeypatch, version)
    told: list[tuple[int, str | None]] = []

    def during(config: Any) -> None:
        if config.progress_monitor:
            config.progress_monitor.phase_start("Tactics", None, 2)
            assert config.progress_monitor.step_complete("Tactics", 0) is True
            config.progress_monitor.phase_finish("Tactics")

    machine.during = during
    build(target, progress=lambda count, title=None: told.append((count, title)))
    assert told == ([] if machine.major == 8 else [(0, "Tactics"), (1, None)])


@pytest.mark.parametrize("version", VERSIONS)
def test_ctrl_c_ends_the_build_and_leaves_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, target: Path, version: str
) -> None:
    machines.set_version(machine, monkeypatch, version)
    before = signal.getsignal(signal.SIGINT)

    def during(config: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        if config.progress_monitor:
            assert config.progress_monitor.step_complete("Tactics", 0) is False
            machine.build_error = "the build was cancelled"

    machine.during = during
    with pytest.raises(KeyboardInterrupt):
        build(target)
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(target.parent.iterdir())
    machine.assert_clean()
