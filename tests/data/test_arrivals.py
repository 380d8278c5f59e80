"""Items that keep their reader waiting: what has come is handed on, in order, and nothing is lost or left behind."""

from __future__ import annotations

import contextvars
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_infer.data.arrivals import Arriving, live_map
from resnet_infer.lanes import run_lanes
from resnet_infer.utils.parallel import Quiet


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "arriving"]


@settings(max_examples=30, deadline=None)
@given(
    pauses=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.07]), max_size=12),
    limit=st.integers(1, 20),
    fails=st.booleans(),
)
def test_all_items_come_in_their_order_whenever_they_come(pauses: list[float], limit: int, fails: bool) -> None:
    def source() -> Iterator[int]:
        for number, pause in enumerate(pauses):
            time.sleep(pause)
            yield number
        if fails:
            raise OSError("gone")

    found: list[int] = []
    with closing(Arriving(source(), limit)) as arriving:
        try:
            found.extend(item for item in arriving if not isinstance(item, Quiet))
            assert not fails
        except OSError:
            assert fails
    assert found == list(range(len(pauses)))
    assert not readers()


@pytest.mark.parametrize("limit", [1, 3, 16])
def test_no_more_is_read_ahead_than_promised(limit: int) -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    with closing(Arriving(endless(), limit)) as arriving:
        assert taken == 0
        for given_out in range(1, 200):
            assert isinstance(next(arriving), int)
            assert taken - given_out <= limit + 1  # one may be taken and not yet laid down
    assert not readers()


def test_quiet_comes_once_and_not_before_anything_has_come() -> None:
    go = threading.Event()

    def source() -> Iterator[int]:
        time.sleep(0.2)
        yield 1
        go.wait(20)
        yield 2

    with closing(Arriving(source())) as arriving:
        assert [next(arriving), next(arriving)] == [1, Quiet.QUIET]
        threading.Timer(0.2, go.set).start()
        assert [next(arriving), next(arriving, None)] == [2, None]


def test_a_source_that_is_faster_than_its_reader_is_never_quiet() -> None:
    with closing(Arriving(iter(range(100)), 4)) as arriving:
        for number in range(100):
            time.sleep(0.003)
            assert next(arriving) == number


Streams = Callable[[Iterator[int]], Iterator[int]]
STREAMS: dict[str, Streams] = {
    "map": lambda items: live_map(lambda item: item, items, workers=4, ahead=8),
    **{
        f"{lanes} lanes, {rows} rows, batches of {size}": (
            lambda items, lanes=lanes, rows=rows, size=size: run_lanes(
                items,
                lambda item: item,
                lambda batch: [item for item, _ in batch],
                lanes=lanes,
                rows=rows,
                batch_size=size,
                live=True,
            )
        )
        for lanes in (1, 2, 3)
        for rows in (1, 10)
        for size in (1, 32)
    },
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_source_that_waits_for_each_answer_has_it(name: str) -> None:
    answers: queue.Queue[int] = queue.Queue()

    def source() -> Iterator[int]:
        for number in range(5):
            yield number
            assert answers.get(timeout=20) == number

    stream = STREAMS[name](source())
    for number in range(5):
        assert next(stream) == number
        answers.put(number)
    assert next(stream, None) is None
    assert not readers()


SOME = ("map", "1 lanes, 1 rows, batches of 32", "2 lanes, 1 rows, batches of 32")


@pytest.mark.parametrize("name", SOME)
def test_the_answer_comes_long_before_the_next_picture(name: str) -> None:
    sent: list[float] = []

    def camera() -> Iterator[int]:
        for number in range(3):
            sent.append(time.monotonic())
            yield number
            time.sleep(0.8)

    late = sorted(time.monotonic() - sent[number] for number in STREAMS[name](camera()))
    assert late[1] < 0.5  # of the three, so that a busy machine may stumble once


@pytest.mark.parametrize("name", SOME)
def test_a_quick_camera_is_answered_before_its_batch_is_full(name: str) -> None:
    sent: list[float] = []

    def camera() -> Iterator[int]:
        for number in range(60):
            sent.append(time.monotonic())
            yield number
            time.sleep(0.02)

    late = sorted(time.monotonic() - sent[number] for number in STREAMS[name](camera()))
    assert late[len(late) * 3 // 4] < 0.3


def test_closing_does_not_wait_for_what_does_not_come() -> None:
    never = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        never.wait(20)
        yield 2

    stream = STREAMS["map"](source())
    assert next(stream) == 1
    begin = time.monotonic()
    stream.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begin < 5
    never.set()
    for thread in readers():
        thread.join(20)
    assert not readers()


def test_an_interrupt_of_the_source_is_raised_by_closing_too() -> None:
    go = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        go.wait(20)
        raise SystemExit(7)

    arriving = Arriving(source())
    assert next(arriving) == 1
    go.set()
    for thread in readers():
        thread.join(20)
    with pytest.raises(SystemExit):
        arriving.close()
    arriving.close()  # once is enough


def test_the_source_has_the_context_of_who_reads_it() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("mine")

    def source() -> Iterator[str]:
        yield variable.get()

    with closing(Arriving(source())) as arriving:
        assert list(arriving) == ["mine"]


def test_a_program_ends_although_its_camera_does_not() -> None:
    code = """
import time
from resnet_infer.data.arrivals import live_map
def camera():
    yield 1
    time.sleep(300)
stream = live_map(abs, camera(), workers=2, ahead=4)
print(next(stream))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
