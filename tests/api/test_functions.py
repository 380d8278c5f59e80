"""What the public functions return, and how results are shown in a shell and in a notebook."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest

import resnet_infer
from resnet_infer import ModelSpec, zoo
from resnet_infer.evaluation.result import Evaluation
from resnet_infer.models.checkpoint import load_checkpoint
from tests.conftest import PICTURES


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labelled pictures in a folder with an unkind name."""
    folder = tmp_path_factory.mktemp("x") / "<b>album"
    for label, picture in (("airplane", "airplane.jpg"), ("ship", "ship.jpg")):
        (folder / label).mkdir(parents=True)
        (folder / label / picture).write_bytes((PICTURES / picture).read_bytes())
    return folder


@pytest.fixture(scope="module")
def found(album: Path) -> Evaluation:
    return resnet_infer.evaluate(["resnet20-cifar10"], album, device="cpu", batch_size=2)


def test_a_spec_is_short_hashable_and_goes_through_text() -> None:
    spec = resnet_infer.read_spec("resnet18-tinyimagenet")
    assert repr(spec) == "<ModelSpec resnet18-tinyimagenet: resnet18, 200 classes, input 112x112, int8>"
    again = ModelSpec.loads(spec.dumps())
    assert again == spec
    assert len({spec, again, spec.with_(name="other")}) == 2
    assert ModelSpec.from_json(spec.to_json()) == spec
    with pytest.raises(resnet_infer.ModelError, match=r"^the model spec: its spec is damaged"):
        ModelSpec.loads("{")


def test_a_spec_is_a_small_escaped_table_in_a_notebook() -> None:
    spec = resnet_infer.read_spec("resnet20-cifar10").with_(name="<script>")
    html = spec._repr_html_()
    assert html.startswith("<div><b>&lt;script&gt;</b><table><tr><th>network</th><td>resnet20</td></tr>")
    assert len(html) < 800
    classes = tuple(f"<i>{number}" for number in range(1000))
    assert "<i>" not in spec.with_(classes=classes, architecture=None)._repr_html_()


def test_an_evaluation_is_short(found: Evaluation) -> None:
    assert repr(found) == "<Evaluation on <b>album, 2 pictures: top-1 error resnet20-cifar10 0.00%>"
    assert repr(found.results[0]) == "<Result resnet20-cifar10, native: top-1 error 0.00% of 2 pictures>"
    html = found._repr_html_()
    assert "<b>album" not in html.removeprefix("<div><b>")
    assert html.count("<tr>") == 2
    assert "<td>0.00%</td>" in html


def test_a_comparison_is_short() -> None:
    verdict = resnet_infer.compare("resnet20-cifar10", zoo.built_in(zoo.SMALL, ".safetensors"), PICTURES, pictures=4)
    assert verdict.passed
    assert verdict.measured.pictures == 4
    assert len(repr(verdict)) < 500


def test_an_export_says_where_it_is_and_logs_its_checks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx", reason="the extra `export`")
    target = tmp_path / "small.onnx"
    with caplog.at_level(logging.INFO, "resnet_infer"):
        result = resnet_infer.export("resnet20-cifar10", str(target))
    assert repr(result) == f"ExportResult(path={target!r}, precision='fp32')"
    assert any("parity PASS" in message for message in caplog.messages)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(resnet_infer.ModelError, match="is an artifact already"):
        resnet_infer.export(target, tmp_path / "again.onnx")
    (tmp_path / "notes.onnx").write_text("my notes")
    with pytest.raises(resnet_infer.UsageError, match="is there already and is no artifact"):
        resnet_infer.export("resnet20-cifar10", tmp_path / "notes.onnx")


def test_an_imported_checkpoint_is_trained_exported_and_evaluated(tmp_path: Path) -> None:
    """The functions take what the others return."""
    pytest.importorskip("torch", reason="the extra `train`")
    pytest.importorskip("onnx", reason="the extra `export`")
    from safetensors.numpy import load_file, save_file

    for label, picture in (("airplane", "airplane.jpg"), ("ship", "ship.jpg")):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "data" / label / f"{number}.jpg").write_bytes((PICTURES / picture).read_bytes())
    save_file(load_file(zoo.built_in(zoo.SMALL, ".safetensors")), tmp_path / "theirs.safetensors")
    imported = resnet_infer.import_weights(
        tmp_path / "theirs.safetensors",
        arch="resnet20",
        padding="append",
        labels=["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "boat", "truck"],
    )
    assert imported.checkpoint.spec.classes[0] == "plane"
    run = tmp_path / "run"
    lines: list[str] = []
    trained = resnet_infer.train(
        tmp_path / "data",
        run,
        start=imported.checkpoint,
        iterations=2,
        batch_size=4,
        validation=0,
        device="cpu",
        log=lines.append,
    )
    assert trained.spec.classes == ("airplane", "ship")
    assert lines
    with pytest.raises(resnet_infer.UsageError, match="holds a run already") as caught:
        resnet_infer.train(tmp_path / "data", run)
    assert caught.value.source == str(run)
    made = resnet_infer.export(trained, tmp_path / "made.onnx")
    found = resnet_infer.evaluate([made.path, trained], tmp_path / "data", device="cpu")
    assert [item.top1.total for item in found.results] == [4, 4]
    assert found.results[0].top1.wrong == found.results[1].top1.wrong
    assert len(repr(trained)) < 400


def test_a_load_is_put_on_a_model() -> None:
    outcome = resnet_infer.benchmark("resnet20-cifar10", scenario="closed-loop", clients=2, seconds=0.2, device="cpu")
    assert outcome.figures["clients"] == 2


def test_kept_answers_are_continued_on_request(album: Path, tmp_path: Path) -> None:
    model = load_checkpoint(zoo.checkpoint_file("resnet20-cifar10"))
    again = partial(resnet_infer.evaluate, [model], album, answers=str(tmp_path / "kept.jsonl"), device="cpu")
    first = again()
    with pytest.raises(resnet_infer.UsageError, match="has answers of an evaluation already"):
        again()
    second = again(resume=True)
    assert (first.resumed, second.resumed) == (0, 2)
    assert second.results[0].top1 == first.results[0].top1
