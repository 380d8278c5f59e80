"""The process of one subject: it opens it, then waits, and takes a sample whenever it is told to.

A pickled `Task` on stdin, then one order after the other: `warm` or a number of seconds. A pickled answer to each goes
to stdout, a dict; with `failure` in it, it is the last.
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
from resnet_infer.benchmarking.latency.side_by_side import Subject
from resnet_infer.classifier import Classifier, Picture
from resnet_infer.errors import PictureError
from resnet_infer.runtimes.processes import answer_channel, reason
from resnet_infer.runtimes.registry import open_runtime, runtime_class

QUIET_STEP = 0.02
"""Seconds of sleep, in which a process at rest works for less than `QUIET_SHARE` of them."""
QUIET_SHARE = 0.05
QUIET_LIMIT = 2.0


@dataclass(frozen=True)
class Task:
    """What the process is for. `pictures` are encoded. `started`: `time.monotonic` just before the process was."""

    subject: Subject
    batch: int
    pictures: tuple[bytes, ...]
    started: float


def main() -> None:
    """Answer orders until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    sys.setswitchinterval(0.0005)  # as in `classify`: threads that decode hold the interpreter only briefly
    channel = answer_channel()

    def answer(value: dict[str, Any]) -> None:
        pickle.dump(value, channel)
        channel.flush()

    try:
        bench, about = open_bench(pickle.load(sys.stdin.buffer))
        answer(about)
        for order in sys.stdin.buffer:
            answer(bench.warm() if order == b"warm\n" else bench.turn(float(order)))
    except Exception as error:  # whatever a runtime or its libraries raise belongs to the report
        answer({"failure": reason(error)})


class Bench:
    """An open model, and pictures in every form that a stage begins with."""

    def __init__(self, classifier: Classifier, task: Task) -> None:
        self._classifier, self._runtime, self._batch = classifier, classifier.runtime, task.batch
        self._threads = task.subject.threads
        self._pictures = [Picture(f"picture {number}", content) for number, content in enumerate(task.pictures)]
        self._single, self._groups = cycle(self._pictures), self._endless()

    def answer(self) -> None:
        """From encoded pictures to the five best classes, of the next `batch` pictures."""
        group = next(self._groups)
        for item in self._classifier.stream(group, batch_size=self._batch, workers=self._threads):
            if item.error:
                raise item.error

    def warm(self) -> dict[str, Any]:
        """Warm up the inference, then every stage once. What that took, and the memory until then."""
        device = self._runtime.device
        used = device_in_use(device)
        self._stages = self._prepared()
        warm = warm_up(self._stages["inference"])
        for stage in self._stages.values():
            stage()
        peak, taken = peak_resident(), growth(used, device_in_use(device))
        settle()
        return {"warm_up": vars(warm), "resident": peak, "device": taken}

    def turn(self, seconds: float) -> dict[str, Any]:
        """Every stage for `seconds`, as seconds of each call; then wait until no thread is busy any more."""
        found = {}
        for name, stage in self._stages.items():
            stage()  # others were at work since the last turn, so caches are cold and threads asleep
            found[name] = np.array(timed(stage, seconds))
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


def open_bench(task: Task) -> tuple[Bench, dict[str, Any]]:
    """Open the subject and answer the first batch. What it is, and how long that took from the process's start."""
    subject = task.subject
    runtime_class(subject.model, subject.runtime)  # the library is loaded before the model is
    before = peak_resident()
    used = device_in_use(subject.device if subject.device.startswith("cuda") else "cuda")
    begin = time.perf_counter()
    runtime = open_runtime(
        subject.model, runtime=subject.runtime, device=subject.device, threads=subject.threads, **subject.options
    )
    opened = time.perf_counter()
    bench = Bench(Classifier(runtime), task)
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
        "first_answer": now - task.started,
    }
    return bench, about


def settle() -> None:
    """Wait until this process is at rest: threads of a pool go on looking for work for a while."""
    end = time.perf_counter() + QUIET_LIMIT
    while time.perf_counter() < end:
        busy = time.process_time()
        time.sleep(QUIET_STEP)
        if time.process_time() - busy < QUIET_SHARE * QUIET_STEP:
            return
