"""What training leaves of the program that it runs in."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from torch.utils.data import DataLoader  # noqa: E402
from torch.utils.data._utils import signal_handling  # noqa: E402

from resnet_infer.training.loop.options import Options  # noqa: E402
from resnet_infer.training.loop.signals import Stopped  # noqa: E402
from tests.training.runs import trainer  # noqa: E402


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="the system has no SIGCHLD")
@pytest.mark.parametrize("own", [False, True])
def test_training_from_files_leaves_the_handler_of_child_processes(
    folder: Path, tmp_path: Path, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch installs its handler once in a process, and an earlier test may have had a loader.
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)

    def handler(number: int, frame: FrameType | None) -> None:
        pass

    first = signal.getsignal(signal.SIGCHLD)
    random = torch.get_rng_state()
    try:
        before = handler if own else signal.SIG_DFL
        signal.signal(signal.SIGCHLD, before)
        trainer(
            folder,
            tmp_path,
            options=Options(precision="fp32", data_in="files", workers=1),
            augmentation="area",
            iterations=4,
        ).run()
        assert signal.getsignal(signal.SIGCHLD) is before
        assert torch.equal(torch.get_rng_state(), random)
        numbers: Any = [1, 2]
        # A loader of the program still installs the handler that tells it of dead workers.
        list(DataLoader(numbers, num_workers=1))
        assert signal.getsignal(signal.SIGCHLD) is not before
    finally:
        signal.signal(signal.SIGCHLD, first)
        signal_handling._SIGCHLD_handler_set = False


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="the system has no SIGCHLD")
def test_a_program_that_has_loaders_of_its_own_may_stop_training_from_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    first = signal.getsignal(signal.SIGCHLD)
    unraised: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    options = Options(precision="fp32", data_in="files", workers=2)
    try:
        numbers: Any = [1, 2]
        list(DataLoader(numbers, num_workers=1))
        for turn in range(4):
            stopped = trainer(folder, tmp_path / str(turn), options=options)
            monkeypatch.setattr(stopped, "_step", lambda *_: signal.raise_signal(signal.SIGTERM))
            with pytest.raises(Stopped):
                stopped.run()
        assert unraised == []
    finally:
        signal.signal(signal.SIGCHLD, first)
        signal_handling._SIGCHLD_handler_set = False
