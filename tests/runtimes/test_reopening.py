"""Pickled and copied classifiers, runtimes and clients open the same model again, or say why not."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from resnet_infer import zoo
from resnet_infer.classifier import Classifier, Prediction
from resnet_infer.client import Client
from resnet_infer.errors import ModelError, UsageError
from resnet_infer.runtimes.registry import open_runtime
from tests.conftest import PICTURES

CAT, SHIP = PICTURES / "cat.jpg", PICTURES / "ship.jpg"
WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(zoo.built_in(zoo.SMALL, ".onnx"), tmp_path / "model.onnx"))


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_another_classifier_of_the_same_model(way: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    with Classifier("model.onnx", device="cpu", threads=1, spin=False) as classifier:
        expected = classifier.classify(CAT)
        monkeypatch.chdir("/")  # the path was relative
        with WAYS[way](classifier) as other:
            assert type(other) is Classifier
            assert other.runtime is not classifier.runtime
            assert other.runtime.describe() == classifier.runtime.describe()
            assert other.classify(CAT) == expected
        assert classifier.classify(CAT) == expected  # it is not closed with the copy


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_a_copy_has_the_same_lanes(way: str, threads: int | None) -> None:
    with Classifier(zoo.SMALL, device="cpu", threads=threads, throughput=True) as classifier:
        again = WAYS[way](WAYS[way](classifier))
        assert again.lanes == classifier.lanes
        assert again.runtime.describe() == classifier.runtime.describe()
        assert [item.predictions for item in again.stream([CAT, SHIP])] == [
            item.predictions for item in classifier.stream([CAT, SHIP])
        ]


def test_a_checkpoint_opened_by_torch_is_opened_again() -> None:
    pytest.importorskip("torch", reason="the extra `train`")
    with Classifier(zoo.SMALL, runtime="torch", device="cpu", threads=1) as classifier:
        other = copy.deepcopy(classifier)
        assert other.runtime.name == "torch"
        assert other.classify(CAT) == classifier.classify(CAT)
    loaded = open_runtime(zoo.checkpoint(zoo.SMALL), device="cpu")
    with pytest.raises(UsageError, match=r"opened from a loaded checkpoint.*\n.*open it from the checkpoint's file"):
        pickle.dumps(loaded)
    with pytest.raises(UsageError, match="opened from a loaded checkpoint"):
        copy.copy(Classifier(loaded))


@pytest.mark.parametrize("way", WAYS)
def test_a_runtime_is_copied_too(way: str, model: Path) -> None:
    runtime = open_runtime(model, device="cpu", threads=1)
    other = WAYS[way](runtime)
    classifier = WAYS[way](Classifier(runtime))
    assert Classifier(other).classify(CAT) == Classifier(runtime).classify(CAT) == classifier.classify(CAT)
    assert len({id(item) for item in (runtime, other, classifier.runtime)}) == 3


@pytest.mark.parametrize("way", WAYS)
def test_what_is_closed_is_not_copied(way: str, model: Path) -> None:
    classifier, client = Classifier(model), Client("http://127.0.0.1:1")
    for thing in (classifier, client):
        thing.close()
        with pytest.raises(UsageError, match="closed; it can be neither pickled nor copied"):
            WAYS[way](thing)
    with pytest.raises(UsageError, match="closed"):
        WAYS[way](classifier.runtime)


def test_another_file_is_not_taken_for_the_one_that_was_opened(model: Path, tmp_path: Path) -> None:
    classifier = Classifier(model)
    pickled = pickle.dumps(classifier)
    kept = shutil.copy(model, tmp_path / "kept.onnx")
    shutil.copy(zoo.built_in(zoo.DEFAULT, ".onnx"), model)
    with pytest.raises(ModelError, match=r"model\.onnx is not the file from which a pickled model was opened\n.*by"):
        pickle.loads(pickled)
    with pytest.raises(ModelError, match=r"model\.onnx has changed since it was opened, so a copy"):
        pickle.dumps(classifier)
    model.unlink()
    with pytest.raises(ModelError, match=r"model\.onnx, from which a pickled model was opened, is not here"):
        pickle.loads(pickled)
    shutil.copy(kept, model)
    assert pickle.loads(pickled).spec == classifier.spec


@pytest.mark.parametrize("where", ["runtimes.base", "client"])
def test_a_pickle_of_another_version_is_refused_by_name(
    where: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing = Client("http://127.0.0.1:1") if where == "client" else Classifier(model)
    monkeypatch.setattr(f"resnet_infer.{where}.__version__", "7.0.0")
    pickled = pickle.dumps(thing)
    with pytest.raises(
        UsageError, match=r"pickled by resnet-infer 7\.0\.0, and this process has 0\..*\n.*same version"
    ):
        pickle.loads(pickled)


@pytest.mark.parametrize("way", WAYS)
def test_a_client_is_opened_again(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client("service.example:8080/below/", api_key="mine", timeout=3, connections=2) as client:
        other = WAYS[way](client)
        assert (other.url, other.timeout, other.connections) == (client.url, 3, 2)
        assert other._headers == client._headers
        assert other._idle is not client._idle
    monkeypatch.setenv("RESNET_INFER_API_KEY", "of the environment")
    assert b"environment" not in pickle.dumps(Client("service.example"))


# In other processes


def _classified(classifier: Classifier, path: Path) -> list[Prediction]:
    return classifier.classify(path)


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_classifier_is_an_argument_of_another_process(start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"the system has no {start}")
    with Classifier(zoo.SMALL, device="cpu", threads=1) as classifier:
        expected = [classifier.classify(path) for path in (CAT, SHIP)]
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start)) as pool:
            assert list(pool.map(_classified, [classifier] * 2, [CAT, SHIP])) == expected


class _Photos:
    """A data set for torch that classifies in its workers."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> str:
        return self.classifier.classify((CAT, SHIP)[number])[0].label


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_classifier_works_in_the_workers_of_a_data_loader(start: str) -> None:
    data = pytest.importorskip("torch.utils.data", reason="the extra `train`")
    with Classifier(zoo.SMALL, device="cpu", threads=1) as classifier:
        loader = data.DataLoader(_Photos(classifier), num_workers=1, multiprocessing_context=start)
        assert [label for (label,) in loader] == ["cat", "ship"]


def test_cloudpickle_and_joblib_take_a_classifier() -> None:
    """Dask, Spark and Ray pickle with cloudpickle."""
    cloudpickle = pytest.importorskip("cloudpickle")
    with Classifier(zoo.SMALL, device="cpu", threads=1) as classifier:
        expected = classifier.classify(CAT)
        closure = cloudpickle.dumps(lambda path: classifier.classify(path))
        assert pickle.loads(closure)(CAT) == expected
        joblib = pytest.importorskip("joblib")
        found = joblib.Parallel(2, backend="loky")(joblib.delayed(_classified)(classifier, CAT) for _ in range(4))
        assert found == [expected] * 4
