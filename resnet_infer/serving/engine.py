"""The model that answers now, and the change to another one while requests go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from resnet_infer.errors import ResnetInferError
from resnet_infer.serving.deployment import Deployment, Question
from resnet_infer.serving.work import Done, RefusedError

State = Literal["loading", "ready", "failed", "closed"]


class Engine:
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
        self._changing = asyncio.Lock()
        self._closing: set[asyncio.Future[None]] = set()
        self.state: State = "loading"
        self.error: Exception | None = None

    @property
    def ready(self) -> bool:
        """Whether the model is warm."""
        return self.state == "ready"

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
            self._current = await asyncio.to_thread(self._open)
        except Exception as error:
            self.state, self.error = "failed", error
            raise
        self._opened(self._current)
        self.state = "ready"

    async def reload(self) -> Deployment:
        """Open the model anew, then let it take over; what the old one has taken it finishes.

        Raises what opening raises; then the old one goes on.
        """
        async with self._changing:
            new = await asyncio.to_thread(self._open)
            old, self._current = self._current, new
            self._opened(new)
            if old is not None:
                closing = asyncio.ensure_future(asyncio.to_thread(old.close))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            return new

    async def submit(
        self, send: Callable[[Deployment], Sequence[Future[Done[Any]]]]
    ) -> tuple[Deployment, list[asyncio.Future[Done[Any]]]]:
        """Give work to the model that answers now, also if it is being exchanged at this moment."""
        while True:
            deployment = self.current
            try:
                return deployment, [asyncio.wrap_future(future) for future in send(deployment)]
            except RefusedError as refused:
                if refused.reason != "closed" or deployment is self._current:
                    raise

    async def ask(
        self, questions: Sequence[Question], timeout: float
    ) -> tuple[Deployment, list[Done[Any] | ResnetInferError]]:
        """The reply to every question, or what it failed with.

        Raises `RefusedError` if the questions are not taken or one of them is not answered in time.
        """
        deployment, futures = await self.submit(lambda current: current.ask(questions, timeout))
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
                results.append(error)
    except BaseException:
        for future in futures:
            if not future.cancel() and not future.cancelled():
                future.exception()  # or asyncio would complain that nobody asked for it
        raise
    return results
