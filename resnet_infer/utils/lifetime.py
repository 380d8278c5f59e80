"""What libraries with threads of their own do not survive by themselves: a fork of the process, and its end.

A forked child has all of the parent's memory and only the thread that forked. What the parent's libraries hold is
then not to be used, nor even freed: a destructor waits for threads that are not there. So it is kept for ever in the
child, and what is needed is opened anew (`Runtime` in `runtimes/base.py`).

A program ends while its daemon threads go on. One that comes back out of a library's code then ends the whole process
with SIGABRT. So the end waits for the calls in progress, and no other thread begins one.
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
"""The longest that the end of the program waits for calls in progress."""
PAUSE_SECONDS = 1.0
"""A call that comes after the end has begun waits so long before it is refused: by then the program is gone."""

_kept: weakref.WeakSet[Any] = weakref.WeakSet()
_in_child: list[Callable[[], None]] = []


def keep_in_child(thing: Kept) -> Kept:
    """Let no forked child free `thing`, which is still freed here as soon as nobody holds it."""
    _kept.add(thing)
    return thing


def keep_for_ever(thing: object) -> None:
    """Take a reference that nobody gives back, not even the end of the interpreter."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def in_child(function: Callable[[], None]) -> None:
    """Call `function` in every process that is forked from this one, after what is to be kept was kept."""
    _in_child.append(function)


class Calls:
    """The calls that are in a library's code: a context manager around each of them, for any number of threads."""

    def __init__(self) -> None:
        self._running = 0
        self.forget()

    def forget(self) -> None:
        """In a child that was just forked: the parent's threads, and what they hold, are not there."""
        self.cut_off = self._running > 0
        """Whether other threads were in calls when this process was forked."""
        self._changed = threading.Condition()  # reentrant, for signal handlers that make a call
        self._running = 0
        self._ends: int | None = None

    def __enter__(self) -> None:
        with self._changed:
            if self._ends in (None, threading.get_ident()):
                self._running += 1
                return
        time.sleep(PAUSE_SECONDS)
        raise ResnetInferError("the program is ending, and begins nothing more in its other threads")

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """Wait for the calls in progress. From now on only this thread, which ends the program, may begin others."""
        with self._changed:
            self._ends = threading.get_ident()
            self._changed.wait_for(lambda: not self._running, END_SECONDS)


CALLS = Calls()
atexit.register(CALLS.end)


def in_one_process(
    generator: Callable[Arguments, Generator[Result, None, None]],
) -> Callable[Arguments, Generator[Result, None, None]]:
    """A generator with threads of its own, which a forked child refuses to go on with, and leaves alone when it ends.

    Where the end of the program keeps threads from being started, that too is an error of this package.
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
            ) from error
        finally:
            if os.getpid() == owner:
                inner.close()

    return guarded


class _TaskThread:
    """A thread that does what others ask of it, one thing after the other."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        try:
            threading.Thread(target=self._work, name="resnet-infer", daemon=True).start()
        except RuntimeError as error:
            raise ResnetInferError(f"a thread is needed here and cannot be started ({error})") from error

    def __call__(self, function: Callable[[], Result]) -> Result:
        from concurrent.futures import Future

        done: Future[Result] = Future()
        self._tasks.put((function, done))
        return done.result()

    def _work(self) -> None:
        while True:
            function, done = self._tasks.get()
            try:
                done.set_result(function())
            except BaseException as error:  # raised where the answer is waited for
                done.set_exception(error)
            del function, done


_forker: int | None = None
"""In a forked child the thread that forked."""
_task_thread: _TaskThread | None = None
_task_thread_lock = threading.Lock()


def on_sound_thread(function: Callable[[], Result]) -> Result:
    """Call `function`, in a forked child not on the thread that forked.

    GNU's OpenMP gives each thread that computes a team of its own, and that one's are not there: it would wait for
    them for ever. A new thread gets a new team.
    """
    global _task_thread
    if _forker != threading.get_ident():
        return function()
    with _task_thread_lock:
        _task_thread = _task_thread or _TaskThread()
    return _task_thread(function)


def _after_fork() -> None:
    global _forker, _task_thread, _task_thread_lock
    _forker, _task_thread, _task_thread_lock = threading.get_ident(), None, threading.Lock()
    CALLS.forget()
    for thing in list(_kept):
        keep_for_ever(thing)
    for function in _in_child:
        function()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
