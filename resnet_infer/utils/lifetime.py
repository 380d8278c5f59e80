"""Keep libraries that start threads safe through a fork and through the end of the process.

A forked child has all of the parent's memory and only the thread that forked. The objects of the parent's libraries
must then be neither used nor freed: a destructor would wait for threads that do not exist. So the child keeps them for
ever, and opens new ones when it needs them (`Runtime` in `runtimes/base.py`).

Daemon threads keep running while the interpreter shuts down. One that returns from a library's code then aborts the
process (SIGABRT). So the shutdown waits for the calls in progress, and other threads cannot begin new ones.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator
from functools import wraps
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from resnet_infer.errors import ResnetInferError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Kept = TypeVar("Kept")

END_SECONDS = 10.0
"""Longest wait of the shutdown for calls in progress, in seconds."""
PAUSE_SECONDS = 5.0
"""Seconds before a call that begins during the shutdown is refused; by then the process is usually gone."""

_kept: weakref.WeakSet[Any] = weakref.WeakSet()
"""Objects that a forked child must not free."""
_in_child: list[Callable[[], None]] = []
"""Functions to call in a forked child."""


def keep_in_child(thing: Kept) -> Kept:
    """Keep forked children from freeing `thing`, and return it. This process frees it as usual."""
    _kept.add(thing)
    return thing


def keep_for_ever(thing: object) -> None:
    """Add a reference to `thing` that is never released, not even at the end of the interpreter."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def in_child(function: Callable[[], None]) -> None:
    """Call `function` in every process that is forked from this one, after `keep_in_child` has taken effect."""
    _in_child.append(function)


class Calls:
    """Count the calls in a library's code. An instance is a context manager for each call, in any number of threads."""

    def __init__(self) -> None:
        self._running = 0
        self.forget()

    def forget(self) -> None:
        """Reset in a child that was just forked, where the parent's other threads do not exist."""
        self.cut_off = self._running > 0
        """Whether other threads were in calls when this process was forked."""
        self._changed = threading.Condition()  # reentrant, because a signal handler may make a call
        self._running = 0
        self._ends: int | None = None

    def __enter__(self) -> None:
        with self._changed:
            if self._ends in (None, threading.get_ident()):
                self._running += 1
                return
        time.sleep(PAUSE_SECONDS)
        raise ResnetInferError("the program is ending, and begins nothing more in its other threads", reason="closed")

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """Wait for the calls in progress. From then on only this thread, which ends the program, may begin new ones."""
        with self._changed:
            self._ends = threading.get_ident()
            self._changed.wait_for(lambda: not self._running, END_SECONDS)


CALLS = Calls()
"""All calls of this process into libraries that start threads."""
atexit.register(CALLS.end)


def in_one_process(
    generator: Callable[Arguments, Generator[Result, None, None]],
) -> Callable[Arguments, Generator[Result, None, None]]:
    """Decorate a generator that starts threads, so that a fork cannot break it.

    In a forked child, the generator raises `UsageError` when it is continued, and does nothing when it is closed. Where
    no thread can be started because the interpreter shuts down, it raises `ResnetInferError`.
    """

    @wraps(generator)
    def guarded(*arguments: Arguments.args, **options: Arguments.kwargs) -> Generator[Result, None, None]:
        owner = os.getpid()
        inner = keep_in_child(generator(*arguments, **options))
        try:
            for result in inner:
                yield result
                if os.getpid() != owner:
                    raise UsageError(
                        "it was begun in another process, from which this one was forked, and its threads are there",
                        hint="begin it in the process that reads it",
                    )
        except RuntimeError as error:
            if threading.main_thread().is_alive() or "shutdown" not in str(error):
                raise
            raise ResnetInferError(
                "the program is ending, and can start no threads for pictures",
                hint="answer them one by one with `classify`, or before the end",
                reason="closed",
            ) from error
        finally:
            if os.getpid() == owner:
                inner.close()

    return guarded


class _TaskThread:
    """Run functions for other threads in one dedicated thread, one after the other."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        try:
            threading.Thread(target=self._work, name="resnet-infer", daemon=True).start()
        except RuntimeError as error:
            raise ResnetInferError(f"a thread is needed here and cannot be started ({error})") from error

    def __call__(self, function: Callable[[], Result]) -> Result:
        """Run `function` in the thread and return its result, or raise its error."""
        from concurrent.futures import Future

        done: Future[Result] = Future()
        self._tasks.put((function, done))
        return done.result()

    def _work(self) -> None:
        """Run the queued functions for ever."""
        while True:
            function, done = self._tasks.get()
            try:
                done.set_result(function())
            except BaseException as error:  # raised in the thread that waits for the result
                done.set_exception(error)
            del function, done


_forker: int | None = None
"""In a forked child, the identifier of the thread that forked; None elsewhere."""
_task_thread: _TaskThread | None = None
"""In a forked child, the thread that makes calls for the thread that forked."""
_task_thread_lock = threading.Lock()


def on_sound_thread(function: Callable[[], Result]) -> Result:
    """Call `function`, in a forked child on another thread than the one that forked.

    GNU OpenMP gives every computing thread a team of worker threads. The team of the thread that forked does not exist
    in the child, and waiting for it would never end. A new thread gets a new team.
    """
    global _task_thread
    if _forker != threading.get_ident():
        return function()
    with _task_thread_lock:
        _task_thread = _task_thread or _TaskThread()
    return _task_thread(function)


def _after_fork() -> None:
    """Reset this module in a forked child, keep what must not be freed, and call the registered functions."""
    global _forker, _task_thread, _task_thread_lock
    _forker, _task_thread, _task_thread_lock = threading.get_ident(), None, threading.Lock()
    CALLS.forget()
    for thing in list(_kept):
        keep_for_ever(thing)
    for function in _in_child:
        function()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
