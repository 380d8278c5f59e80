"""Opening on a GPU: what ONNX Runtime is asked for, and what is said of operators that stay on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

from resnet_infer import zoo  # noqa: E402
from resnet_infer.runtimes import ort_session  # noqa: E402
from resnet_infer.runtimes.nvidia import sessions  # noqa: E402
from resnet_infer.runtimes.nvidia.sessions import NO_CPU, GpuOptions, gpu_providers, open_gpu  # noqa: E402

ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")
REFUSAL = (
    "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default CPU EP, but "
    "fallback to CPU EP has been explicitly disabled by the user."
)


class Opened:
    def __init__(self, providers: list[Any]) -> None:
        self._providers = [item if isinstance(item, str) else item[0] for item in providers]

    def get_providers(self) -> list[str]:
        return self._providers


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[Any]]]:
    """What sessions were opened with, on a machine where nothing hinders."""
    found: list[tuple[Any, list[Any]]] = []

    def opened(model: Any, options: Any, *, providers: list[Any], fallback: bool) -> Opened:
        assert not fallback
        found.append((options, providers))
        return Opened(providers)

    monkeypatch.setattr(sessions, "obstacle", lambda provider, number: None)
    monkeypatch.setattr(ort_session, "open_session", opened)
    return found


def entry(options: Any) -> str | None:
    try:
        return str(options.get_session_config_entry(NO_CPU))
    except RuntimeError:
        return None


def test_a_session_has_no_provider_for_the_cpu(asked: list[Any]) -> None:
    session, obstacle = open_gpu(str(ARTIFACT), ort_session.session_options, GpuOptions("cuda", 1))
    assert (session.get_providers(), obstacle) == (["CUDAExecutionProvider"], None)
    ((options, providers),) = asked
    assert entry(options) == "1"
    assert providers == [
        ("CUDAExecutionProvider", {"device_id": 1, "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": 0})
    ]


def test_operators_without_a_kernel_run_on_the_cpu_and_are_told_of(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, notes_on_stderr: None, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ort_session.open_session

    def refusing(model: Any, options: Any, **settings: Any) -> Any:
        if entry(options) == "1":
            raise RuntimeError(REFUSAL)
        return plain(model, options, **settings)

    monkeypatch.setattr(ort_session, "open_session", refusing)
    session, _ = open_gpu(str(ARTIFACT), ort_session.session_options, GpuOptions("cuda"))
    assert session.get_providers() == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert "operators without a kernel for CUDA run on the CPU" in capsys.readouterr().err


def test_the_refusal_is_worded_as_onnx_runtime_words_it() -> None:
    """The real one refuses a graph of which all operators are on the CPU."""
    options = ort_session.session_options(silent=True)
    options.add_session_config_entry(NO_CPU, "1")
    with pytest.raises(Exception, match=sessions._REFUSED):
        onnxruntime.InferenceSession(str(ARTIFACT), options, providers=[])


def test_another_failure_has_its_cause(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(model: Any, options: Any, **settings: Any) -> Any:
        raise RuntimeError("templates " * 60 + "CUDA failure 2: out of memory ; GPU=0 ; hostname=vm")

    monkeypatch.setattr(ort_session, "open_session", failing)
    session, obstacle = open_gpu(str(ARTIFACT), ort_session.session_options, GpuOptions("cuda"))
    assert (session, obstacle and obstacle.reason) == (
        None,
        "ONNX Runtime could not start CUDA (CUDA failure 2: out of memory)",
    )
    assert obstacle
    assert "nvidia-smi" in obstacle.hint


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", 0), ("fp16", None), ("int8", None)])
def test_tf32_is_switched_off_where_there_is_fp32_only(precision: Any, tf32: int | None, with_precision: Any) -> None:
    ((_, options),) = gpu_providers(with_precision(precision), GpuOptions("cuda"))
    assert options.get("use_tf32") == tf32
    ((_, options),) = gpu_providers(with_precision(precision), GpuOptions("cuda", tf32=True))
    assert options.get("use_tf32") == (None if tf32 is None else 1)


def test_tensorrt_is_given_the_range_of_batches(tmp_path: Path) -> None:
    (name, options), (after, _) = gpu_providers(ARTIFACT, GpuOptions("tensorrt", engine_cache=tmp_path / "engines"))
    assert (name, after) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    shapes = [options[f"trt_profile_{kind}_shapes"] for kind in ("min", "opt", "max")]
    assert shapes == ["images:1x32x32x3", "images:8x32x32x3", "images:32x32x32x3"]
    assert (tmp_path / "engines").is_dir()


def test_the_log_is_silent_while_a_session_opens_and_warns_again_after(monkeypatch: pytest.MonkeyPatch) -> None:
    severities: list[int] = []
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", severities.append)
    with pytest.raises(ZeroDivisionError), ort_session.silence():
        raise ZeroDivisionError
    assert severities == [4, 2]
