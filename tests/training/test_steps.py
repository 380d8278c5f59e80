"""What one step does to pictures and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.models.spec import InputSpec  # noqa: E402
from resnet_infer.training.input.augment import BatchSampler, colour_shifts  # noqa: E402
from resnet_infer.training.input.normalise import BatchPreprocessor  # noqa: E402
from resnet_infer.training.input.pixel_statistics import measure  # noqa: E402
from resnet_infer.training.input.splits import open_splits  # noqa: E402
from resnet_infer.training.input.views import views  # noqa: E402
from resnet_infer.training.recipes import get_recipe  # noqa: E402
from tests.training.runs import rows, trainer  # noqa: E402


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
        one.learner.optimizer.step()
        for name, weight in expected.items():
            gradient = torch.full_like(weight, 0.01 * (step + 1))
            if decay_all or weight.ndim > 1:
                gradient = gradient + 0.1 * weight
            velocity[name] = 0.9 * velocity[name] + gradient
            expected[name] = weight - 0.1 * (gradient + 0.9 * velocity[name] if nesterov else velocity[name])
    for name, value in named.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_the_papers_run_and_its_step(folder: Path, tmp_path: Path) -> None:
    """SGD of momentum 0.9, decay 1e-4 on everything; a rate of 0.1, a tenth of it after a half and again after 3/4."""
    one = trainer(folder, tmp_path, name="cifar10-paper", peak_rate=None, iterations=40)
    one.run()
    assert [float(row["rate"]) for row in rows(tmp_path)] == 5 * [0.1] + 2 * [0.01] + 3 * [0.001]
    named = dict(one.network.named_parameters())
    velocity = {name: one.learner.optimizer.state[value]["momentum_buffer"].clone() for name, value in named.items()}
    expected = {name: value.detach().clone() for name, value in named.items()}
    for value in named.values():
        value.grad = torch.zeros_like(value)
    one.learner.optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(3):
        one.learner.optimizer.step()
        for name, weight in expected.items():
            velocity[name] = 0.9 * velocity[name] + 1e-4 * weight
            expected[name] = weight - 0.1 * velocity[name]
    for name, value in named.items():
        assert torch.allclose(value, expected[name], rtol=0, atol=2e-7), name
    assert len(one.learner.optimizer.param_groups) == 1


@pytest.mark.parametrize("mean", ["pixel", "channel"])
def test_pictures_are_normalised_and_tinted(folder: Path, mean: str) -> None:
    samples = open_splits(folder).train.samples
    geometry = InputSpec(32, 32, np.zeros(3), np.ones(3))
    statistics = measure(images for images, _ in views(samples, geometry))
    plain, tinted = (
        BatchPreprocessor(
            get_recipe("cifar10-paper", augmentation="none", flip=False, colour=colour, mean=mean),
            *(geometry, samples, None, torch.device("cpu")),
        )
        for colour in (0.0, 0.1)
    )
    some, draws = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8), BatchSampler(6, 6, 0).sample(0).draws
    average, deviation = statistics.normalisation(mean)
    normalised = ((some.numpy() / 255 - average) / deviation).transpose(0, 3, 1, 2)
    assert np.abs(plain(some, draws).numpy() - normalised).max() < 1e-5
    shifts = colour_shifts(statistics.colours(), 0.1, draws) / deviation
    assert np.abs(shifts).max() > 1e-3
    assert np.abs(tinted(some, draws).numpy() - normalised - shifts[:, :, None, None]).max() < 1e-5


def test_zero_init_begins_as_the_shortcut(folder: Path, tmp_path: Path) -> None:
    network: Any = trainer(folder, tmp_path, zero_init=True).network.eval()
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(network.layer1[0](x), x.relu())
