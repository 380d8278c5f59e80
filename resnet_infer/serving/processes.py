"""The processes of a service: how many, on which devices, and what they tell each other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from resnet_infer import strict_json
from resnet_infer.errors import MissingExtraError
from resnet_infer.extras import needs
from resnet_infer.runtimes.base import parse_device
from resnet_infer.serving.guard import Traffic
from resnet_infer.serving.settings import Settings

LINGER = 10
"""Seconds that clients have to read their answers, when all are given and the service ends."""
FAILED = "failed"
"""The file in $BENTOML_HOME, by which a process that could not open its model says so to the command."""


def devices(settings: Settings) -> list[str]:
    """The device of every process: each GPU has one of its own, a CPU has one for all its cores."""
    kind, _ = parse_device(settings.device)
    number = settings.workers or 1
    named = ":" in settings.device
    gpus = 0 if kind == "cpu" or named or (kind == "auto" and not _takes_gpu(settings)) else count_gpus()
    if gpus < 2:
        return [settings.device] * number
    return [f"cuda:{index % gpus}" for index in range(settings.workers or gpus)]


def _takes_gpu(settings: Settings) -> bool:
    if (settings.model or "").endswith(".engine"):
        return True
    try:
        with needs("cpu", "a service"):
            from resnet_infer.runtimes import ort_session
    except MissingExtraError:  # opening the model will say so
        return False
    return ort_session.CUDA in ort_session.available_providers()


def count_gpus() -> int:
    """The NVIDIA GPUs that this process may see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # no driver, or no library for it
        return 0


def is_worker() -> bool:
    """Whether this is a process that BentoML's supervisor started."""
    from bentoml import server_context

    return server_context.worker_index is not None


def stop_service(message: str) -> None:
    """End the service: its supervisor would start a process that cannot open its model for ever."""
    if is_worker():
        home = os.environ.get("BENTOML_HOME")
        if home and os.path.isdir(home):
            Path(home, FAILED).write_text(message, encoding="utf-8")
        os.kill(os.getppid(), signal.SIGTERM)


def reload_all() -> None:
    """Let the other processes open the model anew, too."""
    if is_worker() and hasattr(signal, "SIGHUP"):
        os.kill(os.getppid(), signal.SIGHUP)


def forward_hangups() -> None:
    """In the supervisor: let SIGHUP be the processes' business, which then reload; by itself it restarts them."""
    from circus.sighandler import SysHandler

    def forward(handler: Any) -> None:
        command = {"id": "reload", "command": "signal", "properties": {"name": "service", "signum": "hup"}}
        loop, controller = handler.controller.loop, handler.controller
        loop.add_callback_from_signal(controller.dispatch, (None, strict_json.dumps(command).encode()))

    SysHandler.handle_hup = forward


def address() -> str:
    """Where the service listens, as its supervisor says; or nothing."""
    try:
        found = json.loads(os.environ.get("BENTOML_RUNNER_MAP", "{}"))
    except ValueError:
        return ""
    scheme, _, place = str(next(iter(found.values()), "")).partition("://")
    host, _, port = place.rpartition(":")
    return f"{scheme}://[{host}]:{port}" if ":" in host and "[" not in host else place and f"{scheme}://{place}"


def drain_on_signals(traffic: Traffic, seconds: float) -> None:
    """On SIGTERM or Ctrl-C answer what is in progress, refuse what comes, and only then let the server stop.

    The server by itself would stop listening at once; what comes while it finishes would hang. A second signal stops
    it at once. `seconds` is the longest that this takes.
    """
    loop = asyncio.get_running_loop()
    waiting: set[asyncio.Task[None]] = set()

    async def finish(stop: Callable[[int, FrameType | None], Any], number: int) -> None:
        traffic.draining = True
        until = time.monotonic() + seconds
        pending = set(traffic.requests)
        while pending & traffic.requests and time.monotonic() < until:
            await asyncio.sleep(0.02)
        stop(number, None)
        # The server waits for ever for clients that do not read their answers.
        loop.call_later(LINGER, os._exit, 0)

    def install(number: int) -> None:
        stop = signal.getsignal(number)
        if not callable(stop):
            return

        def leave(number: int, frame: FrameType | None) -> None:
            if traffic.draining:
                stop(number, frame)
            else:
                loop.call_soon_threadsafe(lambda: waiting.add(loop.create_task(finish(stop, number))))

        signal.signal(number, leave)

    for number in (signal.SIGTERM, signal.SIGINT):
        install(number)
