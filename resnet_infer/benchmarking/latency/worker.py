"""Run in the process of one subject: open it, then wait, and time its calls whenever a request says so.

Requests are pickled to stdin: a `StartRequest` first, then any number of `WarmUpRequest` and `RoundRequest`. The
response to each is a dict pickled to stdout. A response with `failure` in it is the last.
"""

from __future__ import annotations

import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any

import numpy as np

from resnet_infer.benchmarking.latency.clock import timed, warm_up
from resnet_infer.benchmarking.latency.memory import device_in_use, growth, peak_resident
from resnet_infer.benchmarking.latency.subjects import Subject
from resnet_infer.classifier import Classifier, Picture
from resnet_infer.errors import PictureError
from resnet_infer.runtimes.base import parse_device
from resnet_infer.runtimes.processes import answer_channel, reason
from resnet_infer.runtimes.registry import open_runtime, runtime_class

QUIET_STEP = 0.02
"""Seconds of sleep after which `settle` looks whether the process is at rest."""
QUIET_SHARE = 0.05
"""Share of `QUIET_STEP` below which the CPU time of a process counts as rest."""
QUIET_LIMIT = 2.0
"""Seconds after which `settle` waits no longer."""
STAGES = ("prepare", "transfer", "inference", "end_to_end")
"""Stages of an answer that can be timed; `transfer` only where a device has memory of its own."""


@dataclass(frozen=True)
class StartRequest:
    """Ask for a subject to be opened, and for one answer.

    `pictures` are encoded, `stages` those to be timed. `started` is `time.monotonic` just before the process was.
    """

    subject: Subject
    batch: int
    pictures: tuple[bytes, ...]
    stages: tuple[str, ...] = STAGES
    started: float = 0.0


@dataclass(frozen=True)
class WarmUpRequest:
    """Ask for the warm-up, which ends after `limit` seconds though the times are not stable."""

    limit: float


@dataclass(frozen=True)
class RoundRequest:
    """Ask for a round: calls of every stage for at least `seconds`, and at least `least_calls` of them."""

    seconds: float
    least_calls: int = 1


def main() -> None:
    """Respond to requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    sys.setswitchinterval(0.0005)  # as in `classify`: threads that decode hold the interpreter only briefly
    channel = answer_channel()

    def respond(value: dict[str, Any]) -> None:
        pickle.dump(value, channel)
        channel.flush()

    try:
        bench, about = open_bench(pickle.load(sys.stdin.buffer))
        respond(about)
        while True:
            try:
                request = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            respond(bench.warm(request) if isinstance(request, WarmUpRequest) else bench.round(request))
    except Exception as error:  # whatever a runtime or its libraries raise belongs to the report
        respond({"failure": reason(error)})


class Bench:
    """Hold an open model, and pictures in every form that a stage begins with."""

    def __init__(self, classifier: Classifier, start: StartRequest) -> None:
        self._classifier, self._runtime, self._batch = classifier, classifier.runtime, start.batch
        self._threads, self._timed = start.subject.threads, start.stages
        self._pictures = [Picture(f"picture {number}", content) for number, content in enumerate(start.pictures)]
        self._single, self._groups = cycle(self._pictures), self._endless()

    def answer(self) -> None:
        """Classify the next `batch` pictures, from encoded bytes to the five best classes."""
        group = next(self._groups)
        for item in self._classifier.stream(group, batch_size=self._batch, workers=self._threads):
            if item.error:
                raise item.error

    def warm(self, request: WarmUpRequest) -> dict[str, Any]:
        """Warm up the inference and call every stage once.

        Returns what the warm-up took, the peak of this process's memory in bytes, and the growth of the device's.
        """
        device = self._runtime.device
        used = device_in_use(device)
        stages = self._prepared()
        warm = warm_up(stages["inference"], request.limit)
        self._stages = {name: stage for name, stage in stages.items() if name in self._timed}
        for stage in self._stages.values():
            stage()
        peak, taken = peak_resident(), growth(used, device_in_use(device))
        settle()
        return {"warm_up": vars(warm), "resident": peak, "device": taken}

    def round(self, request: RoundRequest) -> dict[str, Any]:
        """Call every stage, and return the seconds of each call once no thread is busy any more."""
        found = {}
        for name, stage in self._stages.items():
            stage()  # others were at work since the last round, so caches are cold and threads asleep
            found[name] = np.array(timed(stage, request.seconds, request.least_calls))
        settle()
        return {"stages": found}

    def _prepared(self) -> dict[str, Callable[[], object]]:
        runtime, views = self._runtime, [self._classifier.views(item) for item in self._pictures[: self._batch]]
        crops = np.concatenate([view for view in views if not isinstance(view, PictureError)])
        images = crops[np.arange(self._batch) % len(crops)]
        stages: dict[str, Callable[[], object]] = {
            "prepare": lambda: self._classifier.views(next(self._single)),
            "inference": lambda: runtime(images),
            "end_to_end": self.answer,
        }
        if runtime.transfer(images):
            stages["transfer"] = lambda: runtime.transfer(images)
        return stages

    def _endless(self) -> Iterator[list[Picture]]:
        total = len(self._pictures)
        for start in count(step=self._batch):
            yield [self._pictures[(start + place) % total] for place in range(self._batch)]


def open_bench(start: StartRequest) -> tuple[Bench, dict[str, Any]]:
    """Open the subject and answer the first batch.

    Returns the bench and a dict: what the runtime and the spec say (`opened`, `spec`), bytes of memory
    (`resident_before`, `device`), and seconds (`open`, `answer`, and from the start of the process `first_answer`).
    """
    subject = start.subject
    runtime_class(subject.model, subject.runtime, subject.compute)  # the library is loaded before the model is
    before = peak_resident()
    used = device_in_use(subject.device if parse_device(subject.device)[0] == "cuda" else "cuda")
    begin = time.perf_counter()
    runtime = open_runtime(
        subject.model,
        runtime=subject.runtime,
        device=subject.device,
        threads=subject.threads,
        compute=subject.compute,
        **subject.options,
    )
    opened = time.perf_counter()
    bench = Bench(Classifier(runtime), start)
    bench.answer()
    answered, now = time.perf_counter(), time.monotonic()
    about = {
        "opened": runtime.describe(),
        "spec": {
            "name": runtime.spec.name,
            "precision": runtime.spec.precision,
            "classes": len(runtime.spec.classes),
        },
        "resident_before": before,
        "device": growth(used, device_in_use(runtime.device)),
        "open": opened - begin,
        "answer": answered - opened,
        "first_answer": now - start.started,
    }
    return bench, about


def settle() -> None:
    """Wait until this process is at rest. Threads of a pool go on looking for work for a while."""
    end = time.perf_counter() + QUIET_LIMIT
    while time.perf_counter() < end:
        busy = time.process_time()
        time.sleep(QUIET_STEP)
        if time.process_time() - busy < QUIET_SHARE * QUIET_STEP:
            return
