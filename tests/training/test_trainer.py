from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.data.datasets import Dataset, Sample, open_dataset  # noqa: E402
from resnet_infer.errors import DataError, TrainingError  # noqa: E402
from resnet_infer.models.architectures import architecture  # noqa: E402
from resnet_infer.models.checkpoint import load_checkpoint  # noqa: E402
from resnet_infer.training.recipes import Recipe, get_recipe  # noqa: E402
from resnet_infer.training.trainer import Trainer, decode, normalisation  # noqa: E402
from tests.conftest import Outcome  # noqa: E402

COLOURS = {"blue": (40, 60, 200), "green": (30, 170, 60), "red": (200, 40, 50)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ with noisy squares of three colours."""
    root = tmp_path_factory.mktemp("colours")
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 5)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(np.array(colour) + generator.normal(0, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


def recipe(**changes: object) -> Recipe:
    return get_recipe(
        "cifar10-short", **{"iterations": 12, "batch_size": 16, "validation": 8, "peak_rate": 0.1, **changes}
    )


def trainer(folder: Path, run: Path, log: Callable[[str], None] = lambda line: None, **changes: object) -> Trainer:
    data = open_dataset(folder, "train")
    return Trainer(architecture("resnet8", 3), recipe(**changes), data, run, log=log)


def test_it_learns_and_leaves_what_it_promises(folder: Path, tmp_path: Path) -> None:
    one = trainer(folder, tmp_path / "run", iterations=40)
    one.run()
    spec = one.finish(open_dataset(folder, "test"))
    best = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert best.spec == spec
    assert best.spec.classes == ("blue", "green", "red")
    assert best.spec.measured[0].top1_error == 0
    assert best.spec.measured[0].pictures == 15
    assert best.spec.provenance["recipe"]["iterations"] == 40
    assert not best.extra
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").extra
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows] == list(range(4, 41, 4))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"]) / 2


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_ends_with_the_same_weights(folder: Path, tmp_path: Path, stop_after: int) -> None:
    whole = trainer(folder, tmp_path / "whole")
    whole.run()
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) > stop_after:  # in the middle of an epoch's bookkeeping, after `stop_after` checkpoints
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(folder, tmp_path / "parts", log=stop).run()
    torch.manual_seed(99)
    trainer(folder, tmp_path / "parts").run(resume=True)
    one, other = (load_checkpoint(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert all(np.array_equal(value, other.weights[name]) for name, value in one.weights.items())
    assert all(np.array_equal(value, other.extra[name]) for name, value in one.extra.items())


def test_a_run_is_not_resumed_with_another_recipe(folder: Path, tmp_path: Path) -> None:
    trainer(folder, tmp_path).run()
    with pytest.raises(TrainingError, match="another recipe"):
        trainer(folder, tmp_path, weight_decay=0.1).run(resume=True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_epoch_before(folder: Path, tmp_path: Path) -> None:
    one = trainer(folder, tmp_path)
    finite = one.recipe.rate

    class Explodes(Recipe):
        def rate(self, iteration: int, depth: int) -> float:
            return finite(iteration, depth) if iteration < 4 else math.inf

    one.recipe = Explodes(**one.recipe.to_json())
    with pytest.raises(TrainingError, match="not finite"):
        one.run()
    assert load_checkpoint(tmp_path / "last.safetensors").spec.provenance["iterations"] == 4


def test_the_held_out_pictures_are_not_trained_on(folder: Path, tmp_path: Path) -> None:
    one = trainer(folder, tmp_path)
    assert one.validation is not None
    rows = torch.cat([one.train.images, one.validation.images]).flatten(1)
    assert (len(one.train), len(one.validation)) == (64, 8)
    assert len(rows.unique(dim=0)) == 72


@pytest.mark.parametrize("kind", ["pixel", "channel"])
def test_mean_and_deviation(kind: str) -> None:
    images = torch.randint(0, 256, (9, 4, 4, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mean, std = normalisation(images, kind)
    scaled = images.double().numpy() / 255
    if kind == "pixel":
        assert mean == pytest.approx(scaled.mean(0), abs=1e-6)
        assert std.tolist() == [1, 1, 1]
    else:
        assert mean == pytest.approx(scaled.mean((0, 1, 2)), abs=1e-6)
        assert std == pytest.approx(scaled.std((0, 1, 2)), abs=1e-6)


def test_pictures_are_fitted_and_counted() -> None:
    file = io.BytesIO()
    Image.new("RGB", (50, 40), "red").save(file, "PNG")
    data = Dataset(
        "d",
        ("a",),
        [Sample("x.png", 0, file.getvalue), Sample("y", 0, lambda: np.zeros((32, 32, 3), np.uint8))],
        "given",
    )
    arrays = decode(data, 32)
    assert arrays.images.shape == (2, 32, 32, 3)
    assert arrays.images[0, 5, 5].tolist() == [255, 0, 0]


def test_too_few_pictures_and_wrong_classes_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than one batch"):
        trainer(folder, tmp_path, batch_size=100)
    with pytest.raises(DataError, match="3 classes"):
        Trainer(architecture("resnet8", 4), recipe(), open_dataset(folder, "train"), tmp_path)


def test_the_command_trains_exports_and_refuses_to_overwrite(
    folder: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    run = (
        "train",
        folder,
        "--arch",
        "resnet8",
        "--recipe",
        "cifar10-short",
        "--iterations",
        4,
        "-b",
        16,
        "--validation",
        0,
    )
    done = cli(*run, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert "15 pictures" in done.out
    assert cli("export", tmp_path / "run" / "best.safetensors", "-o", tmp_path / "model.onnx").code == 0
    picture = next((folder / "test" / "red").iterdir())
    assert cli("classify", picture, "-m", tmp_path / "model.onnx").code == 0
    again = cli(*run, "-o", tmp_path / "run")
    assert again.code == 2
    assert "--resume" in again.err
    assert cli(*run, "-o", tmp_path / "run", "--resume").code == 0
