"""The model that answers now, and the change to another one while requests go on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Literal, TypeVar

from resnet_infer.errors import ResnetInferError, bare
from resnet_infer.serving.inference.deployment import ClassifyItem, Deployment
from resnet_infer.serving.inference.jobs import Done, RefusedError

Result = TypeVar("Result")
State = Literal["loading", "ready", "failed", "closed"]


class ModelManager:
    """Opens a deployment, keeps it, and exchanges it for a new one without losing a request.

    `open_deployment` is called in a thread, `opened` with what it gave when that takes over. Methods belong to the
    event loop.
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
        """Whether the model is warm."""
        return self.state == "ready"

    @property
    def stalled(self) -> bool:
        """Whether the threads of the model that answers are stuck."""
        return self._current is not None and self._current.batcher.stalled

    @property
    def current(self) -> Deployment:
        """The model that answers. Raises `RefusedError` as long as there is none, and once it is to be closed."""
        if self.state == "closed":
            raise RefusedError("closed")
        if self._current is None:
            raise RefusedError("unready", 2)
        return self._current

    async def start(self) -> None:
        """Open and warm the model; an error is kept as `error` and raised."""
        try:
            await self.reload()
        except Exception as error:
            if self.state != "closed":
                self.state, self.error = "failed", error
            raise

    async def reload(self) -> Deployment:
        """Open the model anew, then let it take over; what the old one has taken it finishes.

        One after the other, so that what was opened last remains. Raises what opening raises; then the old one goes
        on; and `RefusedError` if the engine was closed meanwhile.
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
        """Give work to the model that answers now, also if it is being exchanged at this moment.

        `send` may be called again, with the new one. What it raises is raised.
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
        """The reply to every question, or what it failed with.

        Raises `RefusedError` if the questions are not taken or one of them is not answered in time.
        """
        deployment, futures = await self.submit(lambda current: current.classify(items, timeout))
        results = await gather(futures)
        return deployment, results

    async def close(self) -> None:
        """Answer what was taken and free the models."""
        self.state = "closed"
        if self._closing:
            await asyncio.wait(self._closing)
        if self._current is not None:
            await asyncio.to_thread(self._current.close)
            self._current = None


class _FutureBridge:
    """Futures of threads as those of the event loop, which is woken once for all that are done at about one time."""

    def __init__(self) -> None:
        self._arrived: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._woken = False

    def wrap(self, future: Future[Result]) -> asyncio.Future[Result]:
        """As `asyncio.wrap_future`."""
        loop = asyncio.get_running_loop()
        wrapper: asyncio.Future[Result] = loop.create_future()

        def arrived(done: Future[Result]) -> None:
            self._arrived.append((wrapper, done))
            if not self._woken:
                self._woken = True
                with suppress(RuntimeError):  # the loop was closed
                    loop.call_soon_threadsafe(self._open)

        def ended(wrapper: asyncio.Future[Result]) -> None:
            if wrapper.cancelled():
                future.cancel()

        future.add_done_callback(arrived)
        wrapper.add_done_callback(ended)
        return wrapper

    def _open(self) -> None:
        self._woken = False  # before the first is taken: what arrives from here on wakes again
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
    """Results and errors in order. Raises a `RefusedError` among them, and what is no error of ours."""
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
                future.exception()  # or asyncio would complain that nobody asked for it
        raise
    return results
