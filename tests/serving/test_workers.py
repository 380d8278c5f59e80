"""The batcher's threads: nothing ends them, and none sleeps while there is work for it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait
from typing import Any

import numpy as np
import pytest

from resnet_infer.serving.inference.batching import Batcher


def prepare(item: int) -> Any:
    return np.full((1, 1), item)


@pytest.mark.parametrize("moment", ["set_exception", "set_result"])
def test_who_cancels_at_the_last_moment_ends_no_thread(moment: str) -> None:
    """Between the thread's decision to give an answer and the answer itself."""
    gate, begun = threading.Event(), threading.Event()

    def infer(rows: Any, alone: bool) -> Any:
        begun.set()
        gate.wait(30)
        return rows

    batcher: Batcher[int, int] = Batcher(prepare, infer, lambda item, rows, inferred: item, workers=1, max_rows=1)
    (first,) = batcher.submit([(0, 1)])
    assert begun.wait(30)
    (future,) = batcher.submit([(1, 1)], timeout=0.01 if moment == "set_exception" else 60)
    answer = getattr(future, moment)

    def cancelled(value: Any) -> None:
        if moment == "set_exception":
            assert future.cancel()
        else:
            answer(value)
        answer(value)

    setattr(future, moment, cancelled)
    time.sleep(0.05)
    gate.set()
    (last,) = batcher.submit([(2, 1)])
    assert (first.result(10).result, last.result(10).result) == (0, 2)
    assert future.cancelled() == (moment == "set_exception")
    batcher.close()


def test_an_error_beside_the_work_ends_no_thread_and_is_told() -> None:
    broken = True

    def count(rows: int, seconds: float) -> None:
        if broken:
            raise OSError("no space for metrics")

    batcher: Batcher[int, int] = Batcher(
        prepare, lambda rows, alone: rows, lambda item, rows, inferred: item, workers=1, on_batch=count
    )
    (future,) = batcher.submit([(1, 1)])
    assert isinstance(future.exception(10), OSError)
    broken = False
    (future,) = batcher.submit([(2, 1)])
    assert future.result(10).result == 2
    batcher.close()


def test_a_lane_that_is_free_is_used_while_results_are_made() -> None:
    gate, second = threading.Event(), threading.Event()
    inferred = []

    def infer(rows: Any, alone: bool) -> Any:
        inferred.append(len(rows))
        if len(inferred) > 1:
            second.set()
        gate.wait(30)
        return rows

    def finish(item: int, rows: Any, inferred: Any) -> bool:
        return second.wait(2)

    batcher: Batcher[int, bool] = Batcher(prepare, infer, finish, workers=3, lanes=1, max_rows=1)
    futures = batcher.submit([(item, 1) for item in range(3)])
    while not inferred or batcher._ready_rows < 2:
        time.sleep(0.001)
    time.sleep(0.05)  # the other threads go to sleep
    gate.set()
    wait(futures, 30)
    assert futures[0].result().result, "nobody inferred before the first result was made"
    batcher.close()
