"""ONNX Runtime behind the interface of a runtime: what it takes, what it answers, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import ModelError, RuntimeUnavailableError, UsageError
from resnet_infer.models.spec import METADATA_KEY
from resnet_infer.runtimes.base import parse_device
from resnet_infer.runtimes.nvidia.driver import ask_driver
from resnet_infer.utils.cpu import compute_threads

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

from resnet_infer.runtimes.onnxruntime import OnnxRuntime  # noqa: E402

pytestmark = pytest.mark.usefixtures("notes_on_stderr")

ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")
Photos = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="module")
def runtime() -> Iterator[OnnxRuntime]:
    opened = OnnxRuntime(ARTIFACT, device="cpu")
    with opened:
        yield opened


@pytest.fixture(scope="module")
def images(runtime: OnnxRuntime, photos: Photos) -> NDArray[np.uint8]:
    return photos(13, runtime.spec.input.crop)


def test_it_knows_its_spec_its_size_and_its_device(runtime: OnnxRuntime) -> None:
    crop = runtime.spec.input.crop
    assert (runtime.size, runtime.device) == ((crop, crop), "cpu")
    assert runtime.describe() == {
        "runtime": "onnxruntime",
        "device": "cpu",
        "version": onnxruntime.__version__,
        "threads": compute_threads(),
        "provider": "cpu",
        "precision": "fp32",
        "spin": True,
        "optimize": True,
    }


def test_logits_are_float32_one_row_a_picture(runtime: OnnxRuntime, images: NDArray[np.uint8]) -> None:
    logits = runtime(images)
    assert logits.dtype == np.float32
    assert logits.shape == (len(images), len(runtime.spec.classes))
    assert np.isfinite(logits).all()
    assert len(np.unique(logits, axis=0)) == len(images)


def test_no_pictures_give_no_rows_and_start_nothing(
    runtime: OnnxRuntime, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntime, "_run", None)
    logits = runtime(images[:0])
    assert logits.shape == (0, len(runtime.spec.classes))
    assert logits.dtype == np.float32


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=40))
def test_a_picture_is_answered_alike_alone_and_in_any_batch(
    runtime: OnnxRuntime, images: NDArray[np.uint8], order: list[int]
) -> None:
    alone = np.concatenate([runtime(images[i : i + 1]) for i in range(len(images))])
    np.testing.assert_allclose(runtime(images[order]), alone[order], rtol=0, atol=1e-4 * alone.std())


def test_memory_may_lie_in_any_order(runtime: OnnxRuntime, images: NDArray[np.uint8]) -> None:
    for view in (images[::-2], images[:, ::-1, ::-1], images.transpose(0, 2, 1, 3), np.asfortranarray(images)):
        np.testing.assert_array_equal(runtime(view), runtime(view.copy(order="C")))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (np.float32, (1, 32, 32, 3)),
        (np.int8, (1, 32, 32, 3)),
        (np.uint8, (32, 32, 3)),
        (np.uint8, (1, 3, 32, 32)),
        (np.uint8, (1, 32, 32, 4)),
        (np.uint8, (1, 1, 32, 32, 3)),
    ],
)
def test_other_than_uint8_nhwc_is_refused(runtime: OnnxRuntime, dtype: type, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"uint8 of shape \(N, height, width, 3\), not") as caught:
        runtime(np.zeros(shape, dtype))
    assert f"{np.dtype(dtype)} {shape}" in str(caught.value)


@pytest.mark.parametrize("wrong", [(-1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("count", [0, 2])
def test_another_size_is_refused(runtime: OnnxRuntime, wrong: tuple[int, int], count: int) -> None:
    crop = runtime.spec.input.crop
    with pytest.raises(UsageError, match="takes pictures of"):
        runtime(np.zeros((count, crop + wrong[0], crop + wrong[1], 3), np.uint8))


def test_threads_and_optimisation_change_speed_and_not_answers(runtime: OnnxRuntime, images: NDArray[np.uint8]) -> None:
    expected = runtime(images)
    for other in (OnnxRuntime(ARTIFACT, threads=1), OnnxRuntime(ARTIFACT, optimize=False)):
        with other:
            np.testing.assert_allclose(other(images), expected, rtol=0, atol=1e-4 * expected.std())
    with OnnxRuntime(ARTIFACT, device="cpu", threads=3) as three:
        assert three.describe()["threads"] == 3


def test_a_serialised_model_is_as_good_as_a_path(runtime: OnnxRuntime, images: NDArray[np.uint8]) -> None:
    with OnnxRuntime(ARTIFACT.read_bytes(), device="cpu") as opened:
        np.testing.assert_array_equal(opened(images), runtime(images))
        assert opened.spec == runtime.spec


# Files that are no artifacts of ours


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx does not exist"):
        OnnxRuntime(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08" * 1000, ARTIFACT.read_bytes()[:-100_000]])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged\.onnx: ONNX Runtime cannot load it \(.+\)$") as caught:
        OnnxRuntime(path)
    assert "\n" not in str(caught.value)


def test_damaged_bytes_have_a_name_too() -> None:
    with pytest.raises(ModelError, match=r"^the model: ONNX Runtime cannot load it"):
        OnnxRuntime(b"no model")


def test_a_foreign_model_is_sent_to_import(foreign: Path) -> None:
    with pytest.raises(ModelError, match=r"foreign\.onnx carries no model spec") as caught:
        OnnxRuntime(foreign)
    assert f"resnet-infer import {foreign}" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{", ": its spec is damaged"),
        ("{}", ": its spec is damaged"),
        ("[]", ": its spec is damaged"),
        (json.dumps({"format": 99}), " is of format 99 of the model spec; this resnet-infer reads up to 1"),
    ],
)
def test_a_damaged_or_newer_spec_is_named(tmp_path: Path, spec: str, message: str) -> None:
    onnx = pytest.importorskip("onnx", reason="changes the model (the extra `export`)")
    model = onnx.load(ARTIFACT)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec})
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=rf"model\.onnx{message}"):
        OnnxRuntime(path)


# Devices


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_a_device_that_is_named_is_never_replaced(device: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=f"^{device} was asked for, and this ONNX Runtime has no CUDA"):
        OnnxRuntime(ARTIFACT, device=device)


@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="no CUDA here")
def test_cuda_is_used_where_it_is_there_and_answers_alike(runtime: OnnxRuntime) -> None:
    images = natural_noise(8, runtime.spec.input.crop, runtime.spec.input.crop)
    expected = runtime(images)
    for device in ("auto", "cuda", "cuda:0"):
        with OnnxRuntime(ARTIFACT, device=device) as cuda:
            assert cuda.device == "cuda:0"
            np.testing.assert_allclose(cuda(images), expected, rtol=0, atol=1e-2 * expected.std())


@pytest.mark.parametrize(
    ("device", "close"),
    [
        ("cdua", "cuda"),
        ("cuda:", "cuda"),
        ("cuda:x", "cuda"),
        ("cuda:-1", "cuda"),
        ("cuda:٣", "cuda"),
        ("cpu:0", "cpu"),
        ("auto:1", "auto"),
        ("tpu-v5", None),
        ("", None),
    ],
)
def test_an_unknown_device_is_a_usage_error(device: str, close: str | None) -> None:
    with pytest.raises(UsageError, match="there is no device") as caught:
        OnnxRuntime(ARTIFACT, device=device)
    assert caught.value.message.partition("; ")[2] == (f"did you mean {close}?" if close else "")
    assert caught.value.hint == "a device is auto, cpu, cuda or cuda:N"


@given(st.integers(0, 10**6))
def test_a_device_has_a_kind_and_a_number(number: int) -> None:
    assert parse_device(f"cuda:{number}") == ("cuda", number)
    assert [parse_device(kind) for kind in ("auto", "cpu", "cuda")] == [("auto", 0), ("cpu", 0), ("cuda", 0)]
    assert (
        parse_device(str(number)) == parse_device(f"gpu:{number}") == parse_device(f"CUDA:{number}") == ("cuda", number)
    )
    assert [parse_device(kind) for kind in ("gpu", "GPU", "CPU")] == [("cuda", 0), ("cuda", 0), ("cpu", 0)]


def test_auto_goes_on_with_the_cpu_where_cuda_does_not_start_and_a_named_device_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], images: NDArray[np.uint8]
) -> None:
    """A build of ONNX Runtime that has CUDA, on a machine that has not."""
    if ask_driver().error is None:
        pytest.skip("an NVIDIA driver is here")
    built = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built)
    runtime = OnnxRuntime(ARTIFACT, device="auto")
    assert runtime.device == "cpu"
    assert runtime(images).shape == (13, 10)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "the CPU is used: there is no NVIDIA driver here" in captured.err
    with pytest.raises(RuntimeUnavailableError, match="cuda:1 was asked for, and there is no NVIDIA driver") as caught:
        OnnxRuntime(ARTIFACT, device="cuda:1")
    assert "nvidia-smi must list it" in str(caught.value.hint)


def test_closed_is_closed(images: NDArray[np.uint8]) -> None:
    with OnnxRuntime(ARTIFACT, device="cpu") as runtime:
        runtime(images)
    with pytest.raises(UsageError, match="was closed"):
        runtime(images)


# Providers and threads


def test_threads_may_sleep_instead_of_spinning(images: NDArray[np.uint8], runtime: OnnxRuntime) -> None:
    with OnnxRuntime(ARTIFACT, device="cpu", spin=False) as still:
        options = still.session.get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert still.describe()["spin"] is False
        np.testing.assert_array_equal(still(images), runtime(images))
    with pytest.raises(RuntimeError):  # nothing is set, so ONNX Runtime's own default holds
        runtime.session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider": "tensort"}, r"there is no provider 'tensort'; did you mean tensorrt\?"),
        ({"provider": "cuda", "device": "cpu"}, "the provider cuda runs on a GPU"),
        ({"provider": "tensorrt", "device": "cpu"}, "the provider tensorrt runs on a GPU"),
        ({"engine_cache": Path("engines")}, "belongs to the provider tensorrt"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OnnxRuntime(ARTIFACT, **options)


@pytest.mark.parametrize(("provider", "called"), [("cuda", "CUDA"), ("tensorrt", "TensorRT")])
@pytest.mark.parametrize("device", ["auto", "cuda:2"])
def test_a_provider_that_is_named_is_never_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: Any, called: str, device: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    cache = tmp_path / "engines" if provider == "tensorrt" else None
    with pytest.raises(RuntimeUnavailableError, match=f"provider {provider} was asked for, .* has no {called}"):
        OnnxRuntime(ARTIFACT, device=device, provider=provider, engine_cache=cache)
    assert not (tmp_path / "engines").exists()


class Session:
    """ONNX Runtime as a build with GPU has it, on a machine without: it notes what it is asked for."""

    asked: ClassVar[list[Any]] = []
    starts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Any, options: Any, *, providers: list[Any], enable_fallback: int = 1) -> None:
        Session.asked = providers
        names = [item if isinstance(item, str) else item[0] for item in providers]
        self._own = [name for name in names if name == "CPUExecutionProvider" or name in Session.starts]
        self._real = real_session(model, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return self._own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


real_session = onnxruntime.InferenceSession


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr("resnet_infer.runtimes.nvidia.sessions.obstacle", lambda provider, number: None)


def test_int8_made_for_a_cpu_stays_there_unless_the_gpu_is_named(
    gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Session, "starts", ("CUDAExecutionProvider",))
    artifact = zoo.built_in(zoo.DEFAULT, ".onnx")
    with OnnxRuntime(artifact) as runtime:
        assert runtime.device == "cpu"
    assert "for the GPU: resnet-infer export" in capsys.readouterr().err
    with OnnxRuntime(artifact, device="cuda") as runtime:
        assert runtime.device == "cuda:0"
    with OnnxRuntime(ARTIFACT) as runtime:
        assert runtime.device == "cuda:0"
    assert capsys.readouterr().err == ""


def settings_of(name: str) -> dict[str, Any]:
    (found,) = (item[1] for item in Session.asked if item[0] == name)
    return dict(found)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_is_allowed_the_precision_of_the_artifact(
    gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: Any
) -> None:
    monkeypatch.setattr(Session, "starts", ("TensorrtExecutionProvider", "CUDAExecutionProvider"))
    onnx = pytest.importorskip("onnx", reason="changes the model (the extra `export`)")
    from resnet_infer.models.graph import set_spec

    model = onnx.load(ARTIFACT)
    with OnnxRuntime(ARTIFACT, device="cpu") as plain:
        set_spec(model, plain.spec.with_(precision=precision))
    cache = tmp_path / "engines"
    with OnnxRuntime(model.SerializeToString(), device="cuda:1", provider="tensorrt", engine_cache=cache) as runtime:
        about = runtime.describe()
    assert (about["provider"], about["device"]) == ("tensorrt", "cuda:1")
    assert about["precision"] == ("tf32" if precision == "fp32" else precision)
    assert [item if isinstance(item, str) else item[0] for item in Session.asked] == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
    ]
    settings = settings_of("TensorrtExecutionProvider")
    assert (settings["trt_fp16_enable"], settings["trt_int8_enable"]) == (precision == "fp16", precision == "int8")
    assert settings["device_id"] == settings_of("CUDAExecutionProvider")["device_id"] == 1
    assert settings["trt_engine_cache_path"] == str(cache)
    assert cache.is_dir()


def test_a_provider_that_does_not_start_is_never_replaced_by_the_next(
    gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime goes on with CUDA where TensorRT's libraries are missing."""
    monkeypatch.setattr(Session, "starts", ("CUDAExecutionProvider",))
    with pytest.raises(RuntimeUnavailableError, match="tensorrt was asked for, and ONNX Runtime could not start Tens"):
        OnnxRuntime(ARTIFACT, provider="tensorrt")
    with OnnxRuntime(ARTIFACT) as runtime:
        assert (runtime.provider, runtime.device) == ("cuda", "cuda:0")


@pytest.mark.parametrize("tf32", [False, True])
def test_fp32_on_cuda_is_fp32_unless_tf32_is_asked_for(gpu: None, monkeypatch: pytest.MonkeyPatch, tf32: bool) -> None:
    monkeypatch.setattr(Session, "starts", ("CUDAExecutionProvider",))
    with OnnxRuntime(ARTIFACT, device="cuda", tf32=tf32) as runtime:
        assert runtime.describe()["precision"] == ("tf32" if tf32 else "fp32")
    assert settings_of("CUDAExecutionProvider")["use_tf32"] == int(tf32)


def test_the_variable_of_nvidia_switches_tf32_off_everywhere(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "starts", ("TensorrtExecutionProvider", "CUDAExecutionProvider"))
    for value, precision in (("1", "tf32"), ("0", "fp32")):
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", value)
        with OnnxRuntime(ARTIFACT, provider="tensorrt") as runtime:
            assert runtime.describe()["precision"] == precision
