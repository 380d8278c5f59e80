"""What the program around it has set for torch, and where it runs, changes nothing of a training run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.models.checkpoint import load_checkpoint  # noqa: E402
from resnet_infer.models.network import torch_defaults, untrained_checkpoint  # noqa: E402
from resnet_infer.runtimes.pytorch import Float64Network  # noqa: E402
from resnet_infer.training.loop.options import Options  # noqa: E402
from tests.training.runs import same, trainer  # noqa: E402


@contextmanager
def default_dtype(dtype: Any) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "without gradients": lambda: torch.set_grad_enabled(False),
    "inference": lambda: torch.inference_mode(),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "another device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
FILES = Options(precision="fp32", data_in="files", workers=1)


def settings_now() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
    )


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a program that has set nothing."""
    run = tmp_path_factory.mktemp("plain")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each test
    trainer(folder, run).run()
    torch.set_num_threads(threads)
    return run


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_is_the_same_whatever_is_set_for_torch(name: str, plain: Path, folder: Path, tmp_path: Path) -> None:
    with SETTINGS[name]():
        before = settings_now()
        trainer(folder, tmp_path).run()
        assert settings_now() == before
    same(plain / "last.safetensors", tmp_path / "last.safetensors")
    best, expected = (load_checkpoint(run / "best.safetensors") for run in (tmp_path, plain))
    assert best.spec.measured == expected.spec.measured


@pytest.mark.parametrize("name", SETTINGS)
def test_references_and_random_networks_are_the_same_whatever_is_set_for_torch(name: str, plain: Path) -> None:
    checkpoint = load_checkpoint(plain / "best.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)

    def results() -> list[np.ndarray]:
        made = untrained_checkpoint(checkpoint.spec, images).weights
        return [Float64Network(checkpoint)(images), *made.values()]

    expected = results()
    with SETTINGS[name]():
        before = settings_now()
        found = results()
        assert settings_now() == before
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_settings_are_put_back_after_an_error_too() -> None:
    with default_dtype(torch.float64), torch.no_grad():
        before = settings_now()
        with pytest.raises(ZeroDivisionError), torch_defaults():
            raise ZeroDivisionError
        assert settings_now() == before


def _train(folder: Path, run: Path) -> list[str]:
    torch.set_num_threads(1)
    said: list[str] = []
    trainer(folder, run, said.append, FILES, augmentation="area", iterations=4).run()
    return said


def test_a_process_that_may_have_no_children_trains_by_threads(folder: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # its processes are daemonic
        said = pool.apply(_train, (folder, tmp_path / "pool"))
    assert sum("threads decode the pictures" in line for line in said) == 1
    assert not any("threads" in line for line in _train(folder, tmp_path / "plain"))
    same(tmp_path / "pool" / "last.safetensors", tmp_path / "plain" / "last.safetensors")
