from __future__ import annotations

import json
import re
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.data.datasets import Dataset  # noqa: E402
from resnet_infer.errors import DataError, PictureError, TrainingError, UsageError  # noqa: E402
from resnet_infer.models.architectures import architecture  # noqa: E402
from resnet_infer.models.checkpoint import load_checkpoint  # noqa: E402
from resnet_infer.training.input.sources import DataIn  # noqa: E402
from resnet_infer.training.input.splits import Splits, open_splits  # noqa: E402
from resnet_infer.training.loop.options import Options  # noqa: E402
from resnet_infer.training.loop.signals import Stopped  # noqa: E402
from resnet_infer.training.loop.trainer import Trainer  # noqa: E402
from resnet_infer.training.recipes import Stage  # noqa: E402
from resnet_infer.utils.cpu import usable_cores  # noqa: E402
from tests.training.runs import recipe, rows, same, trainer  # noqa: E402

WORKERS = min(2, usable_cores())


def test_it_learns_and_leaves_what_it_promises(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    spec = trainer(folder, run, iterations=40).run()
    best = load_checkpoint(run / "best.safetensors")
    assert best.spec == spec
    assert best.spec.classes == ("blue", "green", "red")
    assert (best.spec.measured[0].top1_error, best.spec.measured[0].pictures) == (0, 15)
    assert best.spec.measured[0].dataset.endswith("/test")
    assert best.spec.provenance["recipe"]["iterations"] == 40
    assert best.spec.provenance["class_order"] == "string"
    assert not best.extra
    assert load_checkpoint(run / "last.safetensors").extra
    found = rows(run)
    assert [int(row["iteration"]) for row in found] == list(range(4, 41, 4))
    assert float(found[-1]["train_loss"]) < float(found[0]["train_loss"]) / 2
    assert float(found[-1]["seconds"]) >= 0


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Options], Path]:
    """A run that nothing stops, one for each kind of options."""

    @cache
    def run(options: Options) -> Path:
        place = tmp_path_factory.mktemp("whole")
        trainer(folder, place, options=options).run()
        return place

    return run


@pytest.mark.parametrize("options", [{}, {"data_in": "files", "workers": WORKERS}, {"precision": "bf16"}])
@pytest.mark.parametrize("stop_at", [3, 4, 6])
def test_a_run_stopped_at_any_step_goes_on_to_the_same_weights(
    folder: Path,
    tmp_path: Path,
    uninterrupted: Callable[[Options], Path],
    stop_at: int,
    options: dict[str, object],
) -> None:
    chosen = replace(Options(precision="fp32"), **options)  # type: ignore[arg-type]
    whole = uninterrupted(chosen)
    stopped = trainer(folder, tmp_path / "parts", options=chosen)
    step = stopped._step

    def interrupt(*batch: object) -> None:
        step(*batch)  # type: ignore[arg-type]
        if stopped.state.iteration == stop_at - 1:
            signal.raise_signal(signal.SIGTERM)

    stopped._step = interrupt  # type: ignore[assignment,method-assign]
    with pytest.raises(Stopped, match=f"iteration {stop_at}") as error:
        stopped.run()
    assert error.value.exit_code == 143
    torch.manual_seed(99)
    trainer(folder, tmp_path / "parts", options=chosen).run()
    same(whole / "last.safetensors", tmp_path / "parts" / "last.safetensors")
    one, other = rows(whole), rows(tmp_path / "parts")
    for row in (*one, *other):
        del row["pictures_per_s"], row["seconds"]
    assert one == other


def test_a_finished_or_different_run_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    trainer(folder, tmp_path).run()
    with pytest.raises(UsageError, match="finished run"):
        trainer(folder, tmp_path).run()
    kept = tmp_path / "recipe.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "format": 99, "reads_from": 99}))
    with pytest.raises(DataError, match=r"recipe\.json is of format 99 of the training run"):
        trainer(folder, tmp_path).run()
    half = tmp_path / "half"
    stopped = trainer(
        folder, half, log=lambda line: signal.raise_signal(signal.SIGINT) if "iteration" in line else None
    )
    with pytest.raises(Stopped) as error:
        stopped.run()
    assert error.value.exit_code == 130
    with pytest.raises(UsageError, match=r"weight_decay was 0.0005, is 0.1"):
        trainer(folder, half, weight_decay=0.1).run()


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_saved(folder: Path, tmp_path: Path) -> None:
    one = trainer(folder, tmp_path)
    finite = one.schedule.rate
    one.schedule.rate = lambda step: finite(step) if step < 4 else float("inf")  # type: ignore[assignment,method-assign]
    with pytest.raises(TrainingError, match=r"not finite at iteration 8; .*last.safetensors keeps iteration 4"):
        one.run()
    assert load_checkpoint(tmp_path / "last.safetensors").spec.provenance["iterations"] == 4


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Lets files grow to so many bytes only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_nothing(
    folder: Path, tmp_path: Path, small_disk: Callable[[int], None], uninterrupted: Callable[[Options], Path]
) -> None:
    one = trainer(folder, tmp_path / "run", log=lambda line: small_disk(50_000) if "iteration 8" in line else None)
    with pytest.raises(TrainingError, match=r"cannot write .*keeps iteration 4"):
        one.run()
    small_disk(1 << 40)
    trainer(folder, tmp_path / "run").run()
    same(uninterrupted(Options(precision="fp32")) / "last.safetensors", tmp_path / "run" / "last.safetensors")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError(), RuntimeError("std::bad_alloc")]
)
def test_running_out_of_memory_says_what_to_lower(folder: Path, tmp_path: Path, error: Exception) -> None:
    one = trainer(folder, tmp_path)

    def fail(*batch: object) -> None:
        raise error

    one._step = fail  # type: ignore[assignment,method-assign]
    with pytest.raises(TrainingError, match=r"out of memory.*; nothing is saved yet") as raised:
        one.run()
    assert "--batch-size (now 16)" in str(raised.value)


def test_every_augmentation_runs_in_memory_and_in_files(folder: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"iterations": 1, "colour": 0.1, "mean": "channel", "label_smoothing": 0.1}
    for name in ("pad", "scale", "area", "none"):
        losses = []
        for place in get_args(DataIn)[1:]:
            one = trainer(
                folder,
                tmp_path / f"{name}-{place}",
                options=Options(precision="fp32", data_in=place, workers=0),
                augmentation=name,
                **changes | ({"scales": (32, 48)} if name == "scale" else {}),
            )
            one.run()
            losses.append(float(rows(tmp_path / f"{name}-{place}")[0]["train_loss"]))
        assert losses[0] == pytest.approx(losses[1], rel=1e-6 if name in ("pad", "none") else 1e-3), name


def test_stages_train_and_measure_at_their_own_size(folder: Path, tmp_path: Path) -> None:
    stages = (Stage(3, 20, 16, 0.05), Stage(2, 28, 24, 0.05))
    one = recipe("tiny-imagenet", iterations=10, stages=stages)
    splits = open_splits(folder, validation=8)
    spec = Trainer(architecture("resnet8", 3), one, splits, tmp_path, log=lambda line: None).run()
    assert load_checkpoint(tmp_path / "last.safetensors").spec.input.crop == 24
    assert (spec.input.resize, spec.input.crop) in ((20, 16), (28, 24))


def test_data_and_network_must_fit(folder: Path, tmp_path: Path) -> None:
    splits = open_splits(folder)
    with pytest.raises(DataError, match="has 3 classes"):
        Trainer(architecture("resnet8", 10), recipe(), splits, tmp_path)
    staged = recipe(stages=(Stage(3, 20, 16, 0.05), Stage(2, 28, 24, 0.05)))
    with pytest.raises(UsageError, match="different sizes"):
        Trainer(architecture("resnet8", 3), staged, splits, tmp_path)
    lines: list[str] = []
    one = Trainer(architecture("resnet8", 3), recipe(batch_size=999), splits, tmp_path, log=lines.append)
    assert one.recipe.batch_size == 58
    assert "one batch" in lines[0]


@pytest.mark.parametrize("place", ["files", "memory"])
def test_bad_pictures_are_all_named_at_once(folder: Path, tmp_path: Path, place: str) -> None:
    splits = open_splits(folder, validation=8)

    def with_bad(part: Dataset | None, name: str, indices: Sequence[int]) -> Dataset:
        assert part
        samples = [*part.samples]
        for index in indices:
            samples[index] = replace(samples[index], name=f"bad/{name}/{index}.png", read=lambda: b"no picture")
        return replace(part, samples=samples)

    bad = Splits(
        with_bad(splits.train, "train", range(20, 25)),
        with_bad(splits.validation, "validation", (3,)),
        with_bad(splits.test, "test", (0, 14)),
    )
    trainer(folder, tmp_path / "start").run()
    start = load_checkpoint(tmp_path / "start" / "best.safetensors")
    for number, data in enumerate((bad, replace(bad, train=splits.train))):
        one = Trainer(
            architecture("resnet8", 3),
            recipe(augmentation="area", mean="model"),
            data,
            tmp_path / f"run {number}",
            start=start,
            options=Options(precision="fp32", data_in=place, workers=1),  # type: ignore[arg-type]
            log=lambda line: None,
        )
        named = ["validation/3", "test/0", "test/14"]
        if data is bad:
            named += [f"train/{index}" for index in range(20, 25)]
        with pytest.raises(PictureError, match=f"^{len(named)} of the 87 pictures of .* cannot be read:\n") as error:
            one.run()
        assert sorted(re.findall(r"bad/(\w+/\d+)\.png: ", str(error.value))) == sorted(named)
        assert one.state.iteration == 0
