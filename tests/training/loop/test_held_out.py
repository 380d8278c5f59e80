"""Which of the held-out pictures choose the weights, which steer the schedule, and which are only measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.data.datasets import Dataset, Sample  # noqa: E402
from resnet_infer.models.spec import InputSpec  # noqa: E402
from resnet_infer.training.distributed import World  # noqa: E402
from resnet_infer.training.error_rates import Counts  # noqa: E402
from resnet_infer.training.input.splits import Splits  # noqa: E402
from resnet_infer.training.input.views import Views  # noqa: E402
from resnet_infer.training.loop.held_out import EpochCounts, HeldOut  # noqa: E402

GEOMETRY = InputSpec(32, 32, np.zeros(3), np.ones(3))


def dataset(count: int) -> Dataset:
    """So many pictures of two classes in turn, with their numbers for names; none of them is ever read."""
    return Dataset("numbered", ("a", "b"), [Sample(str(n), n % 2, lambda: b"") for n in range(count)], "given")


def count(self: HeldOut, network: Any, views: Views, *_: Any) -> Counts:
    """Counts that tell which pictures were measured: their numbers are added up."""
    return Counts(sum(int(sample.name) for sample in views.samples), 0, len(views.samples))


def measured(monkeypatch: pytest.MonkeyPatch, validation: int, test: int) -> tuple[HeldOut, EpochCounts]:
    monkeypatch.setattr(HeldOut, "count", count)
    splits = Splits(dataset(10), dataset(validation) if validation else None, dataset(test) if test else None)
    held_out = HeldOut(splits, 0, World(torch.device("cpu")))
    return held_out, held_out.after_epoch(torch.nn.Identity(), GEOMETRY, lambda: None)


def test_without_a_test_split_only_those_that_choose_steer_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other half measures the chosen weights in the end."""
    held_out, found = measured(monkeypatch, validation=400, test=0)
    assert held_out.choosing is not None
    chosen = sum(int(sample.name) for sample in held_out.choosing.samples)
    assert found.choosing == found.deciding == Counts(chosen, 0, 200)
    assert found.whole == Counts(sum(range(400)), 0, 400)
    assert held_out.final is held_out.measuring


def test_with_a_test_split_all_validation_pictures_choose_and_steer(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out, found = measured(monkeypatch, validation=400, test=5)
    assert found.choosing == found.deciding == found.whole == Counts(sum(range(400)), 0, 400)
    assert held_out.final is held_out.data.test


@pytest.mark.parametrize("test", [0, 5])
def test_too_few_to_choose_steer_the_schedule_only_beside_a_test_split(
    monkeypatch: pytest.MonkeyPatch, test: int
) -> None:
    _, found = measured(monkeypatch, validation=20, test=test)
    whole = Counts(sum(range(20)), 0, 20)
    assert found == EpochCounts(None, whole, whole if test else None)


def test_without_validation_pictures_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, validation=0, test=5)[1] == EpochCounts(None, None, None)
