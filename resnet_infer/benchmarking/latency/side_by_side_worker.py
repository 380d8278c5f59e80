"""The process that takes one sample for `measure`: a pickled `Job` on stdin, one JSON object on stdout."""

from __future__ import annotations

import pickle
import statistics
import sys
from typing import Any

import numpy as np

from resnet_infer.benchmarking.latency.clock import timed, warm_up
from resnet_infer.benchmarking.latency.side_by_side import Job
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.runtimes.processes import answer_channel, reason
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.utils import strict_json

WARM_SECONDS = 1.0
"""The longest warm-up; what is not stable by then gets the median of its calls all the same."""
LEAST_CALLS = 3
PICTURES = 8
"""Different pictures in a batch; a larger one repeats them."""


def main() -> None:
    """Answer the job with `ms` and `opened`, or with `failure`."""
    channel = answer_channel()
    try:
        result = sample(pickle.load(sys.stdin.buffer))
    except Exception as error:  # whatever a runtime or its libraries raise belongs to the report
        result = {"failure": reason(error)}
    with channel:
        channel.write(strict_json.dumps(result, default=str).encode())


def sample(job: Job) -> dict[str, Any]:
    """Open the subject, warm it up and time its calls. The median of them, in milliseconds."""
    subject = job.subject
    with open_runtime(
        subject.model, runtime=subject.runtime, device=subject.device, threads=subject.threads, **subject.options
    ) as runtime:
        height, width = (side or runtime.spec.input.crop for side in runtime.size)
        pictures = natural_noise(min(job.batch, PICTURES), height, width)
        images = pictures[np.arange(job.batch) % len(pictures)]
        warm_up(lambda: runtime(images), WARM_SECONDS)
        calls = timed(lambda: runtime(images), job.seconds, LEAST_CALLS)
        return {"ms": 1000 * statistics.median(calls), "opened": runtime.describe()}
