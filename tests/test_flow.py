"""The path of pictures through models: how lanes take turns; order, memory and errors are tested by who uses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from resnet_infer.flow import flow

LANES = 2
COUNT = 16
SHORT, LONG = 0.001, 0.05
"""Seconds."""


def run(prepare: Callable[[int], int], infer_seconds: float) -> list[int]:
    def infer(batch: Sequence[tuple[int, Any]]) -> list[int]:
        time.sleep(infer_seconds)
        return [item for item, _ in batch]

    return list(flow(range(COUNT), prepare, infer, lanes=LANES, batch_size=1))


def test_lanes_prepare_one_after_the_other_where_that_is_enough() -> None:
    lock = threading.Lock()
    inside = 0
    beside: dict[int, int] = {}

    def prepare(item: int) -> int:
        nonlocal inside
        with lock:
            beside[item] = inside
            inside += 1
        time.sleep(SHORT)  # for the other lane to come in, if it may
        with lock:
            inside -= 1
        return item

    assert run(prepare, LONG) == list(range(COUNT))
    # Of the first ones nothing is known yet.
    assert not any(beside[item] for item in range(LANES, COUNT))


def test_lanes_do_not_wait_where_one_cannot_prepare_enough() -> None:
    both = threading.Barrier(LANES)

    def prepare(item: int) -> int:
        both.wait(timeout=20)
        time.sleep(LONG)
        return item

    assert run(prepare, 0) == list(range(COUNT))


def test_a_lane_whose_preparation_fails_lets_the_other_go_on() -> None:
    done = []

    def prepare(item: int) -> int:
        if item == COUNT // 2:
            raise RuntimeError("broken")
        done.append(item)
        return item

    with pytest.raises(RuntimeError, match="broken"):
        run(prepare, LONG)
    assert done[-1] > COUNT // 2
