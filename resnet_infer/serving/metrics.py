"""Count and measure requests, for a Prometheus server that reads /metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from resnet_infer.serving.inference.deployment import Deployment
from resnet_infer.serving.inference.jobs import Timings

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Bounds of the histograms of durations, in seconds."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Bounds of the histogram of batch sizes, in rows."""
OUTCOMES = ("answered", "unreadable", "failed")
"""Outcomes of an image. `failed` means that the model's logits were not finite, that it could not be run, or
that the GPU failed."""
REASONS = ("full", "late", "closed", "unready", "memory", "size", "key", "head", "idle", "left", "device")
"""Reasons for refusing a request: those of `RefusedError`, of the middleware, of the HTTP protocol and of the GPU."""
RELOADS = ("done", "failed")
"""Outcomes of a reload."""
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of prometheus_client with the folder in which the processes of a service share their metrics."""


class Metrics:
    """Hold the counters, histograms and gauges of one process, in a registry of their own.

    With `shared`, for a service of several processes, `render` adds up the metrics of all live processes. Gauges are
    then written at every change, so that their sum is current whichever process is asked. This goes through files and
    costs as much as the rest of a small request; prometheus_client decides on it when it is first imported.
    """

    def __init__(self, *, shared: bool = False) -> None:
        if not shared:
            os.environ.pop(MULTIPROCESS, None)
        from prometheus_client import (
            CONTENT_TYPE_LATEST,
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            ProcessCollector,
            disable_created_metrics,
        )

        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.content_type: str = CONTENT_TYPE_LATEST
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"namespace": "resnet_infer", "registry": self._registry}
        self._requests = Counter("requests", "Requests answered", ["route", "status"], **own)
        self._seconds = Histogram(
            "request_duration_seconds", "From request to answer", ["route", "status_class"], buckets=SECONDS, **own
        )
        self._stages = Histogram(
            "stage_seconds", "Of a picture: queue, decode, wait, inference", ["stage"], buckets=SECONDS, **own
        )
        self._stage = {
            name: self._stages.labels(label)
            for name, label in (("queue", "queue"), ("prepare", "decode"), ("wait", "wait"), ("infer", "inference"))
        }
        self._pictures = Counter("pictures", "Pictures by outcome", ["outcome"], **own)
        self._rejections = Counter("rejections", "Requests turned away", ["reason"], **own)
        self._batch = Histogram("batch_rows", "Rows inferred together", buckets=ROWS, **own)
        self._queue = Gauge("queue_rows", "Rows that wait", multiprocess_mode="livesum", **own)
        self._active = Gauge("active_requests", "Requests in progress", multiprocess_mode="livesum", **own)
        self._reloads = Counter("reloads", "Reloads of keys and model, by each process", ["outcome"], **own)
        self._opened = Gauge(
            "last_reload_timestamp_seconds",
            "When the model that answers was opened, at the start or by a reload; the earliest of several processes",
            multiprocess_mode="livemin", **own,
        )  # fmt: skip
        self._model = Gauge(
            "model_info", "1 for the model that answers", ["model", "precision", "runtime", "device"],
            multiprocess_mode="livemax", **own,
        )  # fmt: skip
        self._outcomes = {word: self._pictures.labels(word) for word in OUTCOMES}
        for reason in REASONS:
            self._rejections.labels(reason)
        for outcome in RELOADS:
            self._reloads.labels(outcome)
        self._by_answer: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._in_progress = 0
        self._current: tuple[str, ...] = ()
        self._is_shared = MULTIPROCESS in os.environ
        if not self._is_shared:  # read by `render`, which is cheaper than a write at every change
            self._active.set_function(lambda: self._in_progress)
            ProcessCollector(registry=self._registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a response, by route and status, and the seconds that it took."""
        own = self._by_answer.get((route, status))
        if own is None:  # looking up labels takes longer than counting
            own = self._requests.labels(route, str(status)), self._seconds.labels(route, f"{status // 100}xx")
            self._by_answer[route, status] = own
        answered, duration = own
        answered.inc()
        duration.observe(seconds)

    def unparsed(self, reason: str, status: int | None) -> None:
        """Count a connection that ended before its request was complete.

        `status` is that of the response, None if there was none.
        """
        self.rejected(reason)
        if status is not None:
            self._requests.labels("other", str(status)).inc()

    def active(self, change: int) -> None:
        """Count a request that has begun (`change` 1) or ended (-1)."""
        self._in_progress += change
        if self._is_shared:
            self._active.inc(change)

    @property
    def waiting(self) -> Callable[[int], None] | None:
        """Return the function to call with the change in waiting rows; None where `render` asks the batcher instead."""
        return self._queue.inc if self._is_shared else None

    def picture(self, timings: Timings | None, *, failed: bool = False, count: int = 1) -> None:
        """Count `count` images.

        With `timings` they were answered; without, they could not be read or, with `failed`, could not be answered.
        """
        self._outcomes["answered" if timings else "failed" if failed else "unreadable"].inc(count)
        if timings:
            for name, histogram in self._stage.items():
                for _ in range(count):
                    histogram.observe(getattr(timings, name))

    def rejected(self, reason: str) -> None:
        """Count a refused request by one of `REASONS`."""
        self._rejections.labels(reason).inc()

    def batch(self, rows: int, seconds: float) -> None:
        """Count a batch of so many rows."""
        self._batch.observe(rows)

    def reloaded(self, outcome: str) -> None:
        """Count a reload by one of `RELOADS`."""
        self._reloads.labels(outcome).inc()

    def model(self, deployment: Deployment) -> None:
        """Set the model that answers from now on, and the time when it was opened."""
        spec, runtime = deployment.spec, deployment.runtime
        if self._current:
            self._model.labels(*self._current).set(0)
        self._current = (spec.name, runtime.precision, runtime.name, runtime.device)
        self._model.labels(*self._current).set(1)
        self._opened.set(time.time())
        if not self._is_shared:
            self._queue.set_function(lambda: deployment.batcher.waiting_rows)

    def render(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = self._registry
        if self._is_shared:
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            living = _drop_dead_processes(Path(os.environ[MULTIPROCESS]))
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            registry.register(_Processes(living))
        text: bytes = generate_latest(registry)
        return text


class _Processes:
    """Collect the `process_` metrics of several processes, each labelled with its `pid`.

    Their sum would fall whenever a process ends.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)

    def collect(self) -> Iterator[Any]:
        """Yield every metric with the samples of all processes."""
        from prometheus_client import Metric, ProcessCollector

        together: dict[str, Metric] = {}
        for number in self._numbers:
            collector = ProcessCollector(pid=lambda number=number: number, registry=None)  # type: ignore[misc]
            for family in collector.collect():
                own = together.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    own.add_sample(sample.name, {**sample.labels, "pid": str(number)}, sample.value)
        yield from together.values()


def _drop_dead_processes(folder: Path) -> list[int]:
    """Remove the gauges of processes that were killed, which nothing else does. Return the numbers of the live ones."""
    from prometheus_client.multiprocess import mark_process_dead

    living = []
    for path in folder.glob("gauge_livesum_*.db"):
        number = int(path.stem.rpartition("_")[2])
        if _is_alive(number):
            living.append(number)
        else:
            mark_process_dead(number)  # type: ignore[no-untyped-call]
    return sorted(living)


def _is_alive(number: int) -> bool:
    """Return whether the process is a live one of this service.

    A killed process stays in the process table until its parent has waited for it.
    """
    import psutil

    try:
        process = psutil.Process(number)
        return bool(process.ppid() == os.getppid() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
