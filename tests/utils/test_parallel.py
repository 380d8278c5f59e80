"""`parallel_map`: the order of `map`, in threads, never far ahead of its consumer."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_infer.utils.cpu import usable_cores
from resnet_infer.utils.parallel import parallel_map


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@settings(max_examples=40, deadline=None)
@given(
    delays=st.lists(st.sampled_from([0.0, 0.0, 0.0005, 0.002]), max_size=25),
    workers=st.integers(1, 8),
    ahead=st.integers(1, 12),
)
def test_the_order_is_that_of_the_items_whatever_each_takes(delays: list[float], workers: int, ahead: int) -> None:
    def work(item: tuple[int, float]) -> int:
        time.sleep(item[1])
        return item[0]

    found = list(parallel_map(work, enumerate(delays), workers=workers, ahead=ahead))
    assert found == list(range(len(delays)))
    assert not decoders()


def test_several_items_are_worked_on_at_once() -> None:
    meeting = threading.Barrier(3)
    assert len(list(parallel_map(lambda _: meeting.wait(timeout=20), range(3), workers=3))) == 3


@pytest.mark.parametrize("items", [[], [None], [None, None, None], [False, 0, ""]])
def test_items_may_be_anything(items: list[object]) -> None:
    assert list(parallel_map(lambda item: item, items)) == items


@settings(max_examples=30, deadline=None)
@given(ahead=st.integers(1, 20), workers=st.integers(1, 4), wanted=st.integers(1, 40))
def test_an_endless_iterator_is_read_only_as_far_as_promised(ahead: int, workers: int, wanted: int) -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = parallel_map(lambda number: number, endless(), workers=workers, ahead=ahead)
    assert taken == 0
    for given_out, result in enumerate(itertools.islice(results, wanted)):
        assert result == given_out + 1
        assert taken - given_out <= max(ahead, 2)
    results.close()


@pytest.mark.parametrize("bad", [0, 1, 7, 19])
def test_an_exception_comes_when_its_turn_comes(bad: int) -> None:
    def work(number: int) -> int:
        if number == bad:
            raise ValueError(f"number {number}")
        time.sleep(0.002)
        return number

    results = parallel_map(work, range(20), workers=4)
    assert list(itertools.islice(results, bad)) == list(range(bad))
    with pytest.raises(ValueError, match=f"^number {bad}$"):
        next(results)
    assert not decoders()


def test_the_only_item_fails_as_one_of_many_does() -> None:
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(lambda number: 1 // number, [0]))


def test_closing_early_ends_the_threads_and_drops_what_has_not_begun() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.005)
        return number

    results = parallel_map(work, itertools.count(), workers=2, ahead=50)
    assert [next(results), next(results)] == [0, 1]
    assert decoders()
    results.close()
    assert not decoders()
    assert len(begun) < 50


def test_one_item_needs_no_thread() -> None:
    workers = parallel_map(lambda _: threading.current_thread(), ["only"], workers=4)
    assert list(workers) == [threading.current_thread()]
    workers = parallel_map(lambda _: threading.current_thread(), ["first", "second"], workers=4)
    assert threading.current_thread() not in list(workers)


def test_usable_cores_bound_the_threads() -> None:
    assert usable_cores() >= 1
    seen: set[str] = set()

    def work(_: int) -> None:
        seen.add(threading.current_thread().name)
        time.sleep(0.002)

    list(parallel_map(work, range(8 * usable_cores())))
    assert 1 <= len(seen) <= usable_cores()


def test_it_may_be_nested_and_used_from_a_thread() -> None:
    """As the classifier does: batches of decoded pictures, several at a time."""

    def total(numbers: Iterator[int]) -> int:
        doubled = parallel_map(lambda number: 2 * number, numbers, workers=2, ahead=3)
        pairs = zip(*[doubled] * 2, strict=True)
        return sum(parallel_map(sum, pairs, workers=2, ahead=2))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(total, [iter(range(10)), iter(range(20))])) == [90, 380]


def test_a_result_is_given_out_as_soon_as_it_is_there() -> None:
    """A slow source does not hold back what is finished."""
    taken = 0

    def slow() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            time.sleep(0.002)
            yield number

    with closing(parallel_map(abs, slow(), workers=2, ahead=64)) as results:
        assert next(results) == 0
        assert taken <= 20


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 30), ahead=st.integers(1, 12), workers=st.integers(1, 4))
def test_an_error_of_the_items_comes_after_the_results_of_those_before_it(count: int, ahead: int, workers: int) -> None:
    def items() -> Iterator[int]:
        yield from range(count)
        raise OSError("gone")

    results = parallel_map(abs, items(), workers=workers, ahead=ahead)
    found: list[int] = []
    with pytest.raises(OSError, match="gone"):
        found.extend(results)
    assert found == list(range(count))
    assert not decoders()


def test_an_interrupt_of_the_items_ends_the_work_and_is_raised_even_if_the_stream_is_closed_first() -> None:
    go = threading.Event()

    def items() -> Iterator[int]:
        yield from range(20)
        threading.Timer(0.05, go.set).start()
        raise KeyboardInterrupt

    def work(number: int) -> int:
        assert go.wait(20)
        return number

    found: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        found.extend(parallel_map(work, items(), workers=2))
    assert found == [0, 1]  # what had begun
    go.clear()
    results = parallel_map(work, items(), workers=2)
    assert next(results) == 0
    with pytest.raises(KeyboardInterrupt):
        results.close()
    assert not decoders()
