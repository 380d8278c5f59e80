"""The long way on real data: trained, stopped, gone on with, exported, classified."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.data.datasets import open_dataset
from resnet_infer.models.checkpoint import load_checkpoint
from resnet_infer.models.spec import ModelSpec
from tests.conftest import Outcome
from tests.training.processes import Running, start, train

Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def photos(data_folder: Path) -> list[Path]:
    """123 photos, each of another class, called `n01484850_great_white_shark.JPEG` and the like."""
    found = sorted((data_folder / "imagenet-sample").glob("*.JPEG"))
    if not found:
        pytest.skip("needs imagenet-sample, a folder of photographs")
    return found


def interrupted(arguments: tuple[object, ...], run: Path) -> list[dict[str, str]]:
    """Train, with a SIGTERM after the first epoch; the rows of the run's table."""

    def launch() -> Running:
        return start(train, *map(str, arguments), "-o", str(run), outputs=run.with_suffix(".outputs"), patience=1200)

    first = launch()
    first.until((run / "last.safetensors").exists)
    os.kill(first.processes[0].pid, signal.SIGTERM)
    assert first.wait() == 128 + signal.SIGTERM, first.err()
    reached = load_checkpoint(run / "last.safetensors").spec.provenance["iterations"]
    assert f"stopped at iteration {reached}" in first.err()
    second = launch()
    second.finish()
    assert f"at iteration {reached}" in second.err()
    return table(run)


def table(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def classified(cli: Cli, run: Path, photos: list[Path]) -> tuple[ModelSpec, list[str]]:
    """The exported model's spec, and its answer to each photo."""
    assert cli("export", run / "best.safetensors", "-o", run / "model.onnx").code == 0
    done = cli("classify", photos[0].parent, "-m", run / "model.onnx", "-k", 1, "-f", "jsonl")
    assert done.code == 0, done.err
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [answer["source"] for answer in answers] == [str(photo) for photo in photos]
    spec = load_checkpoint(run / "best.safetensors").spec
    return spec, [answer["predictions"][0]["label"] for answer in answers]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_imagenet_recipe_and_then_fine_tuning(photos: list[Path], tmp_path: Path, cli: Cli) -> None:
    for photo in photos:
        for split in ("train", "val"):
            place = tmp_path / "photos" / split / photo.name.partition("_")[0]
            place.mkdir(parents=True)
            (place / photo.name).symlink_to(photo)
    paper = ("--recipe", "imagenet-paper", "--arch", "resnet18", "--peak-rate", 0.01, "-b", 8, "--iterations", 75)
    rows = interrupted((tmp_path / "photos", *paper, "--workers", 1), tmp_path / "paper")
    assert [int(row["iteration"]) for row in rows] == [15, 30, 45, 60, 75]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"]) - 0.1
    spec, labels = classified(cli, tmp_path / "paper", photos)
    assert len(spec.classes) == 123
    assert set(labels) <= set(spec.classes)

    kinds = ["animal" if photo.name < "n02600000" else "thing" for photo in photos]
    lines = [
        f"photos/{split}/{photo.name.partition('_')[0]}/{photo.name},{kind},{split}"
        for split in ("train", "val")
        for photo, kind in zip(photos, kinds, strict=True)
    ]
    (tmp_path / "kinds.csv").write_text("path,label,split\n" + "\n".join(lines))
    tune = ("--recipe", "finetune", "--from", tmp_path / "paper" / "best.safetensors", "-b", 8, "--iterations", 60)
    rows = interrupted((tmp_path / "kinds.csv", *tune, "--workers", 1), tmp_path / "kinds")
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    tuned, labels = classified(cli, tmp_path / "kinds", photos)
    assert (tuned.classes, tuned.input) == (("animal", "thing"), spec.input)
    wrong = sum(label != kind for label, kind in zip(labels, kinds, strict=True))
    assert 100 * wrong / len(photos) == pytest.approx(tuned.measured[0].top1_error, abs=1)
    assert wrong < 49  # what "thing" for every photo would get


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_resnet1202_takes_a_few_steps(data_folder: Path, tmp_path: Path, cli: Cli) -> None:
    archive = data_folder / "cifar10-jpeg.tar.xz"
    if not archive.exists():
        pytest.skip("needs cifar10-jpeg.tar.xz")
    pictures = open_dataset(archive, "train")
    for label, name in enumerate(pictures.classes):
        place = tmp_path / "data" / name
        place.mkdir(parents=True)
        some = [sample for sample in pictures.samples[::100] if sample.label == label][:4]
        for index, sample in enumerate(some):
            sample.image().save(place / f"{index}.png")
    run = ("train", tmp_path / "data", "--recipe", "cifar10-paper", "--arch", "resnet1202", "-b", 8)
    # In batches this small the paper's rate throws a net this deep about for long.
    done = cli(*run, "--peak-rate", 0.001, "--iterations", 12, "--validation", 10, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    losses = [float(row["train_loss"]) for row in table(tmp_path / "run")]
    assert losses[-1] < losses[0]
    spec = load_checkpoint(tmp_path / "run" / "best.safetensors").spec
    assert spec.architecture is not None
    assert spec.architecture.depth == 1202
