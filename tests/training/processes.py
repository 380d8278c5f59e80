"""Processes that begin with torch imported already: importing it takes longer than what they are started for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *(
            "torch._dynamo",
            "torch.distributed.run",
            "resnet_infer.cli.commands.train",
            "resnet_infer.training.loop.trainer",
        ),
        *("matplotlib.backends.backend_agg", "matplotlib.style"),
    ]
)


@dataclass
class Running:
    """One process, or several that share a run."""

    processes: list[Any]
    outputs: Path
    patience: float
    """Seconds that it may take to its end."""

    def wait(self) -> int:
        """The first exit code of all that is not 0."""
        end = time.monotonic() + self.patience
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        assert None not in codes, f"a process does not end: {codes}\n{self.err()}"
        return next((code for code in codes if code), 0)

    def finish(self) -> str:
        """What the processes wrote to stdout, once they have ended well."""
        assert self.wait() == 0, self.err()
        return self._read("out")

    def err(self) -> str:
        return self._read("err")

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        assert self.wait() == -signal.SIGKILL

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that a run does long before its end."""
        while not holds():
            assert all(process.is_alive() for process in self.processes), self.err()
            time.sleep(0.002)

    def _read(self, kind: str) -> str:
        return "".join((self.outputs / f"{rank}.{kind}").read_text() for rank in range(len(self.processes)))


def start(
    function: Callable[..., None], *arguments: object, outputs: Path, count: int = 1, patience: float = 60
) -> Running:
    """Call an importable function in new processes, each the leader of a group; several see what torchrun sets."""
    outputs.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if count > 1:
        with socket.create_server(("127.0.0.1", 0)) as server:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    processes = []
    for rank in range(count):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count} if count > 1 else {}
        everything = {**environment, **{key: str(value) for key, value in own.items()}}
        process = CONTEXT.Process(target=_begin, args=(function, arguments, outputs / str(rank), everything))
        process.start()
        processes.append(process)
    return Running(processes, outputs, patience)


def train(*arguments: str) -> None:
    """`resnet-infer train ...`"""
    from resnet_infer.cli.main import app

    app(["train", *arguments])


def torchrun(*arguments: str) -> None:
    """`torchrun -m resnet_infer train ...` with two processes, which are new ones."""
    from torch.distributed.run import main

    main(["--standalone", "--nproc-per-node", "2", "-m", "resnet_infer", "train", *arguments])


def _begin(
    function: Callable[..., None], arguments: tuple[object, ...], output: Path, environment: dict[str, str]
) -> None:
    import torch

    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # whose default has become this process's own
    os.environ.update(environment)
    torch.set_num_threads(1)
    for number, suffix in ((sys.stdout.fileno(), "out"), (sys.stderr.fileno(), "err")):
        with open(f"{output}.{suffix}", "wb") as file:
            os.dup2(file.fileno(), number)
    function(*arguments)
