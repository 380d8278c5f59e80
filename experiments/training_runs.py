"""Runs of `resnet-infer train` that a script starts one after the other."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from resnet_infer.models.checkpoint import SUFFIX, load_checkpoint


def train(arguments: Sequence[object]) -> int:
    """Run `resnet-infer train` and wait, also while it saves because it was told to stop. Its exit code."""
    with subprocess.Popen([sys.executable, "-m", "resnet_infer", "train", *map(str, arguments)]) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the terminal interrupted it too
            code = 130
        finally:
            signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code


def is_finished(folder: Path) -> bool:
    """Whether the run in it was trained to its end and tested."""
    best = folder / f"best{SUFFIX}"
    return best.exists() and bool(load_checkpoint(best).spec.measured)
