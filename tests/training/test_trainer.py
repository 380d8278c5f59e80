from __future__ import annotations

import csv
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.errors import DataError, PictureError, TrainingError, UsageError  # noqa: E402
from resnet_infer.models.architectures import architecture  # noqa: E402
from resnet_infer.models.checkpoint import load_checkpoint  # noqa: E402
from resnet_infer.training.recipes import Recipe, get_recipe  # noqa: E402
from resnet_infer.training.splits import open_splits  # noqa: E402
from resnet_infer.training.stopping import Stopped  # noqa: E402
from resnet_infer.training.trainer import Options, Trainer  # noqa: E402


def recipe(name: str = "cifar10-short", **changes: object) -> Recipe:
    return get_recipe(name, **{"iterations": 12, "batch_size": 16, "validation": 8, "peak_rate": 0.1, **changes})


def trainer(
    folder: Path,
    run: Path,
    log: Callable[[str], None] = lambda line: None,
    options: Options = Options(precision="fp32"),  # noqa: B008
    **changes: object,
) -> Trainer:
    one = recipe(**changes)
    return Trainer(
        architecture("resnet8", 3), one, open_splits(folder, validation=one.validation), run, options=options, log=log
    )


def same(one: Path, other: Path) -> None:
    first, second = load_checkpoint(one), load_checkpoint(other)
    assert all(np.array_equal(value, second.weights[name]) for name, value in first.weights.items())
    assert first.extra
    assert all(np.array_equal(value, second.extra[name]) for name, value in first.extra.items())


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


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


@pytest.mark.parametrize("options", [{}, {"data_in": "files", "workers": 2}, {"precision": "bf16"}])
@pytest.mark.parametrize("stop_at", [3, 4, 6])
def test_a_run_stopped_at_any_step_goes_on_to_the_same_weights(
    folder: Path, tmp_path: Path, stop_at: int, options: dict[str, object]
) -> None:
    chosen = replace(Options(precision="fp32"), **options)  # type: ignore[arg-type]
    trainer(folder, tmp_path / "whole", options=chosen).run()
    stopped = trainer(folder, tmp_path / "parts", options=chosen)
    step = stopped._step

    def interrupt(*batch: object) -> None:
        step(*batch)  # type: ignore[arg-type]
        if stopped.state.iteration == stop_at - 1:
            signal.raise_signal(signal.SIGTERM)

    stopped._step = interrupt  # type: ignore[method-assign]
    with pytest.raises(Stopped, match=f"iteration {stop_at}") as error:
        stopped.run()
    assert error.value.exit_code == 143
    torch.manual_seed(99)
    trainer(folder, tmp_path / "parts", options=chosen).run()
    same(tmp_path / "whole" / "last.safetensors", tmp_path / "parts" / "last.safetensors")
    one, other = rows(tmp_path / "whole"), rows(tmp_path / "parts")
    for row in (*one, *other):
        del row["pictures_per_s"], row["seconds"]
    assert one == other


def test_a_finished_or_different_run_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    trainer(folder, tmp_path).run()
    with pytest.raises(UsageError, match="finished run"):
        trainer(folder, tmp_path).run()
    half = tmp_path / "half"
    stopped = trainer(folder, half, log=lambda line: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Stopped) as error:
        stopped.run()
    assert error.value.exit_code == 130
    with pytest.raises(UsageError, match=r"weight_decay was 0.0005, is 0.1"):
        trainer(folder, half, weight_decay=0.1).run()


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_saved(folder: Path, tmp_path: Path) -> None:
    one = trainer(folder, tmp_path)
    finite = one.schedule.rate
    one.schedule.rate = lambda step: finite(step) if step < 4 else float("inf")  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"not finite at iteration 8; .*last.safetensors keeps iteration 4"):
        one.run()
    assert load_checkpoint(tmp_path / "last.safetensors").spec.provenance["iterations"] == 4


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Lets files grow to so many bytes only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_nothing(folder: Path, tmp_path: Path, small_disk: Callable[[int], None]) -> None:
    trainer(folder, tmp_path / "whole").run()
    one = trainer(folder, tmp_path / "run", log=lambda line: small_disk(50_000) if "iteration 8" in line else None)
    with pytest.raises(TrainingError, match=r"cannot write .*keeps iteration 4"):
        one.run()
    small_disk(1 << 40)
    trainer(folder, tmp_path / "run").run()
    same(tmp_path / "whole" / "last.safetensors", tmp_path / "run" / "last.safetensors")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()])
def test_running_out_of_memory_says_what_to_lower(folder: Path, tmp_path: Path, error: Exception) -> None:
    one = trainer(folder, tmp_path)

    def fail(*batch: object) -> None:
        raise error

    one._step = fail  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="out of memory") as raised:
        one.run()
    assert "--batch-size (now 16)" in str(raised.value)


@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize("nesterov", [True, False])
def test_a_step_is_sgd_with_momentum_and_decay_where_it_belongs(
    folder: Path, tmp_path: Path, decay_all: bool, nesterov: bool
) -> None:
    """v = 0.9 v + g + decay w, w -= rate v; Nesterov's goes on by 0.9 v + g."""
    one = trainer(folder, tmp_path, weight_decay=0.1, decay_all=decay_all, nesterov=nesterov)
    named = dict(one.network.named_parameters())
    velocity = {name: torch.zeros_like(value) for name, value in named.items()}
    expected = {name: value.detach().clone() for name, value in named.items()}
    for step in range(3):
        for value in named.values():
            value.grad = torch.full_like(value, 0.01 * (step + 1))
        one.optimizer.step()
        for name, value in expected.items():
            gradient = torch.full_like(value, 0.01 * (step + 1))
            if decay_all or value.ndim > 1:
                gradient = gradient + 0.1 * value
            velocity[name] = 0.9 * velocity[name] + gradient
            expected[name] = value - 0.1 * (gradient + 0.9 * velocity[name] if nesterov else velocity[name])
    for name, value in named.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_zero_init_begins_as_the_shortcut(folder: Path, tmp_path: Path) -> None:
    network = trainer(folder, tmp_path, zero_init=True).network.eval()
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(network.layer1[0](x), x.relu())


def test_every_augmentation_runs_in_memory_and_in_files(folder: Path, tmp_path: Path) -> None:
    changes = {"iterations": 1, "colour": 0.1, "mean": "channel", "label_smoothing": 0.1}
    for name in ("pad", "scale", "area", "none"):
        losses = []
        for place in ("memory", "files"):
            one = trainer(
                folder,
                tmp_path / f"{name}-{place}",
                options=Options(precision="fp32", data_in=place, workers=0),  # type: ignore[arg-type]
                augmentation=name,
                scales=(32, 48),
                **changes,
            )
            one.run()
            losses.append(float(rows(tmp_path / f"{name}-{place}")[0]["train_loss"]))
        assert losses[0] == pytest.approx(losses[1], rel=1e-6 if name in ("pad", "none") else 0.02), name


def test_stages_train_and_measure_at_their_own_size(folder: Path, tmp_path: Path) -> None:
    stages = get_recipe("tiny-imagenet").stages
    small = tuple(
        replace(stage, resize=size + 4, crop=size, peak_rate=0.05) for stage, size in zip(stages, (16, 24), strict=True)
    )
    one = recipe("tiny-imagenet", iterations=10, peak_rate=None, stages=small)
    splits = open_splits(folder, validation=8)
    spec = Trainer(architecture("resnet8", 3), one, splits, tmp_path, log=lambda line: None).run()
    assert load_checkpoint(tmp_path / "last.safetensors").spec.input.crop == 24
    assert (spec.input.resize, spec.input.crop) in ((20, 16), (28, 24))


def test_data_and_network_must_fit(folder: Path, tmp_path: Path) -> None:
    splits = open_splits(folder)
    with pytest.raises(DataError, match="has 3 classes"):
        Trainer(architecture("resnet8", 10), recipe(), splits, tmp_path)
    staged = recipe(stages=get_recipe("tiny-imagenet").stages)
    with pytest.raises(UsageError, match="different crops"):
        Trainer(architecture("resnet8", 3), staged, splits, tmp_path)
    lines: list[str] = []
    one = Trainer(architecture("resnet8", 3), recipe(batch_size=999), splits, tmp_path, log=lines.append)
    assert one.recipe.batch_size == 65
    assert "one batch" in lines[0]


def test_a_bad_picture_is_named_by_the_worker_that_meets_it(folder: Path, tmp_path: Path) -> None:
    splits = open_splits(folder, validation=8)
    samples = [*splits.train.samples]
    for index in range(20, 40):
        samples[index] = replace(samples[index], name=f"bad/{index}.png", read=lambda: b"no picture")
    bad = replace(splits, train=replace(splits.train, samples=samples))
    trainer(folder, tmp_path / "start").run()
    start = load_checkpoint(tmp_path / "start" / "best.safetensors")
    one = Trainer(
        architecture("resnet8", 3),
        recipe(augmentation="area", mean="model"),
        bad,
        tmp_path / "run",
        start=start,
        options=Options(precision="fp32", data_in="files", workers=1),
        log=lambda line: None,
    )
    with pytest.raises(PictureError, match=r"^bad/\d+.png: "):
        one.run()
