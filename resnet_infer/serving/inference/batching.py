"""Process items of many callers together: prepare them in threads and infer them in batches.

The module knows nothing of HTTP, images or models: the callers define items, rows and results.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

import numpy as np

from resnet_infer.errors import UsageError
from resnet_infer.serving.inference.jobs import Done, Job, RefusedError, Rows, Timings

Item = TypeVar("Item")
Result = TypeVar("Result")

SPEED_WINDOW = 20
"""Number of batches over which the speed is averaged."""
QUEUE_SHARE = 0.9
"""Share of an item's time limit after which its inference no longer starts; the rest is for inference and the response.
"""
STALL_SECONDS = 4.0
"""Seconds without progress after which busy threads count as stuck."""
ALONE_SECONDS = 0.05
"""Seconds without overlapping requests before a request counts as alone. Two clients taking turns do not."""


class Batcher(Generic[Item, Result]):
    """Prepare items in threads, and infer the rows of several in one call.

    `prepare(item)` returns its rows, an array of any length along axis 0. `infer(rows, alone)` takes the rows of one or
    several items and returns as many. `finish(item, rows, inferred)` returns the result of one. An error of `prepare`
    or `finish` concerns that item only.

    Of the `workers` threads at most `lanes` infer at a time; the others prepare. A batch has at most `max_rows` rows;
    an item with more is inferred in parts. No thread waits for a batch to fill. A free thread prepares queued items
    until `max_rows` rows are ready, or a lane's share of all pending rows, or the first has waited `max_wait` seconds,
    and infers when nothing is left to prepare. `alone` tells that no other work is or recently was pending, so one call
    may use the whole machine.

    `submit` refuses items while `max_queue` rows wait, and items that would wait for more than half of their time limit
    at the measured speed. An accepted item whose inference has not started after `QUEUE_SHARE` of its limit is refused
    then. All methods may be called from any thread.

    `on_waiting` is called with changes of `waiting_rows`, `on_batch` with the rows and the seconds of every batch.
    """

    def __init__(
        self,
        prepare: Callable[[Item], Rows],
        infer: Callable[[Rows, bool], Rows],
        finish: Callable[[Item, Rows, Rows], Result],
        *,
        workers: int = 2,
        lanes: int = 1,
        max_rows: int = 8,
        max_wait: float = 0.05,
        max_queue: int = 256,
        name: str = "batcher",
        on_batch: Callable[[int, float], None] = lambda rows, seconds: None,
        on_waiting: Callable[[int], None] | None = None,
    ) -> None:
        if min(workers, lanes, max_rows, max_queue) < 1 or max_wait < 0:
            raise UsageError("workers, lanes, rows and the queue are at least 1, and the wait is not negative")
        self._prepare, self._infer, self._finish, self._on_batch = prepare, infer, finish, on_batch
        self._on_waiting, self._reported_rows = on_waiting, 0
        self.max_rows, self.max_wait, self.max_queue = max_rows, max_wait, max_queue
        self._lanes = self._free = lanes
        self._changed = threading.Condition()
        self._queued: deque[Job[Item, Result]] = deque()
        self._ready: deque[Job[Item, Result]] = deque()
        self._queued_rows = self._ready_rows = self._running_rows = 0
        self._active = 0  # threads that prepare or infer at the moment at the moment
        self._closed = False
        self.stall_seconds = STALL_SECONDS
        self._progress = time.monotonic()  # last time that something was finished, or begun when idle
        self._quiet_from = 0.0
        self._backlog_since: float | None = None
        self._busy_seconds = self._busy_rows = 0.0
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting_rows(self) -> int:
        """Return the rows that are accepted and not yet being inferred."""
        return self._queued_rows + self._ready_rows

    @property
    def seconds_per_row(self) -> float:
        """Return the seconds per row, measured under continuous load; 0 before there was any."""
        return self._busy_seconds / self._busy_rows if self._busy_rows else 0.0

    @property
    def stalled(self) -> bool:
        """Return whether work is pending, or all threads are busy, and nothing was finished for `stall_seconds`."""
        busy = self._active >= len(self._threads) or not self._free or self.waiting_rows
        return bool(busy) and time.monotonic() - self._progress > self.stall_seconds

    def submit(self, items: Sequence[tuple[Item, int]], timeout: float = math.inf) -> list[Future[Done[Result]]]:
        """Accept all `items`, pairs of an item and its rows, or none; their results are due in `timeout` seconds.

        A cancelled future costs nothing more if it has not been started. Raises `RefusedError`, and so do the futures.
        """
        now = time.monotonic()
        jobs: list[Job[Item, Result]] = [Job(item, rows, now, now + QUEUE_SHARE * timeout) for item, rows in items]
        rows = sum(job.rows for job in jobs)
        with self._changed:
            waiting = self.waiting_rows
            ahead = (waiting + self._running_rows) * self.seconds_per_row
            if self._closed:
                raise RefusedError("closed")
            if (waiting and waiting + rows > self.max_queue) or ahead > timeout / 2:
                self._forget_cancelled()
                waiting = self.waiting_rows
                ahead = (waiting + self._running_rows) * self.seconds_per_row
            if waiting and waiting + rows > self.max_queue:
                raise RefusedError("full", ahead)
            if ahead > timeout / 2:
                raise RefusedError("late", ahead - timeout / 2)
            if not self._active and not waiting:
                self._progress = now
            self._queued.extend(jobs)
            self._queued_rows += rows
            self._tell_waiting()
            self._changed.notify(len(jobs))
        return [job.future for job in jobs]

    def close(self) -> None:
        """Refuse new items, finish the accepted ones, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    # Methods of the threads

    def _work(self) -> None:
        """Prepare and infer until the batcher is closed."""
        while True:
            refused: list[Job[Item, Result]] = []
            with self._changed:
                while not (refused or self._drop_late(refused) or self._batch_is_due() or self._queued):
                    if self._closed and not self._ready:
                        return
                    self._changed.wait()
                batch = self._take_batch() if self._batch_is_due() else []
                job = self._take_job() if not batch and self._queued else None
                alone = self._is_alone()
                self._active += bool(batch or job)
                self._tell_waiting()
            for late in refused:
                late.fail(RefusedError("late", self.seconds_per_row))
            if batch:
                try:
                    self._run(batch, alone)
                except BaseException as error:  # a thread survives any error, so that no caller waits for ever
                    for job in batch:
                        job.fail(error)
            elif job:
                self._make_ready(job)

    def _tell_waiting(self) -> None:
        """Report the change of `waiting_rows` to `on_waiting`."""
        if self._on_waiting is None:
            return
        change = self.waiting_rows - self._reported_rows
        if change:
            self._reported_rows += change
            self._on_waiting(change)

    def _drop_late(self, refused: list[Job[Item, Result]]) -> bool:
        """Move the first jobs in line to `refused` while they are late or cancelled."""
        now = time.monotonic()
        for jobs in (self._queued, self._ready):
            while jobs and (jobs[0].deadline <= now or jobs[0].future.cancelled()):
                job = jobs.popleft()
                if jobs is self._queued:
                    self._queued_rows -= job.rows
                else:
                    self._ready_rows -= job.rows
                refused.append(job)
        return bool(refused)

    def _forget_cancelled(self) -> None:
        """Remove all cancelled jobs to make room; otherwise they are dropped only at the head of the line."""
        for jobs in (self._queued, self._ready):
            wanted = [job for job in jobs if not job.future.cancelled()]
            if len(wanted) < len(jobs):
                jobs.clear()
                jobs.extend(wanted)
        self._queued_rows = sum(job.rows for job in self._queued)
        self._ready_rows = sum(job.rows for job in self._ready)
        self._tell_waiting()

    def _batch_is_due(self) -> bool:
        """Return whether a lane is free and the ready rows should be inferred."""
        if not self._ready or not self._free:
            return False
        share = math.ceil((self.waiting_rows + self._running_rows) / (self._lanes + 1))
        return (
            not self._queued
            or self._ready_rows >= min(self.max_rows, share)
            or time.monotonic() - self._ready[0].prepared >= self.max_wait
        )

    def _is_alone(self) -> bool:
        """Return whether nothing else is pending, and was pending recently."""
        now = time.monotonic()
        if self._active or self._queued or self._ready:
            self._quiet_from = now + ALONE_SECONDS
        return now >= self._quiet_from

    def _take_job(self) -> Job[Item, Result]:
        """Take the first queued job, to prepare it."""
        job = self._queued.popleft()
        self._queued_rows -= job.rows
        self._running_rows += job.rows
        return job

    def _take_batch(self) -> list[Job[Item, Result]]:
        """Take the first ready job that is not cancelled, and those of its shape that fit."""
        batch: list[Job[Item, Result]] = []
        kept: list[Job[Item, Result]] = []
        rows = 0
        shape: tuple[int, ...] = ()
        while self._ready and rows < self.max_rows:
            job = self._ready.popleft()
            if job.future.cancelled():
                self._ready_rows -= job.rows
                continue
            shape = shape if batch else job.views.shape[1:]
            if job.views.shape[1:] == shape and (not batch or rows + job.rows <= self.max_rows):
                batch.append(job)
                rows += job.rows
            else:
                kept.append(job)
        self._ready.extendleft(reversed(kept))
        self._ready_rows -= rows
        self._running_rows += rows
        self._free -= bool(batch)
        return batch

    def _make_ready(self, job: Job[Item, Result]) -> None:
        """Prepare a job, and queue it for a batch."""
        error: BaseException | None = None
        job.started = time.monotonic()
        try:
            if not job.future.cancelled():
                job.views = self._prepare(job.item)
            else:
                error = RefusedError("late")
        except BaseException as raised:  # as above
            error = raised
        job.prepared = time.monotonic()
        with self._changed:
            self._active -= 1
            self._progress = time.monotonic()
            self._running_rows -= job.rows
            if error is None:
                job.rows = len(job.views)
                self._ready.append(job)
                self._ready_rows += job.rows
                self._tell_waiting()
            self._wake_if_closed()
        if error is not None:
            job.fail(error)

    def _run(self, batch: list[Job[Item, Result]], alone: bool) -> None:
        """Infer a batch, and complete its jobs."""
        begin = time.monotonic()
        rows = sum(job.rows for job in batch)
        inferred: list[Rows] = []
        error: BaseException | None = None
        try:
            views = np.concatenate([job.views for job in batch]) if len(batch) > 1 else batch[0].views
            starts = range(0, max(rows, 1), self.max_rows)
            inferred = [self._infer(views[start : start + self.max_rows], alone) for start in starts]
        except BaseException as raised:  # as above
            error = raised
        end = time.monotonic()
        with self._changed:
            self._active -= 1
            self._progress = time.monotonic()
            self._running_rows -= rows
            self._free += 1
            if self._ready:
                self._changed.notify()  # a lane is free, while this thread still finishes its batch
            self._measure(rows, end, end - begin + sum(job.prepared - job.started for job in batch))
            self._wake_if_closed()
        if error is not None:
            for job in batch:
                job.fail(error)
            return
        self._on_batch(rows, end - begin)
        outputs = np.concatenate(inferred) if len(inferred) > 1 else inferred[0]
        results: list[tuple[Job[Item, Result], Result]] = []
        start = 0
        for job in batch:
            own = outputs[start : start + job.rows]
            start += job.rows
            try:
                results.append((job, self._finish(job.item, job.views, own)))
            except BaseException as raised:  # as above
                job.fail(raised)
        # All at once: a caller woken earlier would compete with this thread for the interpreter lock.
        for job, result in results:
            timings = Timings(
                job.started - job.submitted, job.prepared - job.started, begin - job.prepared, end - begin
            )
            job.succeed(Done(result, timings, rows))

    def _wake_if_closed(self) -> None:
        """Wake the threads that wait for a lane, which would not notice the end."""
        if self._closed:
            self._changed.notify_all()

    def _measure(self, rows: int, now: float, cost: float) -> None:
        """Measure the speed, if there has been work ever since the last batch.

        `cost` is the time for preparing the batch's items one by one and inferring it. It bounds the time per row, so
        that a pause of the machine does not count as slowness.
        """
        if self._backlog_since is not None:
            kept = 1 - 1 / SPEED_WINDOW
            self._busy_seconds = self._busy_seconds * kept + now - self._backlog_since
            self._busy_rows = self._busy_rows * kept + rows
        if rows:
            self._busy_seconds = min(self._busy_seconds, cost / rows * self._busy_rows)
        self._backlog_since = now if self._queued else None
