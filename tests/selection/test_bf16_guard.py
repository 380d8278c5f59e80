"""bfloat16 by name: chosen only where it is asked for, compared with FP32 first, and said wherever it answers."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_infer import Classifier, zoo
from resnet_infer import open_runtime as open_by_name
from resnet_infer.errors import MissingExtraError, ParityError, RuntimeUnavailableError, UsageError
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.runtimes import registry
from resnet_infer.runtimes.registry import RUNTIMES, get_runtime, open_runtime, select_runtime
from resnet_infer.selection import bf16_guard
from resnet_infer.selection.bf16_guard import STORE, require_bf16, require_compute
from resnet_infer.serving.settings import Settings
from resnet_infer.utils import cpu
from tests.conftest import ROOT

ARTIFACT, CHECKPOINT = (zoo.built_in(zoo.SMALL, suffix) for suffix in (".onnx", ".safetensors"))
INT8 = zoo.built_in(zoo.DEFAULT, ".onnx")
MODELS = {"openvino": ARTIFACT, "torch": CHECKPOINT}


def has_bf16(runtime: str) -> bool:
    """Whether the runtime is installed and computes in bfloat16 here."""
    try:
        load = registry.runtime_class(MODELS[runtime], runtime)
        load.hardware("cpu", "bf16")  # type: ignore[attr-defined]
    except (ImportError, MissingExtraError, RuntimeUnavailableError):
        return False
    return True


ABLE = [name for name in MODELS if has_bf16(name)]
needs_bf16 = pytest.mark.skipif([*MODELS] != ABLE, reason="OpenVINO, torch and a processor with bfloat16")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without verdicts, and no note said yet."""
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bf16_guard, "_NOTED", set())


def offset() -> Checkpoint:
    """The built-in network with 100 added to the last layer's weights.

    All logits of a picture get the same sum on top, which softmax ignores: in FP32 it answers as before. In bfloat16
    the weights are 100 + w rounded to steps of 0.5, and little of w is left.
    """
    checkpoint = zoo.checkpoint(zoo.SMALL)
    weights = {**checkpoint.weights, "fc.weight": checkpoint.weights["fc.weight"] + np.float32(100)}
    return replace(checkpoint, weights=weights)


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, Path | Checkpoint]:
    """The network that loses too much, as each runtime takes it."""
    from resnet_infer.converters.source import export_onnx

    export_onnx(offset(), tmp_path / "offset.onnx")
    return {"openvino": tmp_path / "offset.onnx", "torch": offset()}


def crops() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)


# What is chosen


def test_auto_never_computes_in_bf16() -> None:
    assert select_runtime(ARTIFACT).name == "onnxruntime"
    with open_runtime(ARTIFACT, device="cpu") as opened:
        assert (opened.name, opened.precision) == ("onnxruntime", "fp32")
    assert not STORE.path.exists()


@pytest.mark.skipif("openvino" not in ABLE, reason="OpenVINO and a processor with bfloat16")
@pytest.mark.parametrize(("compute", "hint"), [("auto", "f32"), ("fp32", "f32"), ("bf16", "bf16")])
def test_openvino_is_told_what_to_compute_in(compute: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    told = []
    compile_model = openvino.Core.compile_model

    def watched(self: Any, graph: Any, device: str, config: dict[str, Any]) -> Any:
        told.append(config["INFERENCE_PRECISION_HINT"])
        return compile_model(self, graph, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", watched)
    with open_runtime(ARTIFACT, runtime="openvino", compute=compute) as opened:
        assert told == [hint]
        assert opened.precision == opened.describe()["precision"] == ("bf16" if hint == "bf16" else "fp32")


@pytest.mark.parametrize(("runtime", "options"), [("openvino", {"bf16": True}), ("torch", {"precision": "bf16"})])
def test_what_is_named_goes_before_an_option(runtime: str, options: dict[str, Any]) -> None:
    pytest.importorskip(runtime, reason="the runtime")
    with open_runtime(MODELS[runtime], runtime=runtime, device="cpu", compute="fp32", **options) as opened:
        assert opened.describe()["precision"] == "fp32"


@needs_bf16
@pytest.mark.parametrize(("model", "name"), [(ARTIFACT, "openvino"), (CHECKPOINT, "torch")])
def test_auto_takes_the_first_installed_runtime_that_has_it(model: Path, name: str) -> None:
    assert select_runtime(model, compute="bf16").name == name
    assert select_runtime(model, compute="fp32").name == select_runtime(model).name


def test_only_openvino_and_torch_have_it() -> None:
    assert [row.name for row in RUNTIMES if "bf16" in row.computes] == ["openvino", "torch"]
    assert all("fp32" in row.computes for row in RUNTIMES)
    assert all(set(options) <= set(row.options) for row in RUNTIMES for options in row.computes.values())


# What is refused


def test_without_a_runtime_that_has_it_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.RuntimeInfo, "is_installed", property(lambda row: row.name == "torch"))
    with pytest.raises(RuntimeUnavailableError, match="no installed runtime computes it in bf16") as caught:
        select_runtime(ARTIFACT, compute="bf16")
    assert caught.value.hint == ('pip install "resnet-infer[openvino]", or --runtime torch; or leave --compute out')


@pytest.mark.parametrize("runtime", ["onnxruntime", "null"])
def test_a_named_runtime_without_it_is_refused(runtime: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=f"the runtime {runtime} does not compute in bf16") as caught:
        select_runtime(ARTIFACT, runtime, "bf16")
    assert caught.value.hint == "--runtime openvino or torch; or leave --compute out"


def test_a_file_that_no_runtime_computes_in_it_is_refused() -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"no runtime that opens \.engine computes in bf16"):
        select_runtime(Path("model.engine"), compute="bf16")


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
def test_an_int8_artifact_is_refused(compute: str) -> None:
    for refusing in (require_compute, lambda model, compute: open_runtime(model, compute=compute)):
        with pytest.raises(UsageError, match=f"--compute {compute} is for FP32 models, and .* is int8") as caught:
            refusing(INT8, compute)
        assert "resnet-infer export" in str(caught.value.hint)


def test_a_mistyped_compute_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"no runtime computes in 'bf61'; did you mean bf16\?"):
        open_runtime(ARTIFACT, compute="bf61")
    with pytest.raises(UsageError, match=r"compute is auto, fp32 or bf16, not 'bf61'; did you mean bf16\?"):
        Settings(compute="bf61")


@pytest.mark.parametrize("runtime", MODELS)
def test_a_processor_without_it_is_refused(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino" if runtime == "openvino" else "torch", reason="the runtime")
    if runtime == "openvino":
        from resnet_infer.runtimes import openvino

        class OldCore:
            def get_property(self, device: str, name: str) -> list[str]:
                return ["FP32", "INT8"]

        monkeypatch.setattr(openvino, "CORE", OldCore())
    monkeypatch.setattr(cpu, "flags", lambda: frozenset({"avx2", "avx512f"}))
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(RuntimeUnavailableError, match=r"bf16 was asked for, and .*(none|no instructions)") as caught:
        require_compute(MODELS[runtime], "bf16", runtime=runtime, device="cpu")
    assert "leave --compute" in str(caught.value.hint)
    assert not STORE.path.exists()


# What it costs


@pytest.mark.parametrize("runtime", ABLE)
def test_answers_are_those_of_fp32_within_the_limit(runtime: str) -> None:
    verdict = bf16_guard.compare_with_fp32(MODELS[runtime], runtime, "cpu")
    assert verdict.passed, verdict
    assert verdict.measured.pictures == bf16_guard.PICTURES == 16
    assert 1e-6 < verdict.measured.error < 5e-4  # sound networks are far from the limit, and not computed in FP32


@pytest.mark.parametrize("runtime", ABLE)
def test_a_network_that_loses_too_much_is_refused(planted: dict[str, Any], runtime: str) -> None:
    model = planted[runtime]
    with open_runtime(model, runtime=runtime) as opened, open_runtime(MODELS[runtime], runtime=runtime) as sound:
        same = opened(crops()).argmax(1) == sound(crops()).argmax(1)
    assert same.all()  # in FP32 it is sound
    for _ in range(2):  # by the comparison, and by the verdict that was kept
        with pytest.raises(
            ParityError, match=r"loses too much in bf16: the logit error is .* of the variance"
        ) as caught:
            Classifier(model, runtime=runtime, compute="bf16") if isinstance(model, Path) else require_compute(
                model, "bf16", runtime=runtime
            )
        assert "leave --compute out" in str(caught.value.hint)
    (entry,) = STORE.entries()
    assert (entry["passed"], entry["runtime"]) == (False, runtime)
    require_compute(model, "fp32", runtime=runtime)


# The verdict is kept


@pytest.mark.parametrize("runtime", ABLE)
def test_it_is_compared_once(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = bf16_guard.compare_with_fp32

    def counted(*given: Any) -> Any:
        compared.append(given)
        return compare(*given)

    monkeypatch.setattr(bf16_guard, "compare_with_fp32", counted)
    model = MODELS[runtime]
    for _ in range(2):
        require_bf16(model, runtime, "cpu")
    assert len(compared) == 1
    for change in ("hardware", "_version"):
        target: Any = registry.runtime_class(model, runtime) if change == "hardware" else bf16_guard
        monkeypatch.setattr(target, change, lambda *given: "another")
        require_bf16(model, runtime, "cpu")
        require_bf16(model, runtime, "cpu")
    assert len(compared) == 3
    assert len(STORE.entries()) == 3
    STORE.path.write_text("{")
    require_bf16(model, runtime, "cpu")
    assert len(compared) == 4
    assert len(STORE.entries()) == 1


@pytest.mark.skipif(not ABLE, reason="a runtime and a processor with bfloat16")
def test_of_an_unknown_version_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16_guard, "_version", lambda row: None)
    require_bf16(MODELS[ABLE[0]], ABLE[0], "cpu")
    assert not STORE.path.exists()


@pytest.mark.skipif(not ABLE, reason="a runtime and a processor with bfloat16")
def test_a_copy_is_compared_where_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = ABLE[0]
    with Classifier(MODELS[runtime], runtime=runtime, compute="bf16") as classifier:
        kept = pickle.dumps(classifier)
    (entry,) = STORE.entries()
    failed = {**entry, "passed": False, "failures": ["it is another machine"]}
    assert STORE.add(failed, lambda other: True)
    with pytest.raises(ParityError, match="it is another machine"):
        pickle.loads(kept)


@pytest.mark.skipif(not ABLE, reason="a runtime and a processor with bfloat16")
def test_it_works_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "file"))
    require_bf16(MODELS[ABLE[0]], ABLE[0], "cpu")


@pytest.mark.skipif(not ABLE, reason="a runtime and a processor with bfloat16")
def test_the_document_fits_its_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="validates by the schema (the extra `test`)")
    require_bf16(MODELS[ABLE[0]], ABLE[0], "cpu")
    schema = json.loads((ROOT / "docs" / "formats" / "bfloat.schema.json").read_text())
    document = json.loads(STORE.path.read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    (entry,) = document["entries"]
    assert set(entry) == set(schema["properties"]["entries"]["items"]["required"])


# It is said


@needs_bf16
def test_a_note_says_it_once_and_the_answers_are_close(
    caplog: pytest.LogCaptureFixture, photos: Callable[..., NDArray[np.uint8]]
) -> None:
    images = photos(8, 32)
    with (
        caplog.at_level("INFO", "resnet_infer"),
        open_by_name(zoo.SMALL, compute="bf16") as low,
        open_by_name(zoo.SMALL, compute="bf16"),
        open_by_name(zoo.SMALL, compute="fp32") as exact,
    ):
        assert (low.name, low.precision, exact.name, exact.precision) == ("openvino", "bf16", "onnxruntime", "fp32")
        change = np.abs(low(images) - exact(images)).max() / exact(images).std()
    assert 1e-4 < change < 0.1
    notes = [record.getMessage() for record in caplog.records if "bf16" in record.getMessage()]
    assert notes == [f"note: {ARTIFACT} is computed in bf16 by openvino, as --compute says, and not in FP32"]
    with Classifier(zoo.SMALL, compute="bf16") as classifier:
        assert "openvino on cpu in bf16>" in repr(classifier)


@needs_bf16
def test_a_service_says_it() -> None:
    pytest.importorskip("bentoml", reason="the extra `serve`")
    from resnet_infer.serving.http.responses import model_json
    from resnet_infer.serving.inference.deployment import Deployment

    settings = Settings(model=zoo.SMALL, compute="bf16")
    assert Settings.from_environment(settings.to_environment()) == settings
    assert settings.to_environment()["RESNET_INFER_SERVE_COMPUTE"] == "bf16"
    deployment = Deployment(settings)
    try:
        about = model_json(deployment, settings)
        assert about["precision"] == "fp32"  # of the file
        assert (about["runtime"]["precision"], about["runtime"]["runtime"]) == ("bf16", "openvino")
        assert deployment._one_thread.precision == "bf16"
    finally:
        deployment.close()


def test_the_rows_that_have_it_are_found_by_name() -> None:
    assert get_runtime("torch").computes["bf16"] == {"precision": "bf16"}
    assert get_runtime("openvino").computes["bf16"] == {"bf16": True}
    assert get_runtime("onnxruntime").computes["fp32"] == {"tf32": False}
