"""What a Prometheus server reads at /metrics."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from resnet_infer.serving.deployment import Deployment
from resnet_infer.serving.work import Timings

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
OUTCOMES = ("answered", "unreadable", "failed")
"""What becomes of a picture; `failed` where the model's logits are not finite."""
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client is told where the processes of a service share their figures."""


class Metrics:
    """Counters and histograms of one process, in a registry of their own.

    In a service of several processes, with `shared`, `render` adds up those of all of them. That takes files, which
    cost as much as the rest of a small request; prometheus_client decides for them when it is first imported.
    """

    def __init__(self, *, shared: bool = False) -> None:
        if not shared:
            os.environ.pop(MULTIPROCESS, None)
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram

        self.content_type: str = CONTENT_TYPE_LATEST
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"namespace": "resnet_infer", "registry": self._registry}
        self._requests = Counter("requests", "Requests answered", ["route", "status"], **own)
        self._seconds = Histogram("request_seconds", "From request to answer", ["route"], buckets=SECONDS, **own)
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
        self._model = Gauge(
            "model_info", "1 for the model that answers", ["model", "precision", "runtime", "device"],
            multiprocess_mode="livemax", **own,
        )  # fmt: skip
        self._outcomes = {word: self._pictures.labels(word) for word in OUTCOMES}
        self._by_answer: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._current: tuple[str, ...] = ()
        if MULTIPROCESS in os.environ:
            _forget_the_dead(Path(os.environ[MULTIPROCESS]))

    def request(self, route: str, status: int, seconds: float) -> None:
        own = self._by_answer.get((route, status))
        if own is None:  # finding them takes longer than counting
            own = self._requests.labels(route, str(status)), self._seconds.labels(route)
            self._by_answer[route, status] = own
        answered, duration = own
        answered.inc()
        duration.observe(seconds)

    def picture(self, timings: Timings | None, *, failed: bool = False) -> None:
        """A picture that was answered, or None for one that could not be read or, with `failed`, not answered."""
        self._outcomes["answered" if timings else "failed" if failed else "unreadable"].inc()
        if timings:
            for name, histogram in self._stage.items():
                histogram.observe(getattr(timings, name))

    def rejected(self, reason: str) -> None:
        self._rejections.labels(reason).inc()

    def batch(self, rows: int, seconds: float) -> None:
        self._batch.observe(rows)

    def model(self, deployment: Deployment) -> None:
        """The model that answers from now on."""
        spec, runtime = deployment.spec, deployment.runtime
        if self._current:
            self._model.labels(*self._current).set(0)
        self._current = (spec.name, spec.precision, runtime.name, runtime.device)
        self._model.labels(*self._current).set(1)

    def render(self, queue_rows: int, active_requests: int) -> bytes:
        """The text that Prometheus reads, with what is in progress now."""
        self._queue.set(queue_rows)
        self._active.set(active_requests)
        from prometheus_client import CollectorRegistry, generate_latest

        registry = self._registry
        if MULTIPROCESS in os.environ:
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        text: bytes = generate_latest(registry)
        return text


def _forget_the_dead(folder: Path) -> None:
    """Drop the gauges of processes that were killed: nobody else does."""
    from prometheus_client.multiprocess import mark_process_dead

    for path in folder.glob("gauge_live*.db"):
        process = path.stem.rpartition("_")[2]
        if process.isdigit() and os.path.isdir("/proc") and not os.path.exists(f"/proc/{process}"):
            mark_process_dead(int(process))  # type: ignore[no-untyped-call]
