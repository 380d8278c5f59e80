"""`resnet-infer train` from data to answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.training.recipes import Recipe
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
QUICK = ("--arch", "resnet8", "--recipe", "cifar10-short", "--iterations", 4, "-b", 16, "--validation", 0)


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_a_run_is_trained_exported_and_classifies(folder: Path, tmp_path: Path, cli: Cli) -> None:
    run = ("train", folder, *QUICK, "-o", tmp_path / "run")
    done = cli(*run)
    assert done.code == 0, done.err
    assert "15 pictures" in done.out
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        *("last.safetensors", "best.safetensors", "recipe.json", "metrics.csv")
    }
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["iterations"] == 4
    assert cli("export", tmp_path / "run" / "best.safetensors", "-o", tmp_path / "model.onnx").code == 0
    picture = next((folder / "test" / "red").iterdir())
    assert cli("classify", picture, "-m", tmp_path / "model.onnx").code == 0
    before = contents(tmp_path / "run")
    again = cli(*run)
    assert again.code == 2
    assert "holds a run already" in again.err
    assert "add --resume" in again.err
    again = cli(*run, "--resume")
    assert again.code == 2
    assert "finished run" in again.err
    assert contents(tmp_path / "run") == before


def test_resume_begins_a_run_where_there_is_none_and_needs_a_folder(folder: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("train", folder, *QUICK, "-o", tmp_path / "run", "--resume").code == 0
    done = cli("train", folder, *QUICK, "--resume")
    assert done.code == 2
    assert "name the folder with -o" in done.err


FLAGS: tuple[tuple[dict[str, tuple[object, object]], dict[str, bool]], ...] = (
    (
        {
            "arch": ("resnet8", "resnet8"),
            "epochs": (0.25, 0.25),
            "batch-size": (12, 12),
            "peak-rate": (0.02, 0.02),
            "schedule": ("step", "step"),
            "milestones": ("0.5,0.75", [0.5, 0.75]),
            "warmup": (0.1, 0.1),
            "momentum": (0.8, 0.8),
            "weight-decay": (0.01, 0.01),
            "label-smoothing": (0.2, 0.2),
            "augmentation": ("area", "area"),
            "resize": (28, 28),
            "crop": (24, 24),
            "area": ("0.5,0.9", [0.5, 0.9]),
            "colour": (0.2, 0.2),
            "mean": ("channel", "channel"),
            "validation": (5, 5),
            "seed": (3, 3),
        },
        {"nesterov": True, "decay-weights": False, "no-flip": False, "zero-init": True},
    ),
    (
        {
            "arch": ("resnet8", "resnet8"),
            "iterations": (1, 1),
            "schedule": ("plateau", "plateau"),
            "patience": (7, 7),
            "augmentation": ("scale", "scale"),
            "scales": ("32,40", [32, 40]),
            "freeze": (1, 1),
        },
        {"no-nesterov": False, "decay-all": True, "flip": True, "no-zero-init": False},
    ),
    (
        {
            "arch": ("resnet8", "resnet8"),
            "stages": ("0.5:32:32:0.1", [{"epochs": 0.5, "resize": 32, "crop": 32, "peak_rate": 0.1}]),
            "pad": (3, 3),
        },
        {},
    ),
)


@pytest.mark.parametrize(("flags", "switches"), FLAGS)
def test_every_value_of_a_recipe_has_a_flag(
    folder: Path, tmp_path: Path, cli: Cli, flags: dict[str, tuple[object, object]], switches: dict[str, bool]
) -> None:
    arguments = [part for name, (value, _) in flags.items() for part in (f"--{name}", value)]
    done = cli("train", folder, *arguments, *(f"--{name}" for name in switches), "-o", tmp_path)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "recipe.json").read_text())
    assert {name: found[name.replace("-", "_")] for name in flags} == {
        name: value for name, (_, value) in flags.items()
    }
    for name, value in switches.items():
        assert found[name.removeprefix("no-").replace("-", "_").replace("decay_weights", "decay_all")] == value


def test_no_value_of_a_recipe_is_without_a_flag() -> None:
    flags = {name.replace("-", "_") for values, _ in FLAGS for name in values}
    assert {field.name for field in fields(Recipe)} == {*flags, "name", "nesterov", "decay_all", "flip", "zero_init"}


@pytest.fixture
def start(make_checkpoint: Callable[..., Checkpoint], tmp_path: Path) -> Path:
    path, checkpoint = tmp_path / "start.safetensors", make_checkpoint("resnet20")
    save_checkpoint(replace(checkpoint, spec=checkpoint.spec.with_(provenance={"data": "none"})), path)
    return path


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Five classes of 20 pictures, of several shapes, a noisy colour for each, with names whose orders differ."""
    generator = np.random.default_rng(0)
    colours = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (200, 40, 200))
    for label in range(5):
        place = tmp_path / "flowers" / f"{(8, 9, 10, 11, 12)[label]} petals"
        place.mkdir(parents=True)
        for index in range(20):
            noise = generator.normal(0, 40, (40 + index % 8, 48, 3))
            picture = np.clip(np.array(colours[label]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(place / f"{index}.jpg", quality=95)
    return tmp_path / "flowers"


def test_fine_tuning_learns_new_classes_and_keeps_their_order(
    flowers: Path, start: Path, tmp_path: Path, cli: Cli
) -> None:
    run = ("train", flowers, "--from", start, "--epochs", 12, "--peak-rate", 0.05, "-b", 10, "--workers", 1)
    unclear = cli(*run, "-o", tmp_path / "run")
    assert unclear.code == 1
    assert "--class-order natural" in unclear.err
    done = cli(*run, "--class-order", "natural", "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert "(validation), 20 pictures" in done.out
    best = load_checkpoint(tmp_path / "run" / "best.safetensors")
    names = tuple(f"{count} petals" for count in (8, 9, 10, 11, 12))
    assert best.spec.classes == names
    assert best.spec.input == load_checkpoint(start).spec.input
    assert best.spec.provenance["from"] == "resnet20-test"
    assert best.spec.provenance["start"] == {"data": "none"}
    assert best.spec.provenance["class_order"] == "natural"
    artifact, last = tmp_path / "model.onnx", load_checkpoint(tmp_path / "run" / "last.safetensors").spec
    assert cli("export", tmp_path / "run" / "last.safetensors", "-o", artifact).code == 0
    with OnnxRuntime(artifact, device="cpu") as runtime:
        assert (runtime.spec.classes, runtime.spec.input) == (names, last.input)
        assert runtime.spec.provenance == last.provenance
    done = cli("classify", flowers, "-m", artifact, "--top-k", 1, "--format", "jsonl")
    assert done.code == 0, done.err
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert len(answers) == 100
    for answer in answers:
        assert answer["predictions"][0]["label"] == Path(answer["source"]).parent.name


def test_frozen_stages_stay_as_they_were(flowers: Path, start: Path, tmp_path: Path, cli: Cli) -> None:
    order = tmp_path / "order.txt"
    order.write_text("\n".join(f"{count} petals" for count in (12, 8, 9, 10, 11)))
    done = cli(
        *("train", flowers, "--from", start, "--freeze", 2, "--iterations", 2, "--workers", 0, "--class-order", order),
        *("-o", tmp_path / "run"),
    )
    assert done.code == 0, done.err
    before, after = load_checkpoint(start).weights, load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert after.spec.classes[0] == "12 petals"
    for name, value in after.weights.items():
        frozen = name.startswith(("conv1", "bn1", "layer1", "layer2"))
        assert frozen == (value.shape == before[name].shape and np.array_equal(value, before[name])), name


def test_fine_tuning_says_what_it_needs(flowers: Path, start: Path, tmp_path: Path, cli: Cli) -> None:
    run = ("train", flowers, "--class-order", "string", "-o", tmp_path / "run")
    missing = cli(*run, "--recipe", "finetune")
    assert (missing.code, "--from" in missing.err) == (2, True)
    other = cli(*run, "--from", start, "--arch", "resnet56")
    assert (other.code, "is a resnet20, not a resnet56" in other.err) == (2, True)
    stages = cli(*run, "--from", start, "--freeze", 4)
    assert (stages.code, "has 3 stages" in stages.err) == (2, True)
    unknown = cli(*run, "--from", "resnet21")
    assert unknown.code == 1
    order = cli("train", flowers, "--class-order", tmp_path / "none.txt", "-o", tmp_path / "run")
    assert order.code == 2


def test_the_imagenet_recipe_runs(photos: Callable[..., NDArray[np.uint8]], tmp_path: Path, cli: Cli) -> None:
    """Real geometry on a few pictures of several shapes: class folders with a validation split and no test split."""
    for split, count in (("train", 3), ("val", 2)):
        for label in range(2):
            place = tmp_path / "data" / split / f"n0000000{label}"
            place.mkdir(parents=True)
            for index, picture in enumerate(photos(count, 300, seed=label)):
                Image.fromarray(picture[: 240 + 30 * index]).save(place / f"{index}.JPEG")
    run = ("train", tmp_path / "data", "--recipe", "imagenet-paper", "--arch", "resnet18", "--workers", 1)
    done = cli(*run, "--iterations", 2, "-b", 2, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert "(validation), 4 pictures" in done.out
    spec = load_checkpoint(tmp_path / "run" / "best.safetensors").spec
    assert (spec.input.resize, spec.input.crop, spec.input.mean.shape) == (256, 224, (224, 224, 3))
    assert spec.provenance["recipe"]["arch"] == "resnet18"


def test_a_run_that_does_not_begin_is_not_announced(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("train", "absent", "--device", "cpu")
    assert (done.code, done.out, done.err) == (1, "", "error: absent does not exist\n")
