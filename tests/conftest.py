"""What the tests share: pictures, small checkpoints, the command line, and larger data where it is at hand."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing  # NumPy 1 starts a process on its import, which no test is to blame for
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnet_infer import zoo
from resnet_infer.models.architectures import architecture
from resnet_infer.models.checkpoint import Checkpoint, save_checkpoint
from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.utils.console import on_stderr
from tests import quick
from tests.requirements import pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "tests" / "pictures"
DEMO = ROOT / "demo" / "pictures"
SAMPLE = 123
"""Photos in imagenet-sample, one of the larger data sets."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def pytest_configure() -> None:
    quick.listen()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what `make quick` leaves out."""
    return True if config.option.markexpr == "quick" and quick.is_left_out(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make quick` runs."""
    for item in items:
        if quick.is_quick(item):
            item.add_marker("quick")


@pytest.fixture(autouse=True)
def no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that is marked quick starts no process."""
    before = len(quick.started)
    yield
    if request.node.get_closest_marker("quick"):
        assert quick.started[before:] == [], "it starts a process: see tests/quick.py"


@pytest.fixture(scope="session", autouse=True)
def small_model() -> Iterator[None]:
    """Where a test names no model it means the small one, which answers sooner and was made for small pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(zoo.VARIABLE, zoo.SMALL)
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell starts what it runs in the background without SIGINT; the commands under test would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def notes_on_stderr() -> Iterator[None]:
    """Notes of the library go to stderr, as in the command."""
    with on_stderr():
        yield


@pytest.fixture(scope="session")
def photos() -> Callable[..., NDArray[np.uint8]]:
    """Crops of the tests' pictures, uint8 (count, size, size, 3), each another part of one."""

    def crops(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
        generator = np.random.default_rng(seed)
        pictures = [Image.open(path).convert("RGB") for path in sorted(PICTURES.iterdir())]
        views = []
        for index in range(count):
            picture = pictures[index % len(pictures)]
            side = int(generator.integers(min(picture.size) // 3, min(picture.size)))
            left, top = (int(generator.integers(0, full - side + 1)) for full in picture.size)
            views.append(np.asarray(picture.resize((size, size), box=(left, top, left + side, top + side))))
        return np.stack(views)

    return crops


@pytest.fixture(scope="session")
def make_checkpoint(photos: Callable[..., NDArray[np.uint8]]) -> Callable[..., Checkpoint]:
    """An untrained network whose batch norm fits real pictures; the small ones are kept for the next test."""

    def make(
        name: str = "resnet20", classes: int = 10, size: int = 32, per_pixel: bool = False, **options: Any
    ) -> Checkpoint:
        pytest.importorskip("torch", reason="random networks are made by torch (the extra `train`)")
        from resnet_infer.models.network import untrained_checkpoint

        pictures = photos(16, size)
        mean = pictures.mean(axis=(0,) if per_pixel else (0, 1, 2)) / 255
        geometry = InputSpec(resize=size, crop=size, mean=mean, std=np.array([0.24, 0.25, 0.26]))
        names = tuple(f"class {i}" for i in range(classes))
        spec = ModelSpec(f"{name}-test", architecture(name, classes, **options), names, geometry)
        return untrained_checkpoint(spec, pictures)

    small = lru_cache(maxsize=64)(make)
    return lambda name="resnet20", **options: (small if name == "resnet20" else make)(name, **options)


@pytest.fixture(scope="session")
def checkpoint_file(make_checkpoint: Callable[..., Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet20 checkpoint on disk."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(make_checkpoint(), path)
    return path


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """Run `resnet-infer ...` in this process, with a cache of its own."""
    from resnet_infer.cli.main import app

    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            app([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def data_root() -> Path:
    """Return where the larger data sets are, if they are: $RESNET_INFER_DATA, or shared/data beside the repository."""
    return Path(os.environ.get("RESNET_INFER_DATA", ROOT.parent / "shared" / "data"))


def photographs() -> list[Path]:
    """Return the 123 photos of imagenet-sample, or where they are not at hand the 6 that the repository has.

    `tests/data/test_photographs.py` tells which: it is skipped where the sample is not there.
    """
    sample = sorted((data_root() / "imagenet-sample").glob("*.JPEG"))
    found = sample or sorted([*PICTURES.glob("*.jpg"), *DEMO.glob("*.jpg")])
    assert len(found) == (SAMPLE if sample else 6)
    return found


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the larger data sets."""
    folder = data_root()
    if not folder.is_dir():
        pytest.skip("needs the larger data sets: set RESNET_INFER_DATA to the folder that has them")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium: the one of playwright, or one that is installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser, an extra of the tests")
    installed = next((path for path in map(shutil.which, BROWSERS) if path), None)
    with sync_api.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        if not own.exists() and installed is None:
            pytest.skip(f"no Chromium: {sys.executable} -m playwright install chromium, or the system's package")
        chosen = None if own.exists() else installed
        launched = playwright.chromium.launch(executable_path=chosen, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def as_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is evaluated is taken for the test set of CIFAR-10, so that its figures stand beside it."""
    monkeypatch.setattr("resnet_infer.evaluation.evaluate.identity", lambda *_: "CIFAR-10 test")
    monkeypatch.setattr("resnet_infer.evaluation.evaluate.belongs", lambda *_: True)
