"""Manage the processes of a service: their number, their devices, their signals and their end.

BentoML starts them with circus, whose supervisor (arbiter) runs in the command's own process.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from resnet_infer.errors import MissingExtraError
from resnet_infer.runtimes.base import parse_device
from resnet_infer.runtimes.nvidia.visible_gpus import visible_gpus
from resnet_infer.runtimes.registry import ARTIFACTS, DEFAULTS, RUNTIMES
from resnet_infer.serving.http.middleware import Traffic
from resnet_infer.serving.settings import Settings
from resnet_infer.utils import strict_json
from resnet_infer.utils.extras import needs
from resnet_infer.utils.files import suffix_of

LINGER = 10
"""Seconds for clients to read their responses after the last one was sent, before the process ends."""
CHECK_SECONDS = 0.5
"""Seconds between two checks for dead processes, and between two checks for a dead supervisor."""
DEATHS, DEATHS_SECONDS, CALM_SECONDS = 5, 60.0, 10.0
"""Checks become `CALM_SECONDS` apart after `DEATHS` deaths within `DEATHS_SECONDS`: a process that dies at every start
would otherwise keep a core busy.
"""
SUPERVISOR = "RESNET_INFER_SUPERVISOR"
"""Environment variable with the process number of the supervisor."""
HOME = "RESNET_INFER_HOME"
"""Environment variable with the temporary folder of the service."""
PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""
FAILED = "failed"
"""File in $BENTOML_HOME by which a process tells the command that it could not open the model."""


def devices(settings: Settings) -> list[str]:
    """Return the device of each process: one process for each GPU, or one that uses all cores of the CPU.

    An explicit number of workers is kept; they share the devices in turn.
    """
    kind, _ = parse_device(settings.device)
    number = settings.workers or 1
    named = settings.device.strip()[-1:].isdecimal()
    gpus = 0 if kind == "cpu" or named or (kind == "auto" and not _takes_gpu(settings)) else count_gpus()
    if gpus < 2:
        return [settings.device] * number
    return [f"cuda:{index % gpus}" for index in range(settings.workers or gpus)]


def _takes_gpu(settings: Settings) -> bool:
    """Return whether the runtime for this model would choose a GPU by itself."""
    suffix = suffix_of(Path(settings.model or ""))
    row = next((row for row in RUNTIMES if row.name == settings.runtime), DEFAULTS.get(suffix))
    if settings.runtime == "auto" and settings.compute != "auto":
        file = suffix if suffix in ARTIFACTS else ".onnx"  # what a name and a checkpoint are exported to
        row = next((row for row in RUNTIMES if row.opens(file) and settings.compute in row.computes), row)
    if row and len(row.devices) == 1:
        return "cuda" in row.devices
    try:
        with needs("cpu", "a service"):
            from resnet_infer.runtimes.nvidia.usable import usable
    except MissingExtraError:  # opening the model will raise the error
        return False
    return usable("cuda")


def count_gpus() -> int:
    """Return the number of NVIDIA GPUs that this process may use."""
    visible = visible_gpus()
    if visible is not None:
        return len(visible)
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # no driver, or no NVML library
        return 0


def is_worker() -> bool:
    """Return whether this process was started by BentoML's supervisor."""
    from bentoml import server_context

    return server_context.worker_index is not None


def stop_service(message: str) -> None:
    """End the service with a message.

    The supervisor would otherwise restart for ever a process that cannot open the model.
    """
    if is_worker():
        home = os.environ.get("BENTOML_HOME")
        if home and os.path.isdir(home):
            Path(home, FAILED).write_text(message, encoding="utf-8")
        os.kill(os.getppid(), signal.SIGTERM)


def leave(seconds: float = LINGER) -> None:
    """End this process as SIGTERM does, and after `seconds` in any case. Its supervisor starts another in its place."""

    def end() -> None:
        """End the process even where a call on a broken GPU never returns."""
        time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=end, name="leave", daemon=True).start()
    os.kill(os.getpid(), signal.SIGTERM)


def reload_others() -> None:
    """Make the other processes reload their keys and model (SIGHUP)."""
    import psutil

    if is_worker() and hasattr(signal, "SIGHUP"):
        for process in psutil.Process(os.getppid()).children():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and "--worker-id" in process.cmdline():
                    process.send_signal(signal.SIGHUP)


def supervise() -> None:
    """Make this process a supervisor that accepts no commands from outside and soon replaces dead processes.

    By default circus, as BentoML starts it, accepts commands from any local process through a port, and checks every 10
    s.
    """
    os.environ[SUPERVISOR] = str(os.getpid())
    _forward_hangups()
    _make_arbiter_private()


def _make_arbiter_private() -> None:
    """Patch circus's arbiter: private sockets, frequent checks, and a pause after many deaths."""
    from circus.arbiter import Arbiter

    start, manage = Arbiter.__init__, Arbiter.manage_watchers
    if hasattr(Arbiter, "_keeps_to_itself"):
        return

    def start_privately(self: Any, *arguments: Any, **options: Any) -> None:
        """Start the arbiter with sockets that only this process, or only this user, can reach."""
        place = f"inproc://{id(self)}"
        if options.get("plugins"):  # plugins (`bentoml serve --reload`) are processes that send commands
            folder = tempfile.mkdtemp(prefix="resnet-infer-")  # accessible to this user only
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            place = f"ipc://{folder}/"
        private = {"endpoint": f"{place}control", "pubsub_endpoint": f"{place}events", "check_delay": CHECK_SECONDS}
        self._last_look, self._replaced, self._known = 0.0, deque(maxlen=DEATHS), set()
        start(self, *arguments, **{**options, **private})

    def manage_calmly(self: Any) -> Any:
        """Check the processes, less often while they die in rapid succession."""
        if self._restarting or self._exclusive_running_command:  # circus would raise an error and log it
            return None
        now, known = time.monotonic(), self._known
        self._known = {number for watcher in self.watchers for number in watcher.processes}
        self._replaced.extend([now] * len(self._known - known if known else ()))
        is_rapid = len(self._replaced) == DEATHS and now - self._replaced[0] < DEATHS_SECONDS
        if is_rapid and now - self._last_look < CALM_SECONDS:
            return None
        self._last_look = now
        return manage(self)

    Arbiter.__init__, Arbiter.manage_watchers, Arbiter._keeps_to_itself = start_privately, manage_calmly, True


def _forward_hangups() -> None:
    """Forward SIGHUP to the processes, which then reload. By default circus restarts them."""
    from circus.sighandler import SysHandler

    def forward(handler: Any) -> None:
        """Send SIGHUP to every process."""
        command = {"id": "reload", "command": "signal", "properties": {"name": "service", "signum": "hup"}}
        loop, controller = handler.controller.loop, handler.controller
        loop.add_callback_from_signal(controller.dispatch, (None, strict_json.dumps(command).encode()))

    SysHandler.handle_hup = forward


def follow_supervisor(seconds: float) -> None:
    """End this process of the service, as SIGTERM does and within `seconds`, when its supervisor was killed.

    A killed supervisor cannot stop its processes, which would answer for ever.
    """
    parent = _supervisor()
    if parent is None:
        return
    is_signalled = False
    if sys.platform == "linux":
        is_signalled = ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM) == 0 and os.getppid() == parent

    def watch() -> None:
        """Wait until the supervisor is gone, then end this process."""
        while os.getppid() == parent:
            time.sleep(CHECK_SECONDS)
        remove_home()
        if not is_signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds + LINGER)
        os._exit(1)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()


def remove_home() -> None:
    """Remove the service's temporary folder if the supervisor, which normally does so, was killed."""
    home, parent = os.environ.get(HOME), _supervisor()
    if home and parent is not None and os.getppid() != parent:
        shutil.rmtree(home, ignore_errors=True)


def _supervisor() -> int | None:
    """Return the process number of the supervisor, or None in a process that has none."""
    number = os.environ.get(SUPERVISOR, "")
    return int(number) if number.isdigit() and is_worker() else None


def address() -> str:
    """Return the URL on which the service listens, as its supervisor says, or an empty text."""
    try:
        found = json.loads(os.environ.get("BENTOML_RUNNER_MAP", "{}"))
    except ValueError:
        return ""
    scheme, _, place = str(next(iter(found.values()), "")).partition("://")
    host, _, port = place.rpartition(":")
    return f"{scheme}://[{host}]:{port}" if ":" in host and "[" not in host else place and f"{scheme}://{place}"


def drain_on_signals(traffic: Traffic, seconds: float) -> None:
    """Stop gracefully on SIGTERM or SIGINT: finish the requests in progress, and refuse new ones.

    By itself the server would stop listening at once, and clients that connect while it finishes would hang. A second
    signal stops it at once. `seconds` bounds the wait for requests.
    """
    loop = asyncio.get_running_loop()
    waiting: set[asyncio.Task[None]] = set()

    async def finish(stop: Callable[[int, FrameType | None], Any], number: int) -> None:
        """Wait for the requests in progress, then call the server's own handler."""
        traffic.draining = True
        until = time.monotonic() + seconds
        pending = set(traffic.requests)
        while pending & traffic.requests and time.monotonic() < until:
            await asyncio.sleep(0.02)
        stop(number, None)
        # The server would wait for ever for clients that do not read their responses.
        loop.call_later(LINGER, os._exit, 0)

    def install(number: int) -> None:
        """Replace the server's handler of a signal."""
        stop = signal.getsignal(number)
        if not callable(stop):
            return

        def leave(number: int, frame: FrameType | None) -> None:
            """Begin to drain, or stop at once if that has begun."""
            if traffic.draining:
                stop(number, frame)
            else:
                loop.call_soon_threadsafe(lambda: waiting.add(loop.create_task(finish(stop, number))))

        signal.signal(number, leave)

    for number in (signal.SIGTERM, signal.SIGINT):
        install(number)
