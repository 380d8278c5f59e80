"""Arguments become subjects, and pictures are read before anything is measured."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

from resnet_infer import zoo
from resnet_infer.benchmarking.latency.subjects import PHOTOS, Entry, Subject, entries, photographs, synthetic
from resnet_infer.errors import DataError, ModelError, PictureError, UsageError
from tests.conftest import PICTURES

ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")


def test_lists_make_the_product() -> None:
    found = entries([None, f"torch:{zoo.SMALL}"], [1, 8], threads=[1, 2], device="cpu")
    assert [(item.name, item.subject.threads, item.batch) for item in found] == [
        (name, threads, batch) for name in (zoo.SMALL, f"torch:{zoo.SMALL}") for threads in (1, 2) for batch in (1, 8)
    ]
    assert {(item.subject.runtime, item.subject.model.suffix) for item in found} == {
        ("auto", ".onnx"),
        ("torch", ".safetensors"),
    }
    assert {item.subject.device for item in found} == {"cpu"}


def test_a_prefix_goes_before_the_runtime() -> None:
    first, second = entries([f"null:{ARTIFACT}", str(ARTIFACT)], [1], runtime="onnxruntime")
    assert (first.subject.runtime, second.subject.runtime) == ("null", "onnxruntime")
    assert (first.name, second.name) == (f"null:{ARTIFACT.name}", ARTIFACT.name)


def test_files_of_the_same_name_have_as_much_of_their_paths_as_tells_them_apart(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        shutil.copy(ARTIFACT, tmp_path / folder / "model.onnx")
    old, new = (str(tmp_path / folder / "model.onnx") for folder in ("old", "new"))
    found = entries([old, new, f"openvino:{old}", old], [1, 2])
    assert [item.name for item in found if item.batch == 1] == [
        str(Path("old", "model.onnx")),
        str(Path("new", "model.onnx")),
        "openvino:" + str(Path("old", "model.onnx")),
        str(Path("old", "model.onnx")) + " #2",
    ]


def test_a_file_with_a_colon_in_its_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ARTIFACT, tmp_path / "torch:x.onnx")
    monkeypatch.chdir(tmp_path)
    (found,) = entries(["torch:x.onnx"], [1])
    assert (found.name, found.subject.runtime, found.subject.model.name) == ("torch:x.onnx", "auto", "torch:x.onnx")


@pytest.mark.parametrize(
    ("models", "batches", "threads", "said"),
    [
        ([], [1], [None], "at least one model"),
        ([None], [], [None], "at least one model"),
        ([None], [8, 0], [None], "a batch is at least 1, not 0"),
        ([None], [1], [1, -2], "the number of threads is a whole one from 1"),
    ],
)
def test_nonsense_is_a_usage_error(
    models: list[str | None], batches: list[int], threads: list[int | None], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        entries(models, batches, threads=threads)
    if 0 in batches:
        with pytest.raises(UsageError, match=said):
            Entry("it", Subject(ARTIFACT), 0)


def test_what_is_no_model_is_said_before_anything_is_started() -> None:
    for name in ("resnet51", "tensorflow:resnet50", "torch:resnet51"):
        with pytest.raises(ModelError):
            entries([None, name], [1])


def test_photographs_are_spread_over_all_that_are_there(tmp_path: Path) -> None:
    for number in range(3 * PHOTOS):
        folder = tmp_path / f"{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jpg").write_bytes((PICTURES / "cat.jpg").read_bytes() + bytes([number]))
    (tmp_path / "notes.txt").write_text("no picture")
    found = photographs(tmp_path)
    numbers = [content[-1] for content in found.contents]
    assert len(set(numbers)) == PHOTOS
    assert {number % 3 for number in numbers} == {0, 1, 2}
    assert found.to_json()["count"] == PHOTOS


def test_a_folder_without_pictures_and_a_broken_picture_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no pictures"):
        photographs(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    with pytest.raises(PictureError, match=r"broken\.jpg"):
        photographs(tmp_path)


def test_synthetic_pictures_are_jpegs_of_a_photograph_s_size() -> None:
    found = synthetic()
    assert len(set(found.contents)) == len(found.contents) > 1
    for content in found.contents:
        with Image.open(io.BytesIO(content)) as picture:
            assert (picture.format, picture.size) == ("JPEG", (500, 375))
    assert 20 < found.to_json()["mean_kb"] < 200  # as photographs have it
