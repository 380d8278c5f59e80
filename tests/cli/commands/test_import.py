"""`resnet-infer import`: from other programs' files to answers."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_infer.models.architectures import architecture
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from tests.conftest import PICTURES
from tests.converters.importers.test_onnx import CLASSES, SIZE, answers, foreign, save
from tests.converters.importers.test_weights import save_weights
from tests.test_cold_start import fresh

Run = Callable[..., Any]
Make = Callable[..., Checkpoint]
CAT = PICTURES / "cat.jpg"


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is needed to write this file")


def torch_file(torch: Any, checkpoint: Checkpoint, path: Path, **options: Any) -> Path:
    """What `torch.save(network.state_dict())` leaves, counters of batches included."""
    state = {name: torch.from_numpy(value) for name, value in checkpoint.weights.items()}
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    torch.save({**state, **{f"{name}num_batches_tracked": torch.tensor(7) for name in norms}}, path, **options)
    return path


def test_a_resnet50_of_torchvision_needs_no_torch(torch: Any, make_checkpoint: Make, tmp_path: Path) -> None:
    source = torch_file(torch, make_checkpoint("resnet50", classes=1000, size=64), tmp_path / "resnet50.pth")
    model, artifact, cache = tmp_path / "model.safetensors", tmp_path / "model.onnx", tmp_path / "cache"

    def run(*arguments: object) -> tuple[str, str]:
        code, loaded, out, notes = fresh(*map(str, arguments), absent=("torch", "tensorrt", "bentoml"), cache=cache)
        assert (code, "torch" in loaded) == (0, False), notes
        return out, notes

    out, notes = run("import", source, "--arch", "resnet50", "--resize", 72, "--crop", 64, "-o", model)
    assert out == f"{model}  {model.stat().st_size / 1e6:.1f} MB\n"
    assert [line for line in notes.splitlines() if line.startswith("assumed")] == [
        "assumed: mean 0.485,0.456,0.406, std 0.229,0.224,0.225, as is usual for ImageNet",
        "assumed: interpolation bilinear, as is usual for ImageNet",
        "assumed: the classes of ImageNet (ILSVRC 2012) in their usual order",
        "assumed: stride in the 3x3 of a bottleneck (Caffe's weights: --stride-in 1x1)",
    ]
    assert "checked on 16 of the package's photographs" in notes
    assert "not checked: pooling at the end," in notes
    source.unlink()
    assert "parity PASS" in run("export", model, "-o", artifact)[1]
    out, notes = run("classify", CAT, "-m", artifact, "--format", "json")
    (answer,) = json.loads(out)["answers"]
    assert len(answer["predictions"]) == 5
    assert answer["predictions"][0]["id"].startswith("n")


class TestLegacyFile:
    @pytest.fixture
    def source(self, torch: Any, make_checkpoint: Make, tmp_path: Path) -> Path:
        return torch_file(
            torch, make_checkpoint(shortcut="B"), tmp_path / "old.pth", _use_new_zipfile_serialization=False
        )

    def test_with_torch(self, cli: Run, source: Path, make_checkpoint: Make, tmp_path: Path) -> None:
        target = tmp_path / "old.safetensors"
        assert cli("import", source, "--arch", "resnet20", "-o", target).code == 0
        imported = load_checkpoint(target)
        assert imported.spec.architecture == architecture("resnet20", shortcut="B")
        for name, value in make_checkpoint(shortcut="B").weights.items():
            np.testing.assert_array_equal(imported.weights[name], value)
        assert "cat" in cli("classify", CAT, "-m", target, "-k", 10).out

    def test_without_torch(self, source: Path, tmp_path: Path) -> None:
        code, _, out, notes = fresh(
            "import", str(source), "--arch", "resnet20", absent=("torch",), cache=tmp_path / "cache"
        )
        assert (code, out) == (1, "")
        assert "the form that torch.save wrote before torch 1.6; reading it needs" in notes
        assert 'pip install "resnet-infer[train]"' in notes


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_does_nothing(cli: Run, torch: Any, tmp_path: Path, zipped: bool) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "done"),)

    source = tmp_path / "evil.pth"
    if zipped:
        torch.save({"state_dict": {"fc.weight": torch.ones(2, 2)}, "hook": Payload()}, source)
    else:
        source.write_bytes(pickle.dumps(Payload(), 2))
    outcome = cli("import", source, "--arch", "resnet20", "-o", tmp_path / "x.safetensors")
    assert outcome.code == 1
    assert "refused to load posix.mkdir" in outcome.err.replace("nt.mkdir", "posix.mkdir")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]


def test_flags_labels_and_json(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_weights(tmp_path / "w.safetensors", "resnet8", 2)
    (tmp_path / "labels.txt").write_text("yes\nno\n")
    monkeypatch.chdir(tmp_path)
    outcome = cli(
        *("import", source, "--arch", "resnet8", "--num-classes", 2, "--labels", "labels.txt"),
        *("--resize", 40, "--crop", 36, "--mean", "127.5", "--std", "51,102,255", "--scale", 255),
        *("--interpolation", "bicubic", "--padding", "split", "--no-exif", "--name", "mine", "--json"),
    )
    assert outcome.code == 0
    spec = load_checkpoint(tmp_path / "mine.safetensors").spec
    size = (tmp_path / "mine.safetensors").stat().st_size
    result = json.loads(outcome.out)
    check = result.pop("check")
    assert result == {"model": "mine.safetensors", "bytes": size, "assumed": [], "entry": None}
    assert (check["pictures"], check["first_layer_that_parts"]) == (16, "bn1")
    assert [layer["name"] for layer in check["layers"]][:2] == ["bn1", "layer1.0.bn1"]
    (warning,) = check["warnings"]
    assert "such statistics are no photograph's" in warning
    assert f"WARNING: {warning}" in outcome.err
    assert spec.provenance["warnings"] == [warning]
    shown = " ".join(cli("inspect", tmp_path / "mine.safetensors").out.split())
    assert " ".join(warning.split()) in shown
    assert spec.architecture == architecture("resnet8", 2, padding="split")
    assert spec.classes == ("yes", "no")
    geometry = (spec.input.resize, spec.input.crop, spec.input.interpolation, spec.input.exif)
    assert geometry == (40, 36, "bicubic", False)
    assert spec.input.mean.tolist() == [0.5, 0.5, 0.5]
    assert spec.input.std.tolist() == pytest.approx([0.2, 0.4, 1.0])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("w.safetensors",), 2, "--arch"),
        (("w.safetensors", "--arch", "resnet8"), 2, "--padding"),
        (("w.safetensors", "--arch", "resnet20", "--padding", "append"), 1, "missing: layer1.1.conv1.weight"),
        (("w.safetensors", "--arch", "resnet8", "--padding", "apend"), 2, "did you mean append"),
        (("w.safetensors", "--arch", "resnet8", "--padding", "split", "--mean", "1,2"), 2, "not one number, or three"),
        (("w.safetensors", "--arch", "resnet8", "--padding", "split", "--std", "a"), 2, "not one number, or three"),
        (("w.safetensors", "--arch", "resnet8", "--padding", "split", "--labels", "no"), 1, "cannot read the class"),
        (("w.safetensors", "--arch", "resnet8", "--padding", "split", "-o", "x.onnx"), 2, "ends in .safetensors"),
        (("w.safetensors", "--arch", "resnet8", "--padding", "split", "-o", "w.safetensors"), 2, "name another file"),
        (("w.safetensors", "--arch", "resnet8", "--layout", "nchw"), 2, "--layout belongs to ONNX graphs"),
        (
            ("w.safetensors", "--arch", "resnet8", "--padding", "split", "--check-data", "."),
            1,
            "no data set of a known",
        ),
        (("w.safetensors", "--arch", "resnet8", "--padding", "split", "--entry", "model"), 2, "no entry 'model'"),
        (("w.safetensors", "--arch", "resnet8", "--padding", "split", "--channels", "bgra"), 2, "did you mean bgr"),
        (("m.onnx", "--arch", "resnet8"), 2, "--arch belongs to weights"),
        (("m.onnx", "--check-data", "."), 2, "--check-data belongs to weights"),
        (("m.onnx",), 2, "--resize, --crop, --mean, --std must be given"),
        (("none.pth", "--arch", "resnet50"), 1, "none.pth does not exist"),
        (("none.onnx",), 1, "none.onnx does not exist"),
    ],
)
def test_errors(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content = save_weights(tmp_path / "w.safetensors", "resnet8").read_bytes()
    (tmp_path / "m.onnx").write_bytes(foreign(size="side").SerializeToString())
    outcome = cli("import", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in " ".join(outcome.err.replace("│", "").split())
    assert "Traceback" not in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "w.safetensors"]
    assert (tmp_path / "w.safetensors").read_bytes() == content


@pytest.mark.parametrize("batch", [1, "batch"])
def test_a_foreign_onnx_classifier(
    cli: Run, tmp_path: Path, photos: Callable[..., NDArray[np.uint8]], batch: int | str
) -> None:
    from PIL import Image

    source, target = save(foreign(batch=batch), tmp_path), tmp_path / "mine.onnx"
    (tmp_path / "labels.json").write_text(json.dumps([f"class {i}" for i in range(CLASSES)]))
    outcome = cli(
        *("import", source, "--labels", tmp_path / "labels.json", "--resize", SIZE, "-o", target, "--json"),
        *("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
    )
    assert outcome.code == 0
    assert outcome.err.startswith("parity PASS against the original graph")
    result = json.loads(outcome.out)
    assert (result["model"], result["assumed"], result["parity"]["passed"]) == (str(target), [], True)

    pictures = photos(6, SIZE)
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    outcome = cli("classify", *(tmp_path / f"{i}.png" for i in range(6)), "-m", target, "-f", "jsonl", "-k", CLASSES)
    for line, expected in zip(outcome.out.splitlines(), answers(source, pictures), strict=True):
        found = {item["label"]: item["probability"] for item in json.loads(line)["predictions"]}
        assert found == {f"class {i}": pytest.approx(p, rel=1e-4) for i, p in enumerate(expected)}
    shown = cli("inspect", target).out
    assert "an adopted ONNX graph of another program" in shown
    assert "architecture" not in shown
    assert cli("export", target).code == 1
