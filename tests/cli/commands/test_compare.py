"""`resnet-infer compare`: a verdict, the numbers behind it, and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resnet_infer import zoo
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.conftest import PICTURES, ROOT, Outcome

onnx = pytest.importorskip("onnx", reason="the extra `export`")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

from resnet_infer.models.graph import build_graph, set_spec  # noqa: E402
from resnet_infer.verification.tolerances import GATES  # noqa: E402

Cli = Callable[..., Outcome]
ARTIFACT, CHECKPOINT = zoo.built_in(zoo.SMALL, ".onnx"), zoo.built_in(zoo.SMALL, ".safetensors")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small nets on one core, so that the tests are quick beside others."""
    from resnet_infer.runtimes import ort_session

    original = ort_session.session_options
    monkeypatch.setattr(
        ort_session, "session_options", lambda threads=None, **options: original(threads=threads or 1, **options)
    )


def changed(checkpoint: Checkpoint, weight: str, by: float) -> Checkpoint:
    weights = {name: value.copy() for name, value in checkpoint.weights.items()}
    weights[weight].flat[0] += by
    return replace(checkpoint, weights=weights)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in artifact with one changed weight."""
    path = tmp_path_factory.mktemp("wrong") / "wrong.onnx"
    onnx.save(build_graph(changed(load_checkpoint(CHECKPOINT), "layer2.1.conv2.weight", 0.3)), path)
    return path


def test_an_artifact_and_its_checkpoint_pass(cli: Cli) -> None:
    done = cli("compare", ARTIFACT, CHECKPOINT, PICTURES)
    assert (done.code, done.err) == (0, "")
    head, *rows = done.out.splitlines()
    assert head.startswith("model")
    assert head.endswith(f"resnet20-cifar10, {ARTIFACT} (fp32, onnxruntime on cpu)")
    assert rows[-1] == "PASS"
    text = done.out
    assert "4 of " in text
    assert "100.00%" in text
    assert "max |logit delta| at most 1e-04 of the spread" in text


def test_a_changed_weight_fails_and_is_found(cli: Cli, wrong: Path) -> None:
    done = cli("compare", wrong, CHECKPOINT, PICTURES, "--layers")
    assert done.code == 1
    assert done.err == ""
    lines = done.out.splitlines()
    (first,) = (line for line in lines if "<- the first over 0.0001" in line)
    assert first.split()[0] == "layer2.1.conv2"
    assert lines[-2] == "FAIL"
    assert "of the spread, 1e-04 is allowed" in lines[-1]


def test_json_holds_all_of_it(cli: Cli, wrong: Path) -> None:
    done = cli("compare", wrong, zoo.SMALL, "-n", 16, "--seed", 3, "--layers", "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert (found["passed"], found["precision"], found["pictures"]) == (False, "fp32", 16)
    assert found["failures"]
    assert found["relative_max"] > 1e-4
    assert found["relative_max"] == pytest.approx(found["max_delta"] / found["spread"])
    assert (found["model"]["runtime"], found["reference"]["device"]) == ("onnxruntime", "cpu")
    assert found["data"] == {"source": "synthetic pictures", "name": "synthetic pictures", "seed": 3}
    assert found["layers"]["first"] == "layer2.1.conv2"
    assert [layer["name"] for layer in found["layers"]["layers"]][-1] == "logits"
    again = cli("compare", zoo.SMALL, ARTIFACT, "-n", 4, "--json")
    assert again.code == 0
    assert json.loads(again.out)["max_delta"] == 0


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
def test_a_built_in_reference_is_its_checkpoint(cli: Cli, runtime: str) -> None:
    found = json.loads(cli("compare", zoo.DEFAULT, zoo.DEFAULT, PICTURES, "--reference-runtime", runtime, "--json").out)
    assert [found[part]["precision"] for part in ("model", "reference")] == ["int8", "fp32"]
    assert found["max_delta"] > 0


def test_pictures_with_two_answers_are_named(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    weights = load_checkpoint(CHECKPOINT)
    onnx.save(build_graph(changed(weights, "fc.bias", 1000.0)), path)
    done = cli("compare", path, ARTIFACT, PICTURES)
    assert done.code == 1
    assert "different answers  car.jpg: airplane, and by the reference automobile (margin " in done.out
    assert "cat.jpg: airplane, and by the reference" in done.out
    many = cli("compare", path, ARTIFACT, "-n", 30)
    assert "more" in many.out


def test_the_precision_sets_the_limits_and_a_tolerance_takes_their_place(cli: Cli, wrong: Path, tmp_path: Path) -> None:
    model = onnx.load(wrong)
    set_spec(model, load_checkpoint(CHECKPOINT).spec.with_(precision="int8"))
    onnx.save(model, tmp_path / "int8.onnx")
    done = cli("compare", tmp_path / "int8.onnx", ARTIFACT, PICTURES, "--json")
    found = json.loads(done.out)
    assert (done.code, found["precision"], found["limits"]["error"]) == (0, "int8", GATES["int8"].error)
    for factor, code in ((1.01, 0), (0.99, 1)):
        told = cli("compare", wrong, ARTIFACT, PICTURES, "--tolerance", factor * found["relative_max"], "--json")
        assert told.code == code
        assert json.loads(told.out)["limits"]["agreement"] is None


def test_a_runtime_that_is_named_is_used(cli: Cli) -> None:
    pytest.importorskip("torch", reason="the extra `train`")
    done = cli("compare", zoo.SMALL, zoo.SMALL, PICTURES, "--reference-runtime", "torch", "--json")
    found = json.loads(done.out)
    assert (done.code, found["model"]["runtime"], found["reference"]["runtime"]) == (0, "onnxruntime", "torch")
    done = cli("compare", CHECKPOINT, ARTIFACT, PICTURES, "--runtime", "onnxruntime", "--json")
    assert done.code == 0
    assert "exporting" in done.err  # as for every command, once, into the cache
    assert json.loads(done.out)["model"]["runtime"] == "onnxruntime"


def test_without_torch_a_checkpoint_is_the_unfused_graph(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_infer.verification.parity.find_spec", lambda module: None)
    done = cli("compare", ARTIFACT, CHECKPOINT, PICTURES, "--json")
    assert done.code == 0
    reference = json.loads(done.out)["reference"]
    assert (reference["runtime"], reference["optimize"]) == ("onnxruntime", False)


def test_a_split_is_preferred_or_named(cli: Cli, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "ship"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            (tmp_path / "set" / split / name / "a.jpg").write_bytes((PICTURES / f"{name}.jpg").read_bytes())
    for options, name in (((), "set/test"), (("--split", "train"), "set/train")):
        done = cli("compare", ARTIFACT, ARTIFACT, tmp_path / "set", "--json", *options)
        assert (done.code, json.loads(done.out)["data"]["name"]) == (0, name)
    done = cli("compare", ARTIFACT, ARTIFACT, tmp_path / "set", "--split", "val")
    assert (done.code, done.out) == (1, "")
    assert "has no split 'val'" in done.err


# Errors


def test_models_that_cannot_be_compared_are_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(CHECKPOINT)
    for name, spec, message in (
        ("classes", checkpoint.spec.with_(classes=checkpoint.spec.classes[::-1]), "but in another order"),
        (
            "geometry",
            checkpoint.spec.with_(input=replace(checkpoint.spec.input, resize=40)),
            "see different parts of a picture",
        ),
    ):
        save_checkpoint(replace(checkpoint, spec=spec), tmp_path / f"{name}.safetensors")
        done = cli("compare", tmp_path / f"{name}.safetensors", ARTIFACT, PICTURES)
        assert (done.code, done.out) == (2, "")
        assert message in done.err


def test_a_corrupt_picture_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes((PICTURES / "cat.jpg").read_bytes())
    (tmp_path / "b.jpg").write_bytes((PICTURES / "cat.jpg").read_bytes()[:900])
    done = cli("compare", ARTIFACT, ARTIFACT, tmp_path)
    assert (done.code, done.out) == (1, "")
    assert f"error: {tmp_path}: b.jpg: damaged or truncated JPEG" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere.onnx", zoo.SMALL), 1, "there is no file and no model called nowhere.onnx"),
        ((zoo.SMALL, zoo.SMALL, "nowhere"), 1, "nowhere does not exist"),
        ((zoo.SMALL, zoo.SMALL, "--runtime", "onnxrutime"), 2, "did you mean onnxruntime?"),
        ((zoo.SMALL, zoo.SMALL, "--reference-device", "cdua"), 2, "did you mean cuda?"),
        ((zoo.SMALL, zoo.SMALL, "--split", "train"), 2, "--split needs DATA"),
        ((zoo.SMALL, zoo.SMALL, "-n", "1"), 2, "-n"),
        ((zoo.SMALL, zoo.SMALL, "--tolerance", "-1"), 2, "--tolerance"),
        ((zoo.SMALL,), 2, "REFERENCE"),
    ],
)
def test_what_makes_no_sense_is_named(cli: Cli, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = cli("compare", *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here")
@pytest.mark.parametrize("option", ["--device", "--reference-device"])
@pytest.mark.parametrize("model", [ARTIFACT, CHECKPOINT], ids=["artifact", "checkpoint"])
def test_a_device_that_is_named_is_never_replaced(cli: Cli, option: str, model: Path) -> None:
    done = cli("compare", model, model, option, "cuda:1")
    assert (done.code, done.out) == (1, "")
    assert "cuda:1 was asked for" in done.err


def test_layers_are_those_of_graphs(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"an engine")
    done = cli("compare", tmp_path / "model.engine", ARTIFACT, "--layers")
    assert (done.code, done.out) == (2, "")
    assert "model.engine has no layers to be seen" in done.err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom resnet_infer.cli.main import app\n"
        "try:\n    app(['compare', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy', 'PIL') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ,
    )
    assert "--layers" in done.stdout
    assert done.stderr.strip() == "[]"


def test_the_numbers_are_those_of_the_two_runtimes(cli: Cli, wrong: Path) -> None:
    """Taken apart: the same pictures through both sessions by hand."""
    from resnet_infer.data.feed import open_feed
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    found = json.loads(cli("compare", wrong, ARTIFACT, "-n", 12, "--json").out)
    with OnnxRuntime(wrong, device="cpu") as model, OnnxRuntime(ARTIFACT, device="cpu") as reference:
        (images,) = open_feed(None, reference.spec, count=12).batches(12)
        actual, expected = model(images).astype(np.float64), reference(images).astype(np.float64)
    spread = np.std(expected - expected.mean(axis=0))
    assert found["relative_max"] == pytest.approx(np.abs(actual - expected).max() / spread, rel=1e-3)
    assert found["relative_mean"] == pytest.approx(np.abs(actual - expected).mean() / spread, rel=1e-3)
    assert found["agreement"] == pytest.approx((actual.argmax(1) == expected.argmax(1)).mean())
