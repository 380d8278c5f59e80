"""`evaluate` with real models and real files, against a plain loop that shares nothing with it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_infer import zoo
from resnet_infer.errors import DataError, ModelError, PictureError, UsageError
from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

SPEC = load_checkpoint(zoo.built_in(zoo.SMALL, ".safetensors")).spec
ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")


@pytest.fixture(scope="module")
def expected(album: Path) -> dict[str, int]:
    """Rank of the right class of every picture: PIL, ONNX Runtime and a sort, one picture after the other."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(ARTIFACT), providers=["CPUExecutionProvider"])
    ranks = {}
    for path in sorted(album.glob("*/*")):
        with Image.open(path) as file:
            picture = file.convert("RGB")
        scale = 32 / min(picture.size)
        size = (
            (32, int(picture.height * scale)) if picture.width <= picture.height else (int(picture.width * scale), 32)
        )
        picture = picture if min(picture.size) == 32 else picture.resize(size, Image.Resampling.BILINEAR)
        left, top = round((picture.width - 32) / 2), round((picture.height - 32) / 2)
        pixels = np.asarray(picture.crop((left, top, left + 32, top + 32)))[None]
        (logits,) = session.run(None, {"images": pixels})[0]
        order = list(np.argsort(-logits, kind="stable"))
        ranks[f"{path.parent.name}/{path.name}"] = order.index(SPEC.classes.index(path.parent.name))
    return ranks


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_the_count_is_that_of_a_plain_loop(
    album: Path, expected: dict[str, int], batch_size: int, threads: int | None
) -> None:
    found = evaluate(
        [ARTIFACT.as_posix()], album, EvaluationConfig(batch_size=batch_size, threads=threads, device="cpu")
    )
    (result,) = found.results
    names = [found.dataset.samples[number].name for number in result.answered.pictures]
    assert dict(zip(names, result.answered.ranks.tolist(), strict=True)) == expected
    assert result.top1.wrong == sum(rank > 0 for rank in expected.values())
    assert result.top5 is not None
    assert result.top5.wrong == sum(rank > 4 for rank in expected.values())
    assert 0 < result.top1.wrong < len(expected) == 96
    assert (result.protocol, result.matched_by, found.warnings) == ("native", "name", [])


def test_torch_and_onnx_give_the_same_answers(album: Path) -> None:
    pytest.importorskip("torch", reason="the extra `train`")
    found = evaluate([f"torch:{zoo.SMALL}"], album, EvaluationConfig(reference=zoo.SMALL, max_drop=0, device="cpu"))
    reference, other = found.results
    assert (reference.is_reference, reference.runtime["runtime"], reference.difference) == (True, "onnxruntime", None)
    assert (other.is_reference, other.runtime["runtime"]) == (False, "torch")
    assert reference.answered.ranks.tolist() == other.answered.ranks.tolist()
    assert other.difference is not None
    assert (other.difference.top1, other.difference.p) == (0, 1)
    assert found.over_max_drop == []


def test_an_archive_and_a_list_are_evaluated_alike(album: Path, expected: dict[str, int], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "album.tar.xz", "w:xz", preset=0) as archive:
        archive.add(album, "album")
    lines = ["path,label", *(f"{album / name},{name.split('/')[0]}" for name in expected)]
    (tmp_path / "album.csv").write_text("\n".join(lines))
    for source in (tmp_path / "album.tar.xz", tmp_path / "album.csv"):
        (result,) = evaluate([None], source, EvaluationConfig(device="cpu")).results
        assert sorted(result.answered.ranks) == sorted(expected.values())


def test_every_protocol_and_the_ensemble_stand_in_one_table(
    album: Path, make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("resnet8")
    names = tuple(reversed(SPEC.classes))
    save_checkpoint(
        Checkpoint(checkpoint.spec.with_(name="other", classes=names), checkpoint.weights), tmp_path / "o.safetensors"
    )
    models = [zoo.SMALL, f"torch:{tmp_path / 'o.safetensors'}"]
    found = evaluate(
        models,
        album,
        EvaluationConfig(protocols=["1-crop", "10-crop"], ensemble=True, reference=zoo.SMALL, device="cpu"),
    )
    assert [(item.name, item.protocol) for item in found.results] == [
        (name, protocol)
        for protocol in ("1-crop", "10-crop")
        for name in (zoo.SMALL, zoo.SMALL, "torch:o.safetensors", "ensemble of 2")
    ]
    assert [item.is_reference for item in found.results] == [True, False, False, False] * 2
    assert [item.difference is None for item in found.results] == [True, False, False, False] * 2
    for start in (0, 4):
        same, ensemble = found.results[start + 1], found.results[start + 3]
        assert same.difference is not None
        assert same.difference.only_model_wrong == same.difference.only_reference_wrong == 0
        assert ensemble.members == (zoo.SMALL, "torch:o.safetensors")
        # An untrained model is so unsure that it hardly sways the other; in the wrong order it would not matter either.
        assert ensemble.answered.confidence.mean() < same.answered.confidence.mean()
    told = json.loads(json.dumps(found.to_json()))
    assert [item["ensemble"] for item in told["results"]] == ([None] * 3 + [[zoo.SMALL, "torch:o.safetensors"]]) * 2
    assert all(item["inference_seconds"] > 0 for item in told["results"])


def test_an_ensemble_of_a_model_and_its_twin_in_another_order_is_the_model(album: Path, tmp_path: Path) -> None:
    """Only if the second's answers are put into the order of the first's classes."""
    pytest.importorskip("torch", reason="runs a checkpoint as it is (the extra `train`)")
    checkpoint = load_checkpoint(zoo.built_in(zoo.SMALL, ".safetensors"))
    order = np.random.default_rng(0).permutation(10)
    weights = {name: value[order] if name.startswith("fc.") else value for name, value in checkpoint.weights.items()}
    spec = checkpoint.spec.with_(classes=tuple(checkpoint.spec.classes[index] for index in order))
    save_checkpoint(Checkpoint(spec, weights), tmp_path / "twin.safetensors")
    found = evaluate(
        [zoo.SMALL, f"torch:{tmp_path / 'twin.safetensors'}"], album, EvaluationConfig(ensemble=True, device="cpu")
    )
    first, twin, both = (item.answered for item in found.results)
    assert first.ranks.tolist() == twin.ranks.tolist() == both.ranks.tolist()
    np.testing.assert_allclose(both.confidence, first.confidence, atol=1e-4)


# What stands beside the error


@pytest.mark.usefixtures("as_cifar10")
def test_the_paper_s_figure_and_the_recorded_one_stand_beside_it(album: Path) -> None:
    (result,) = evaluate([None], album, EvaluationConfig(device="cpu")).results
    assert [str(row) for _, row in result.published] == ["8.75"]
    assert result.recorded is not None
    assert (result.recorded.top1_error, result.recorded.pictures) == (12.07, 10_000)


def test_beside_other_pictures_they_do_not(album: Path) -> None:
    """Of some of CIFAR-10's classes, and not its test set."""
    (result,) = evaluate([None], album, EvaluationConfig(device="cpu")).results
    assert (result.published, result.recorded, result.data) == ([], None, None)


def test_all_of_it_is_plain_json(album: Path) -> None:
    told = json.loads(json.dumps(evaluate([None], album, EvaluationConfig(device="cpu")).to_json()))
    (result,) = told["results"]
    low, high = result["top1"]["interval"]
    assert low < result["top1"]["error"] == 100 * result["top1"]["wrong"] / 96 < high
    assert told["data"] == {
        "name": album.name,
        "pictures": 96,
        "counted": 96,
        "skipped": [],
        "duplicates": [],
        "classes": 4,
    }
    speed = told["speed"]
    assert speed["pictures_per_second"] == pytest.approx(96 / speed["seconds"])
    assert min(speed[f"{stage}_seconds"] for stage in ("decode", "resize", "inference")) > 0


# What makes no sense


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_drop": 1.0}, UsageError, "--max-drop"),
        ({"ensemble": True}, UsageError, "at least two models"),
        ({"scales": (32, 40)}, UsageError, "scales belong to the protocol multi-scale"),
        ({"protocols": ["multi-scale"], "scales": (32, 40)}, UsageError, "its mean is one value for each pixel"),
        ({"protocols": ["1crop"]}, UsageError, "did you mean 1-crop"),
        ({"split": "val"}, DataError, "no split 'val'"),
        ({"class_order": "numbers"}, DataError, "no number from 0 to 9: airplane"),
        ({"class_order": "string"}, DataError, "has 4 classes and resnet20-cifar10 10"),
        ({"class_order": tuple(reversed(SPEC.classes))}, DataError, "by its label it is class 0"),
        ({"reference": "resnet20-cifra10"}, ModelError, "did you mean resnet20-cifar10"),
        ({"batch_size": 0}, UsageError, "at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    album: Path, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate([None], album, EvaluationConfig(device="cpu", **options))  # type: ignore[arg-type]


def test_data_of_other_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zebra").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "zebra" / "1.png")
    with pytest.raises(DataError, match="has classes that resnet20-cifar10 does not know: zebra"):
        evaluate([None], tmp_path, EvaluationConfig(device="cpu"))


def test_data_of_which_nothing_can_be_read_has_no_error(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"no picture of .* can be read; the first: cat/1.jpg: unsupported: text"):
        evaluate([None], tmp_path, EvaluationConfig(device="cpu", skip_unreadable=True))
    with pytest.raises(PictureError, match="the only picture of"):
        evaluate([None], tmp_path, EvaluationConfig(device="cpu"))
