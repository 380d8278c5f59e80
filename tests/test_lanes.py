"""The path of pictures through models: how lanes take turns, and what they take; who uses it tests order and errors."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_infer.errors import PictureError
from resnet_infer.lanes import run_lanes

LANES = 2
SHORT, LONG = 0.04, 0.4
"""Seconds."""


def run(items: Iterable[Any], prepare: Callable[[Any], Any], infer_seconds: Callable[[Any], float]) -> Iterator[Any]:
    """One item at a time through the lanes."""

    def infer(batch: Sequence[tuple[Any, Any]]) -> list[Any]:
        time.sleep(infer_seconds(batch[0][0]))
        return [item for item, _ in batch]

    return run_lanes(items, prepare, infer, lanes=LANES, batch_size=1)


def test_lanes_prepare_one_after_the_other_where_that_is_enough() -> None:
    together, lock = threading.Barrier(LANES), threading.Lock()
    inside = 0
    beside: dict[int, int] = {}

    def prepare(item: int) -> int:
        nonlocal inside
        if item < LANES:
            together.wait(timeout=20)  # of the first ones nothing is known; the next ones come at the same time too
            time.sleep(SHORT)
            return item
        with lock:
            beside[item] = inside
            inside += 1
        time.sleep(SHORT)
        with lock:
            inside -= 1
        return item

    count = 8
    assert list(run(range(count), prepare, lambda item: LONG)) == list(range(count))
    assert not any(beside.values())


def test_lanes_do_not_wait_where_one_cannot_prepare_enough() -> None:
    both = threading.Barrier(LANES)

    def prepare(item: int) -> int:
        both.wait(timeout=20)
        time.sleep(LONG)
        return item

    assert list(run(range(6), prepare, lambda item: 0)) == list(range(6))


def test_lanes_that_took_turns_stop_waiting_when_pictures_become_larger() -> None:
    small, count = 4, 8
    both = threading.Barrier(LANES)

    def prepare(item: int) -> int:
        if item >= small:
            both.wait(timeout=20)
        time.sleep(SHORT if item < small else LONG)
        return item

    assert list(run(range(count), prepare, lambda item: LONG if item < small else 0)) == list(range(count))


@pytest.mark.parametrize(("count", "largest"), [(2000, 32), (24, 8), (5, 3)])
def test_lanes_take_few_items_at_first_and_for_the_last_ones_too(count: int, largest: int) -> None:
    sizes: dict[int, int] = {}

    def infer(batch: Sequence[tuple[int, int]]) -> list[int]:
        sizes[batch[0][0]] = len(batch)
        return [item for item, _ in batch]

    assert list(run_lanes(range(count), lambda item: item, infer, lanes=LANES, batch_size=32)) == list(range(count))
    assert max(sizes.values()) == largest
    assert sizes[0] == min(largest, 8)


def test_items_are_let_go_of_when_they_are_answered() -> None:
    class Item:
        pass

    made: list[weakref.ref[Item]] = []

    def items() -> Iterator[Item]:
        for _ in range(400):
            item = Item()
            made.append(weakref.ref(item))
            yield item

    def infer(batch: Sequence[tuple[Item, int]]) -> list[int]:
        return [0 for _ in batch]

    stream = run_lanes(items(), lambda item: 0, infer, lanes=LANES, batch_size=8)
    for _ in range(300):
        next(stream)
    assert not any(reference() for reference in made[:100])
    stream.close()


class LostError(Exception):
    pass


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 60),
    lanes=st.integers(1, 4),
    batch_size=st.integers(1, 40),
    rows=st.sampled_from([1, 10]),
    unreadable=st.sets(st.integers(0, 59), max_size=20),
    where=st.sampled_from(["source", "prepare"]),
)
def test_answers_before_an_error_are_given_before_it(
    count: int, lanes: int, batch_size: int, rows: int, unreadable: set[int], where: str
) -> None:
    def items() -> Iterator[int]:
        for number in range(100):
            if where == "source" and number == count:
                raise LostError
            yield number

    def prepare(item: int) -> int | PictureError:
        if where == "prepare" and item == count:
            raise LostError
        return PictureError(str(item)) if item in unreadable else item

    def infer(batch: Sequence[tuple[int, int | PictureError]]) -> list[int]:
        return [item for item, _ in batch]

    answers = []
    with pytest.raises(LostError):
        answers.extend(run_lanes(items(), prepare, infer, lanes=lanes, rows=rows, batch_size=batch_size, workers=2))
    assert answers == list(range(count))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 40), lanes=st.integers(1, 3), batch_size=st.integers(1, 16), taken=st.integers(0, 40))
def test_an_interrupt_of_the_source_begins_nothing_new_and_is_never_lost(
    count: int, lanes: int, batch_size: int, taken: int
) -> None:
    inferred: list[int] = []

    def items() -> Iterator[int]:
        yield from range(count)
        raise KeyboardInterrupt

    def infer(batch: Sequence[tuple[int, int]]) -> list[int]:
        inferred.extend(item for item, _ in batch)
        return [item for item, _ in batch]

    stream = run_lanes(items(), lambda item: item, infer, lanes=lanes, batch_size=batch_size, workers=2)
    answers: list[int] = []
    interrupted = False
    try:
        for answer in stream:
            answers.append(answer)
            if len(answers) == taken:
                break
    except KeyboardInterrupt:
        interrupted = True
        assert answers == sorted(inferred)  # all that was inferred is given
    assert answers == list(range(len(answers)))
    if not interrupted:
        assert len(answers) == taken
        with suppress(KeyboardInterrupt):
            stream.close()
