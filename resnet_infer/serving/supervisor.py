"""The processes of a service: how many, on which devices, and what they tell each other."""

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
from resnet_infer.serving.http.middleware import Traffic
from resnet_infer.serving.settings import Settings
from resnet_infer.utils import strict_json
from resnet_infer.utils.extras import needs

LINGER = 10
"""Seconds that clients have to read their answers, when all are given and the service ends."""
CHECK_SECONDS = 0.5
"""Between two looks for processes that died, and of those for a supervisor that did."""
DEATHS, DEATHS_SECONDS, CALM_SECONDS = 5, 60.0, 10.0
"""After so many deaths in that time looks are further apart: what dies at every start would keep a core busy."""
SUPERVISOR = "RESNET_INFER_SUPERVISOR"
"""The variable by which the supervisor tells the processes its number."""
HOME = "RESNET_INFER_HOME"
"""The variable that names the folder that goes with the service."""
PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""
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


def reload_others() -> None:
    """Let the other processes read the keys and open the model anew, too."""
    import psutil

    if is_worker() and hasattr(signal, "SIGHUP"):
        for process in psutil.Process(os.getppid()).children():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and "--worker-id" in process.cmdline():
                    process.send_signal(signal.SIGHUP)


def supervise() -> None:
    """Make the supervisor, which is this process, one that nobody commands and that soon replaces who died.

    By itself circus takes commands from whoever reaches its port, as BentoML starts it, and looks every 10 s.
    """
    os.environ[SUPERVISOR] = str(os.getpid())
    _forward_hangups()
    _make_arbiter_private()


def _make_arbiter_private() -> None:
    from circus.arbiter import Arbiter

    start, manage = Arbiter.__init__, Arbiter.manage_watchers
    if hasattr(Arbiter, "_keeps_to_itself"):
        return

    def start_privately(self: Any, *arguments: Any, **options: Any) -> None:
        place = f"inproc://{id(self)}"
        if options.get("plugins"):  # processes of their own, as for `bentoml serve --reload`, that give commands
            folder = tempfile.mkdtemp(prefix="resnet-infer-")  # for nobody else
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            place = f"ipc://{folder}/"
        private = {"endpoint": f"{place}control", "pubsub_endpoint": f"{place}events", "check_delay": CHECK_SECONDS}
        self._last_look, self._replaced, self._known = 0.0, deque(maxlen=DEATHS), set()
        start(self, *arguments, **{**options, **private})

    def manage_calmly(self: Any) -> Any:
        if self._restarting or self._exclusive_running_command:  # it would raise, and log that
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
    """Let SIGHUP be the processes' business, which then reload; by itself it restarts them."""
    from circus.sighandler import SysHandler

    def forward(handler: Any) -> None:
        command = {"id": "reload", "command": "signal", "properties": {"name": "service", "signum": "hup"}}
        loop, controller = handler.controller.loop, handler.controller
        loop.add_callback_from_signal(controller.dispatch, (None, strict_json.dumps(command).encode()))

    SysHandler.handle_hup = forward


def follow_supervisor(seconds: float) -> None:
    """In a process of the service: end as by SIGTERM, in at most `seconds`, when the supervisor was killed.

    It can tell nobody, and its processes would answer for ever.
    """
    parent = _supervisor()
    if parent is None:
        return
    is_signalled = False
    if sys.platform == "linux":
        is_signalled = ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM) == 0 and os.getppid() == parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(CHECK_SECONDS)
        remove_home()
        if not is_signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds + LINGER)
        os._exit(1)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()


def remove_home() -> None:
    """Remove the folder of the service, if the supervisor, whose task that is, was killed."""
    home, parent = os.environ.get(HOME), _supervisor()
    if home and parent is not None and os.getppid() != parent:
        shutil.rmtree(home, ignore_errors=True)


def _supervisor() -> int | None:
    number = os.environ.get(SUPERVISOR, "")
    return int(number) if number.isdigit() and is_worker() else None


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
