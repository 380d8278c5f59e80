"""The batcher, by what it promises: each caller its own answer, within the limits, whatever happens beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_infer.errors import PictureError, UsageError
from resnet_infer.serving.inference.batching import ALONE_SECONDS, Batcher
from resnet_infer.serving.inference.jobs import Done, RefusedError

Array = NDArray[Any]


@dataclass
class Bench:
    """Work whose answer is known: an item (number, rows) becomes rows of that number, and those its triple."""

    batches: list[int] = field(default_factory=list)
    alone: list[bool] = field(default_factory=list)
    inferring: int = 0
    most_inferring: int = 0
    lock: Any = field(default_factory=threading.Lock)
    gate: threading.Event = field(default_factory=threading.Event)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.gate.set()

    def prepare(self, item: tuple[int, int]) -> Array:
        number, rows = item
        if number < 0:
            raise PictureError(f"{number}: damaged")
        return np.full((rows, 2 + number % 2), number)  # two shapes, which cannot share a batch

    def infer(self, rows: Array, alone: bool) -> Array:
        with self.lock:
            self.inferring += 1
            self.most_inferring = max(self.most_inferring, self.inferring)
            self.batches.append(len(rows))
            self.alone.append(alone)
        self.gate.wait(30)
        time.sleep(self.seconds)
        with self.lock:
            self.inferring -= 1
        return rows * 3

    def finish(self, item: tuple[int, int], rows: Array, inferred: Array) -> tuple[int, list[int]]:
        assert (inferred == rows * 3).all()
        return item[0], inferred[:, 0].tolist()

    @contextmanager
    def batcher(self, **options: Any) -> Iterator[Batcher[tuple[int, int], tuple[int, list[int]]]]:
        batcher = Batcher(self.prepare, self.infer, self.finish, **options)
        try:
            yield batcher
        finally:
            self.gate.set()
            batcher.close()


Answers = Future[Done[tuple[int, list[int]]]]


def one(batcher: Any, number: int, rows: int = 1, timeout: float = 60) -> Answers:
    (future,) = batcher.submit([((number, rows), rows)], timeout)
    answer: Answers = future
    return answer


@settings(max_examples=25, deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(-2, 1000), st.integers(1, 12)), max_size=60),
    workers=st.integers(1, 4),
    lanes=st.integers(1, 3),
    max_rows=st.integers(1, 16),
    max_wait=st.sampled_from([0.0, 0.001]),
)
def test_every_item_gets_its_own_answer_within_the_limits(
    items: list[tuple[int, int]], workers: int, lanes: int, max_rows: int, max_wait: float
) -> None:
    bench = Bench()
    with bench.batcher(workers=workers, lanes=lanes, max_rows=max_rows, max_wait=max_wait, max_queue=10**6) as batcher:
        futures = [one(batcher, *item) for item in items]
        for (number, rows), future in zip(items, futures, strict=True):
            if number < 0:
                with pytest.raises(PictureError, match=str(number)):
                    future.result(30)
            else:
                done = future.result(30)
                assert done.result == (number, [3 * number] * rows)
                assert done.batch <= max_rows or done.batch == rows
                assert min(vars(done.timings).values()) >= 0
        assert batcher.waiting_rows == 0
    assert max(bench.batches, default=0) <= max_rows
    assert bench.most_inferring <= min(lanes, workers)
    assert sum(bench.batches) == sum(rows for number, rows in items if number >= 0)


def test_thousands_of_concurrent_callers_are_never_mixed_up() -> None:
    bench = Bench()
    with bench.batcher(workers=3, lanes=2, max_rows=16, max_queue=10**6) as batcher, ThreadPoolExecutor(32) as callers:

        def call(number: int) -> bool:
            rows = 10 if number % 7 == 0 else 1
            return one(batcher, number, rows).result(60).result == (number, [3 * number] * rows)

        assert all(callers.map(call, range(5000)))
    assert max(bench.batches) > 1


def test_items_that_wait_are_inferred_together() -> None:
    bench = Bench()
    bench.gate.clear()
    with bench.batcher(workers=2, lanes=1, max_rows=32, max_wait=60) as batcher:
        first = one(batcher, 0)
        while not bench.batches:
            time.sleep(0.001)
        others = [one(batcher, 2 * number) for number in range(1, 9)]
        while batcher.waiting_rows < 8 or batcher._queued:
            time.sleep(0.001)
        bench.gate.set()
        wait([first, *others], 30)
        assert bench.batches == [1, 8]
        assert [future.result().batch for future in others] == [8] * 8


def test_ten_crops_are_ten_rows() -> None:
    """Three pictures of ten views fill a batch of thirty, not of thirty pictures."""
    bench = Bench()
    bench.gate.clear()
    with bench.batcher(workers=2, lanes=1, max_rows=30, max_wait=60) as batcher:
        first = one(batcher, 0)
        while not bench.batches:
            time.sleep(0.001)
        others = [one(batcher, 2, 10) for _ in range(4)]
        while batcher.waiting_rows < 40 or batcher._queued:
            time.sleep(0.001)
        bench.gate.set()
        wait([first, *others], 30)
    assert bench.batches == [1, 30, 10]


def test_what_waited_long_enough_goes_before_more_is_prepared() -> None:
    """One worker and one lane: without the limit on waiting half of what is in sight is a batch, half is in reserve."""
    for max_wait, expected in ((60.0, [10, 5, 3, 1, 1]), (0.0, [1] * 20)):
        bench = Bench()
        with bench.batcher(workers=1, max_rows=100, max_wait=max_wait) as batcher:
            futures = batcher.submit([((0, 1), 1)] * 20)
            wait(futures, 30)
        assert bench.batches == expected


def test_one_item_has_the_machine_alone_and_several_do_not() -> None:
    bench = Bench()
    with bench.batcher(workers=2, lanes=2) as batcher:
        one(batcher, 1).result(30)
        assert bench.alone == [True]
        bench.gate.clear()
        futures = []
        for count in (2, 3):
            futures.append(one(batcher, 2))
            while len(bench.alone) < count:
                time.sleep(0.001)
        bench.gate.set()
        wait(futures, 30)
        assert bench.alone == [True, True, False]
        one(batcher, 1).result(30)
        assert bench.alone[3] is False, "they met a moment ago"
        time.sleep(2 * ALONE_SECONDS)
        one(batcher, 1).result(30)
        assert bench.alone[4] is True


def test_an_item_that_fails_fails_alone() -> None:
    bench = Bench()
    with bench.batcher(workers=1, max_wait=60, max_rows=100) as batcher:
        futures = batcher.submit([((number, 1), 1) for number in (1, -1, 3, -2, 5)])
        results = [future.exception(30) or future.result().result[0] for future in futures]
    assert [item if isinstance(item, int) else str(item) for item in results] == [1, "-1: damaged", 3, "-2: damaged", 5]


def test_a_result_that_cannot_be_made_fails_alone() -> None:
    def finish(item: int, rows: Array, inferred: Array) -> int:
        return 10 // item

    batcher = Batcher(lambda item: np.full((1, 1), item), lambda rows, alone: rows, finish, max_wait=60)
    futures = batcher.submit([(item, 1) for item in (5, 0, 2)])
    assert [future.exception(30) is None for future in futures] == [True, False, True]
    batcher.close()


def test_an_inference_that_fails_is_every_items_error_and_not_the_end() -> None:
    broken = True

    def infer(rows: Array, alone: bool) -> Array:
        if broken:
            raise MemoryError
        return rows

    batcher: Batcher[int, int] = Batcher(
        lambda item: np.full((1, 1), item), infer, lambda item, rows, inferred: item, workers=1
    )
    (future,) = batcher.submit([(1, 1)])
    assert isinstance(future.exception(30), MemoryError)
    broken = False
    (future,) = batcher.submit([(2, 1)])
    assert future.result(30).result == 2
    batcher.close()


def test_a_full_queue_refuses_and_what_is_taken_is_done() -> None:
    bench = Bench()
    bench.gate.clear()
    with bench.batcher(workers=1, max_rows=4, max_queue=10) as batcher:
        taken = [one(batcher, 0)]
        while not bench.batches:
            time.sleep(0.001)
        taken += [one(batcher, 2 * number) for number in range(10)]
        with pytest.raises(RefusedError, match="full") as refused:
            one(batcher, 1)
        assert refused.value.reason == "full"
        assert 1 <= refused.value.retry_after <= 60
        bench.gate.set()
        assert [future.result(30).result[0] for future in taken] == [0, *range(0, 20, 2)]
        assert one(batcher, 7).result(30).result == (7, [21])


def test_a_request_is_taken_whole_or_not_at_all_and_always_when_nothing_waits() -> None:
    bench = Bench()
    with bench.batcher(workers=1, max_queue=10) as batcher:
        assert len(batcher.submit([((0, 1), 1)] * 50)) == 50
        while batcher.waiting_rows:
            time.sleep(0.001)
        bench.gate.clear()
        batcher.submit([((0, 1), 1)])
        while batcher.waiting_rows:
            time.sleep(0.001)
        batcher.submit([((0, 1), 1)] * 9)
        with pytest.raises(RefusedError):
            batcher.submit([((0, 1), 1)] * 2)
        assert batcher.waiting_rows == 9


def test_work_that_cannot_be_done_in_time_is_refused_at_once() -> None:
    bench = Bench(seconds=0.01)
    with bench.batcher(workers=1, max_rows=1, max_wait=0, max_queue=10**6) as batcher:
        futures = [one(batcher, 0) for _ in range(40)]
        wait(futures[:10], 30)
        assert 0.008 < batcher.seconds_per_row < 0.1
        with pytest.raises(RefusedError, match="in time") as refused:
            one(batcher, 0, timeout=0.1)
        assert refused.value.reason == "late"
        assert one(batcher, 1, timeout=60).result(30).result == (1, [3])


def test_a_standstill_is_not_remembered_for_ever() -> None:
    """Too slow to take more than one item at a time, it would never measure again that it is fast."""
    bench = Bench(seconds=0.2)
    with bench.batcher(workers=1, max_rows=1, max_wait=0, max_queue=10**6) as batcher:
        wait([one(batcher, 0) for _ in range(5)], 30)
        assert batcher.seconds_per_row > 0.15
        bench.seconds = 0
        one(batcher, 0, timeout=0.3).result(30)
        assert batcher.seconds_per_row < 0.05
        wait([one(batcher, 0, timeout=1) for _ in range(10)], 30)


def test_work_whose_time_runs_out_while_it_waits_is_refused() -> None:
    bench = Bench()
    bench.gate.clear()
    with bench.batcher(workers=1) as batcher:
        first = one(batcher, 0)
        while not bench.batches:
            time.sleep(0.001)
        late, patient = one(batcher, 2, timeout=0.01), one(batcher, 4)
        time.sleep(0.05)
        bench.gate.set()
        assert isinstance(late.exception(30), RefusedError)
        assert (first.result(30).result[0], patient.result(30).result[0]) == (0, 4)


def test_what_could_not_be_inferred_and_brought_back_in_time_is_not_begun() -> None:
    bench = Bench(seconds=0.97)
    with bench.batcher(workers=1, lanes=1, max_rows=1) as batcher:
        first, second = one(batcher, 1), one(batcher, 2, timeout=1.0)
        assert first.result(30).result[0] == 1
        with pytest.raises(RefusedError) as refused:
            second.result(30)
    assert refused.value.reason == "late"
    assert len(bench.batches) == 1


def test_cancelled_work_is_not_done() -> None:
    bench = Bench()
    bench.gate.clear()
    with bench.batcher(workers=1, max_rows=1) as batcher:
        first = one(batcher, 0)
        while not bench.batches:
            time.sleep(0.001)
        unwanted = [one(batcher, 2) for _ in range(5)]
        wanted = one(batcher, 4)
        assert all(future.cancel() for future in unwanted)
        bench.gate.set()
        assert (first.result(30).result[0], wanted.result(30).result[0]) == (0, 4)
        assert batcher.waiting_rows == 0
    assert bench.batches == [1, 1]


@pytest.mark.parametrize("lanes", [1, 2])
def test_closing_finishes_what_was_taken_and_takes_nothing_more(lanes: int) -> None:
    bench = Bench(seconds=0.002)
    batcher = Batcher(bench.prepare, bench.infer, bench.finish, workers=4, lanes=lanes, max_queue=10**6)
    futures = [one(batcher, number) for number in range(100)]
    batcher.close()
    assert [future.result(0).result[0] for future in futures] == list(range(100))
    with pytest.raises(RefusedError, match="nothing more"):
        one(batcher, 1)
    batcher.close()


def test_senseless_limits_are_refused() -> None:
    for options in ({"workers": 0}, {"lanes": 0}, {"max_rows": 0}, {"max_queue": 0}, {"max_wait": -1}):
        with pytest.raises(UsageError):
            Batcher(lambda item: item, lambda rows, alone: rows, lambda item, rows, inferred: item, **options)
