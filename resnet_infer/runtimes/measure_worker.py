"""The process that takes one sample for `measure`: a pickled `Job` on stdin, one JSON object on stdout."""

from __future__ import annotations

import json
import os
import pickle
import statistics
import sys
import time
from typing import Any

import numpy as np

from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import ResnetInferError, first_line
from resnet_infer.runtimes.measure import Job
from resnet_infer.runtimes.registry import open_runtime

WARM_SECONDS = 0.2
LEAST_CALLS = 3
PICTURES = 8
"""Different pictures in a batch; a larger one repeats them."""


def main() -> None:
    """Answer the job with `ms` and `opened`, or with `failure`."""
    # Libraries of others print on stdout; from here on that is stderr.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        result = sample(pickle.load(sys.stdin.buffer))
    except ResnetInferError as error:
        result = {"failure": error.message}
    except Exception as error:  # whatever a runtime or its libraries raise belongs to the report
        result = {"failure": f"{type(error).__name__}: {first_line(error)}"}
    with answer:
        json.dump(result, answer, default=str)


def sample(job: Job) -> dict[str, Any]:
    """Open the subject, warm it up and time its calls. The median of them, in milliseconds."""
    subject = job.subject
    with open_runtime(
        subject.model, runtime=subject.runtime, device=subject.device, threads=subject.threads, **subject.options
    ) as runtime:
        height, width = (side or runtime.spec.input.crop for side in runtime.size)
        pictures = natural_noise(min(job.batch, PICTURES), height, width)
        images = pictures[np.arange(job.batch) % len(pictures)]

        def call() -> float:
            start = time.perf_counter()
            runtime(images)
            return time.perf_counter() - start

        warm = 0.0
        while warm < WARM_SECONDS:
            warm += call()
        calls: list[float] = []
        while len(calls) < LEAST_CALLS or sum(calls) < job.seconds:
            calls.append(call())
        return {"ms": 1000 * statistics.median(calls), "opened": runtime.describe()}
