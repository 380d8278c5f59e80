"""What a Prometheus server reads at /metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from resnet_infer.serving.inference.deployment import Deployment
from resnet_infer.serving.inference.jobs import Timings

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
OUTCOMES = ("answered", "unreadable", "failed")
"""What becomes of a picture; `failed` where the model's logits are not finite."""
REASONS = ("full", "late", "closed", "unready", "memory", "size", "key", "head", "idle", "left")
"""Why a request is turned away: the reasons of `RefusedError`, and those of the guard and the HTTP protocol."""
RELOADS = ("done", "failed")
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client is told where the processes of a service share their figures."""


class Metrics:
    """Counters, histograms and gauges of one process, in a registry of their own.

    In a service of several processes, with `shared`, `render` adds up those of all that live: gauges are written when
    what they count changes, so that they are of the present whichever process is asked. That takes files, which cost
    as much as the rest of a small request; prometheus_client decides for them when it is first imported.
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
        if not self._is_shared:  # read when they are asked for, rather than written at every change
            self._active.set_function(lambda: self._in_progress)
            ProcessCollector(registry=self._registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        own = self._by_answer.get((route, status))
        if own is None:  # finding them takes longer than counting
            own = self._requests.labels(route, str(status)), self._seconds.labels(route, f"{status // 100}xx")
            self._by_answer[route, status] = own
        answered, duration = own
        answered.inc()
        duration.observe(seconds)

    def unparsed(self, reason: str, status: int | None) -> None:
        """A connection that ended before there was a request: its answer's status, if it was given one."""
        self.rejected(reason)
        if status is not None:
            self._requests.labels("other", str(status)).inc()

    def active(self, change: int) -> None:
        """A request has begun (1) or ended (-1)."""
        self._in_progress += change
        if self._is_shared:
            self._active.inc(change)

    @property
    def waiting(self) -> Callable[[int], None] | None:
        """To be told of so many rows more, or fewer, that wait; None where the model's are asked for."""
        return self._queue.inc if self._is_shared else None

    def picture(self, timings: Timings | None, *, failed: bool = False, count: int = 1) -> None:
        """Pictures that were answered, or None for some that could not be read or, with `failed`, not answered."""
        self._outcomes["answered" if timings else "failed" if failed else "unreadable"].inc(count)
        if timings:
            for name, histogram in self._stage.items():
                for _ in range(count):
                    histogram.observe(getattr(timings, name))

    def rejected(self, reason: str) -> None:
        self._rejections.labels(reason).inc()

    def batch(self, rows: int, seconds: float) -> None:
        self._batch.observe(rows)

    def reloaded(self, outcome: str) -> None:
        """A reload ended, as one of `RELOADS` says."""
        self._reloads.labels(outcome).inc()

    def model(self, deployment: Deployment) -> None:
        """The model that answers from now on."""
        spec, runtime = deployment.spec, deployment.runtime
        if self._current:
            self._model.labels(*self._current).set(0)
        self._current = (spec.name, spec.precision, runtime.name, runtime.device)
        self._model.labels(*self._current).set(1)
        self._opened.set(time.time())
        if not self._is_shared:
            self._queue.set_function(lambda: deployment.batcher.waiting_rows)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
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
    """The `process_` metrics of several processes, each with its number as `pid`: a sum would fall when one ends."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)

    def collect(self) -> Iterator[Any]:
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
    """Drop the gauges of processes that were killed, which nobody else does; the numbers of those that live."""
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
    """Whether the process is one of this service. One that was killed stays in the table until it is waited for."""
    import psutil

    try:
        process = psutil.Process(number)
        return bool(process.ppid() == os.getppid() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
