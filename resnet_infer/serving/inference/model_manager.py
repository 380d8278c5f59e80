"""Keep the model that answers, and exchange it for another one while requests go on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Literal, TypeVar

from resnet_infer.errors import ResnetInferError, bare
from resnet_infer.runtimes.nvidia.device_errors import DeviceError
from resnet_infer.serving.inference.deployment import ClassifyItem, Deployment
from resnet_infer.serving.inference.jobs import Done, RefusedError

Result = TypeVar("Result")
State = Literal["loading", "ready", "failed", "closed"]
"""State of the model: being opened, answering, not opened because of an error, closed."""


class ModelManager:
    """Open a deployment, keep it, and exchange it for a new one without losing a request.

    `open_deployment` is called in a thread, and `opened` with its result when that takes over. All methods belong to
    the event loop.
    """

    def __init__(
        self,
        open_deployment: Callable[[], Deployment],
        opened: Callable[[Deployment], None] = lambda deployment: None,
    ) -> None:
        self._open, self._opened = open_deployment, opened
        self._current: Deployment | None = None
        self._futures = _FutureBridge()
        self._changing = asyncio.Lock()
        self._closing: set[asyncio.Future[None]] = set()
        self.state: State = "loading"
        self.error: Exception | None = None

    @property
    def ready(self) -> bool:
        """Return whether the model is open and warm."""
        return self.state == "ready"

    @property
    def stalled(self) -> bool:
        """Return whether the inference threads of the current model are stuck."""
        return self._current is not None and self._current.batcher.stalled

    @property
    def failure(self) -> DeviceError | None:
        """Return the failure of the GPU that keeps the current model from answering, or None."""
        return self._current.failure if self._current is not None else None

    @property
    def current(self) -> Deployment:
        """Return the current deployment.

        Raises `RefusedError` before there is one ("unready") and after `close` ("closed").
        """
        if self.state == "closed":
            raise RefusedError("closed")
        if self._current is None:
            raise RefusedError("unready", 2)
        return self._current

    async def start(self) -> None:
        """Open and warm the model. An error is kept as `error` and raised."""
        try:
            await self.reload()
        except Exception as error:
            if self.state != "closed":
                self.state, self.error = "failed", error
            raise

    async def reload(self) -> Deployment:
        """Open the model again and let it take over; the old one finishes its requests and closes.

        Reloads run one after the other, so the last one prevails. Raises the errors of opening, after which the old
        model goes on, and `RefusedError` if the manager was closed in the meantime.
        """
        async with self._changing:
            new = await asyncio.to_thread(self._open)
            if self.state == "closed":
                await asyncio.to_thread(new.close)
                raise RefusedError("closed")
            old, self._current = self._current, new
            self.state, self.error = "ready", None
            self._opened(new)
            if old is not None:
                closing = asyncio.ensure_future(asyncio.to_thread(old.close))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            return new

    async def submit(
        self, send: Callable[[Deployment], Sequence[Future[Done[Any]]]]
    ) -> tuple[Deployment, list[asyncio.Future[Done[Any]]]]:
        """Submit jobs to the current deployment, even while it is being exchanged.

        `send` is called again, with the new deployment, if the old one was closed. Its errors are raised.
        """
        while True:
            deployment = self.current
            try:
                return deployment, [self._futures.wrap(future) for future in send(deployment)]
            except RefusedError as refused:
                if refused.reason != "closed" or deployment is self._current:
                    raise

    async def classify(
        self, items: Sequence[ClassifyItem], timeout: float
    ) -> tuple[Deployment, list[Done[Any] | ResnetInferError]]:
        """Return the deployment that answered, and the result or error of every item.

        Raises `RefusedError` if the items are refused or one of them misses its deadline.
        """
        deployment, futures = await self.submit(lambda current: current.classify(items, timeout))
        results = await gather(futures)
        return deployment, results

    async def close(self) -> None:
        """Finish the accepted requests and free the models."""
        self.state = "closed"
        if self._closing:
            await asyncio.wait(self._closing)
        if self._current is not None:
            await asyncio.to_thread(self._current.close)
            self._current = None


class _FutureBridge:
    """Turn futures of threads into futures of the event loop, waking the loop once for all that complete together."""

    def __init__(self) -> None:
        self._arrived: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._woken = False

    def wrap(self, future: Future[Result]) -> asyncio.Future[Result]:
        """Return an asyncio future for a thread's future, as `asyncio.wrap_future` does."""
        loop = asyncio.get_running_loop()
        wrapper: asyncio.Future[Result] = loop.create_future()

        def arrived(done: Future[Result]) -> None:
            """Queue a completed future and wake the event loop."""
            self._arrived.append((wrapper, done))
            if not self._woken:
                self._woken = True
                with suppress(RuntimeError):  # the event loop is closed
                    loop.call_soon_threadsafe(self._open)

        def ended(wrapper: asyncio.Future[Result]) -> None:
            """Pass a cancellation on to the thread's future."""
            if wrapper.cancelled():
                future.cancel()

        future.add_done_callback(arrived)
        wrapper.add_done_callback(ended)
        return wrapper

    def _open(self) -> None:
        """Complete the futures of the event loop."""
        self._woken = False  # before the first is taken, so that later arrivals wake the loop again
        while self._arrived:
            wrapper, done = self._arrived.popleft()
            if wrapper.done():
                continue
            if done.cancelled():
                wrapper.cancel()
            elif error := done.exception():
                wrapper.set_exception(error)
            else:
                wrapper.set_result(done.result())


async def gather(futures: Sequence[asyncio.Future[Done[Any]]]) -> list[Done[Any] | ResnetInferError]:
    """Return results and errors in order.

    Raises the first `RefusedError` among them, and the first error that is not one of this package; the others are then
    cancelled.
    """
    results: list[Done[Any] | ResnetInferError] = []
    try:
        for future in futures:
            try:
                results.append(await future)
            except RefusedError:
                raise
            except ResnetInferError as error:
                results.append(bare(error))
    except BaseException:
        for future in futures:
            if not future.cancel() and not future.cancelled():
                future.exception()  # otherwise asyncio would warn that the error was never retrieved
        raise
    return results
