"""Make batches in worker processes, and report why they fail.

Workers may be killed or hang, or find no shared memory for a batch. The system may also allow this process no more
children, or no more open files: each tensor in flight is an open file.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from resnet_infer.errors import ResnetInferError, TrainingError
from resnet_infer.training.loop.signals import SIGNALS

PREFETCH = 4
"""Most batches that each worker makes ahead."""
PATIENCE = 600.0
"""Seconds without a batch after which workers are considered hung."""
LOOK_EVERY = 1
"""Seconds between checks whether a batch is still wanted."""
SHARED = "/dev/shm"
"""Folder of Linux's shared memory; Docker gives a container 64 MiB of it by default."""
_STARTING = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
"""Errors of the system when it starts no process: too many of them, no memory, too many open files."""
_HANDLER_SET = "_SIGCHLD_handler_set"
"""Name of torch's own flag that its handler of SIGCHLD is installed."""
_TIMED_OUT, _NO_ROOM, _NO_FILES = "timed out", "unable to allocate shared memory", "Too many open files"
"""Words of torch's errors: no batch in time; shared memory is full; too many open files."""
TENSORS = 4
"""Tensors of a batch. Each is an open file while it is in flight."""
OTHER_FILES = 64
"""Open files that are left for everything else in a run."""
_MORE_MEMORY = "more shared memory (Docker: --shm-size) or fewer --workers bring the processes back"
_MORE_FILES = "a higher limit of open files (ulimit -n) or fewer --workers bring the processes back"
_MORE_PROCESSES = "a higher limit of processes (ulimit -u, Docker: --pids-limit) or fewer --workers bring them back"


class NoWorkersError(ResnetInferError):
    """Report that worker processes cannot be started, or cannot hand over batches. The hint says what would help."""

    default_reason = "failed"


class WorkersLostError(TrainingError):
    """Report that a worker was killed, or that none has given a batch for `PATIENCE` seconds."""

    default_reason = "failed"


class FailedBatch(str):
    """Hold the reason why a worker has no batch, in place of the batch.

    An exception would arrive as the text of a traceback.
    """

    __slots__ = ()


class SharedMemoryFull(FailedBatch):
    """Report that a batch is ready, and that there is no shared memory to hand it over."""

    __slots__ = ()


def prefetch(batch_bytes: int, workers: int) -> int:
    """Return how many batches each worker may make ahead.

    They and those in use fit into shared memory and into the number of open files. Raises `NoWorkersError` if not even
    one does.
    """
    files = free_files()
    # Six files are for the three pipes of a worker; two batches are in use and on the way to the device.
    of_files = PREFETCH if files is None else ((files - OTHER_FILES - 6 * workers) // TENSORS - 2) // workers
    if of_files < 1:
        raise NoWorkersError(
            f"this process may open {files} more files, too few for {workers} worker processes", hint=_MORE_FILES
        )
    room = free_shared_memory()
    if room is None:
        return min(PREFETCH, of_files)
    ahead = min(PREFETCH, of_files, (room // max(1, batch_bytes) - 2) // workers)
    if ahead < 1:
        need = batch_bytes * (workers + 2)
        raise NoWorkersError(
            f"{SHARED} has {room / 2**20:.0f} MiB free, and batches of {batch_bytes / 2**20:.1f} MiB from {workers} "
            f"worker processes need {need / 2**20:.0f} MiB",
            hint=_MORE_MEMORY,
        )
    return ahead


def free_files() -> int | None:
    """Return how many more files this process may open; None where the system does not tell."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return None if most == resource.RLIM_INFINITY else max(0, most - len(os.listdir("/proc/self/fd")))
    except (ImportError, OSError, ValueError):
        return None


def free_shared_memory() -> int | None:
    """Return the free bytes of shared memory; None where the system does not tell."""
    if not hasattr(os, "statvfs"):
        return None
    with contextlib.suppress(OSError):
        found = os.statvfs(SHARED)
        return found.f_bavail * found.f_frsize
    return None


Tensors = tuple[Tensor, Tensor, Tensor, Tensor]
"""Crops, labels, and the two arrays of `Draws`."""


def shared(tensors: Tensors) -> Tensors | SharedMemoryFull:
    """Move the tensors into shared memory, or report that it is full, while the worker can still say so."""
    try:
        for tensor in tensors:
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if _NO_ROOM not in str(error):
            raise
        return SharedMemoryFull(f"{SHARED} is full")
    return tensors


def from_processes(
    dataset: Any, sampler: Iterable[Any], workers: int, ahead: int, pin: bool, stopping: Callable[[], bool]
) -> Iterator[Any]:
    """Yield what `dataset` returns for each item of `sampler`, in order, made by worker processes.

    Ends early if `stopping` returns true, at once, whatever the workers do. No worker outlives it. Raises
    `WorkersLostError`; and `NoWorkersError` for a `SharedMemoryFull`.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=ahead,
        pin_memory=pin,
        timeout=LOOK_EVERY,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=torch.Generator(),
    )
    others = {child.pid for child in multiprocessing.active_children()}
    try:
        with _child_signal_put_back():
            batches = iter(loader)
    except BaseException as error:
        _kill(_children_but(others))  # those that did start
        if isinstance(error, OSError) and error.errno in _STARTING:
            why = (error.strerror or str(error)).lower()
            hint = _MORE_FILES if error.errno in (errno.EMFILE, errno.ENFILE) else _MORE_PROCESSES
            raise NoWorkersError(f"{workers} worker processes cannot be started ({why})", hint=hint) from error
        raise
    own = _children_but(others)
    done = False
    try:
        while not stopping():
            try:
                batch = _next(batches, own, stopping)
            except StopIteration:
                done = True
                return
            if batch is None:
                return
            if isinstance(batch, SharedMemoryFull):
                raise NoWorkersError(str(batch), hint=_MORE_MEMORY)
            yield batch
    finally:
        if not done:
            _stop_watching(batches)
            _kill(own)
        del batches


def _children_but(others: Container[int | None]) -> list[BaseProcess]:
    """Return the children of this process whose process id is not among `others`."""
    return [child for child in multiprocessing.active_children() if child.pid not in others]


def _kill(children: Iterable[BaseProcess]) -> None:
    """Kill processes, also those that hang or are stopped: they react to no other signal."""
    for child in children:
        child.kill()


def _stop_watching(batches: Any) -> None:
    """Make torch's handler of SIGCHLD ignore the workers of `batches`.

    The handler is installed where the program has a `DataLoader` of its own. It raises in whatever code runs when a
    worker is killed.
    """
    if getattr(batches, "_worker_pids_set", False):
        signal_handling._remove_worker_pids(id(batches))  # type: ignore[attr-defined]
        batches._worker_pids_set = False


def _next(batches: Iterator[Any], workers: list[Any], stopping: Callable[[], bool]) -> Any:
    """Return the next batch; None if it is no longer wanted."""
    end = monotonic() + PATIENCE
    while True:
        try:
            return next(batches)
        except RuntimeError as error:
            dead = [child for child in workers if child.exitcode is not None]
            if dead:
                raise _lost(dead[0].exitcode) from error
            if _NO_FILES in str(error):
                raise NoWorkersError("this process has as many open files as it may have", hint=_MORE_FILES) from error
            if _TIMED_OUT not in str(error):
                raise
        if stopping():
            return None
        if monotonic() > end:
            raise WorkersLostError(
                f"no batch has come from the {len(workers)} worker processes for {PATIENCE:.0f} seconds",
                hint="the pictures' storage may hang: try --data-in memory, or --workers 0 to see what does",
            )


def _lost(code: int) -> WorkersLostError:
    """Return the error for a worker that ended with `code`: an exit code, or minus the number of a signal."""
    if code >= 0:
        return WorkersLostError(f"a worker process ended with exit code {code}", hint="its output above says why")
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
    if -code == signal.SIGKILL:
        return WorkersLostError(
            f"a worker process was killed ({name}), as the system does when memory runs out",
            hint="take fewer --workers (0 decodes without processes), or a smaller --batch-size",
        )
    if -code == signal.SIGBUS:
        return WorkersLostError(
            f"a worker process was ended by {name}: {SHARED} is full", hint="enlarge it (docker run --shm-size 2g)"
        )
    return WorkersLostError(f"a worker process was ended by {name}", hint="--workers 0 decodes without processes")


@contextmanager
def _child_signal_put_back() -> Iterator[None]:
    """Restore the program's handler of SIGCHLD, which a `DataLoader` replaces for the rest of the process.

    torch's handler would raise in whatever code the program runs when a worker dies. torch also remembers in a flag
    that its handler is installed. The flag is restored too, so that the program's own loaders install the handler
    again.
    """
    place = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    handler, known = signal.getsignal(signal.SIGCHLD) if place else None, getattr(signal_handling, _HANDLER_SET, None)
    try:
        yield
    finally:
        if place and handler is not None and signal.getsignal(signal.SIGCHLD) is not handler:
            signal.signal(signal.SIGCHLD, handler)
            if known is not None:
                setattr(signal_handling, _HANDLER_SET, known)


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ignore signals in a worker: batches in flight are still wanted.

    Ctrl-C, and the end of a terminal, reach every process of the group. A worker ends when its parent tells it to, or
    when the parent is gone.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
