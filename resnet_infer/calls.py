"""Run a call of a classifier in a thread: with a time limit, or beside an event loop.

Nothing can interrupt a library's code. A call that is given up stops at the next image.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import TypeVar

from resnet_infer.errors import ResnetInferError

Result = TypeVar("Result")


class AnswerTimeoutError(ResnetInferError, TimeoutError):
    """Report an answer that has not come within the `timeout` of its call. The message says what still runs.

    >>> from resnet_infer import AnswerTimeoutError, Classifier
    >>> with Classifier("resnet20-cifar10") as classifier:
    ...     try:
    ...         classifier.classify("cat.jpg", timeout=1e-6)
    ...     except AnswerTimeoutError as error:
    ...         print(error.reason)
    late
    """

    default_reason = "late"


def timed_out(seconds: float, *, still: str) -> AnswerTimeoutError:
    """Return the error of a call that took longer than `seconds`; `still` says what still runs."""
    return AnswerTimeoutError(f"no answer within {seconds:g} s; {still}")


_STILL = "the step that had begun (decoding, inference, or a request) ends by itself in its thread, and nothing follows"


def within(seconds: float, results: Callable[[], Iterable[Result]]) -> list[Result]:
    """Return all `results()`, which are computed in a daemon thread with the caller's context variables.

    Raises what `results` raises, and `AnswerTimeoutError` after `seconds`.
    """
    stopped = threading.Event()
    future: Future[list[Result]] = Future()
    context = contextvars.copy_context()
    arguments = (_settle, future, stopped, results)
    threading.Thread(target=context.run, args=arguments, name="classify", daemon=True).start()
    del arguments
    try:
        if wait([future], seconds).done:
            return future.result()
        raise timed_out(seconds, still=_STILL)
    finally:
        stopped.set()
        del future, results  # an error that the caller keeps holds this frame


async def in_event_loop(results: Callable[[], Iterable[Result]], seconds: float | None) -> list[Result]:
    """Return all `results()`, which are computed in the event loop's default executor.

    Raises what `results` raises, and `AnswerTimeoutError` after `seconds`, which include the wait for a thread.
    """
    stopped = threading.Event()
    context = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(None, context.run, _until, stopped, results)
    try:
        done, _ = await asyncio.wait([future], timeout=seconds)
        if done:
            return future.result()
        assert seconds is not None
        raise timed_out(seconds, still=_STILL)
    finally:
        stopped.set()
        if not future.done():
            future.cancel()  # if it has not begun
        del future, results


def _until(stopped: threading.Event, results: Callable[[], Iterable[Result]]) -> list[Result]:
    """Return the results until `stopped` is set."""
    found: list[Result] = []
    iterator = iter(results())
    for result in iterator:
        found.append(result)
        if stopped.is_set():
            break
    close = getattr(iterator, "close", None)
    if close is not None:
        close()
    return found


def _settle(future: Future[list[Result]], stopped: threading.Event, results: Callable[[], Iterable[Result]]) -> None:
    """Compute the results for `future`."""
    try:
        future.set_result(_until(stopped, results))
    except BaseException as error:  # raised in the thread that waits
        future.set_exception(error)
