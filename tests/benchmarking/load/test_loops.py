"""Closed and open loops count every query, and every moment that it waited."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_infer.benchmarking.load.loops import GIVE_UP, Load, arrivals, closed_loop, open_loop
from resnet_infer.benchmarking.load.system import OnResponse, Response
from resnet_infer.errors import UsageError
from tests.benchmarking.simulated import Queue, SimulatedClock

PICTURES = [b"picture"]


@settings(deadline=None, max_examples=40)
@given(st.floats(5, 200), st.floats(0.001, 0.02), st.integers(0, 1000), st.booleans())
def test_latencies_are_those_of_the_queue(rate: float, service: float, seed: int, poisson: bool) -> None:
    clock = SimulatedClock()
    load = open_loop(
        Queue(clock, service), PICTURES, rate=rate, seconds=5, poisson=poisson, seed=seed, patience=100, clock=clock
    )
    due = arrivals(rate, 5, seed) if poisson else [number / rate for number in range(load.offered)]
    # Lindley's recursion.
    expected, free = [], 0.0
    for moment in due:
        free = max(free, moment) + service
        expected.append(free - moment)
    assert load.offered == len(due) == load.statuses[200]
    np.testing.assert_allclose(load.latencies[200], expected, atol=1e-9)


def test_arrivals_are_a_poisson_process() -> None:
    gaps = np.diff(arrivals(1000, 100, seed=1))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(1e-3, rel=0.02)  # as of an exponential distribution
    assert arrivals(1000, 100, seed=1) != arrivals(1000, 100, seed=2)
    assert max(arrivals(1000, 100, seed=1)) < 100
    counts = [len(arrivals(100, 1, seed)) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(100, abs=2)
    assert np.var(counts) == pytest.approx(100, rel=0.25)  # the number of queries is Poisson's too


class Blocking(Queue):
    """`submit` itself stands still, so that the sender comes late to all that is due in the meantime."""

    def submit(self, pictures: Sequence[bytes], on_response: OnResponse) -> None:
        if self.stall[0] <= self.clock.now() < self.stall[1]:
            self.clock.block(self.stall[1] - self.clock.now())
        self.stall = (0.0, 0.0) if self.clock.now() >= self.stall[1] else self.stall
        super().submit(pictures, on_response)


@pytest.mark.parametrize("kind", [Queue, Blocking])
def test_a_stall_is_seen_by_every_query_that_was_due(kind: type[Queue]) -> None:
    """A second of standstill at 100/s is a hundred late queries, whether the system or the sender stands still."""
    clock = SimulatedClock()
    load = open_loop(kind(clock, 0.001, stall=(2.0, 3.0)), PICTURES, rate=100, seconds=5, poisson=False, clock=clock)
    late = [latency for latency in load.latencies[200] if latency > 0.01]
    assert len(late) == pytest.approx(100, abs=15)
    # They are spread over the second: what came last waited least.
    assert np.mean(late) == pytest.approx(0.5, abs=0.1)
    assert load.percentile(0.99) > 0.9


def test_a_closed_loop_hides_a_stall() -> None:
    """Which is why its latencies are not those of an open loop."""
    clock = SimulatedClock()
    load = closed_loop(Queue(clock, 0.01, stall=(2.0, 3.0)), PICTURES, clients=1, seconds=5, clock=clock)
    assert sum(latency > 0.02 for latency in load.latencies[200]) == 1
    assert load.percentile(0.99) < 0.02


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 200))
def test_a_closed_loop_has_so_many_in_progress(clients: int, count: int) -> None:
    clock = SimulatedClock()
    queue = Queue(clock, 0.01)
    load = closed_loop(queue, PICTURES, clients=clients, count=count, clock=clock)
    assert load.offered == load.statuses[200] == count
    assert queue.most == min(clients, count)
    assert load.rate == pytest.approx(100)


class AtOnce(Queue):
    def submit(self, pictures: Sequence[bytes], on_response: OnResponse) -> None:
        on_response(0, Response(self.status, error="refused"))


def test_answers_within_the_call_do_not_nest() -> None:
    load = closed_loop(AtOnce(SimulatedClock(), 0), PICTURES, clients=3, count=20_000)
    assert load.statuses == {200: 20_000}


def test_refusals_are_failures_and_count_against_the_percentile() -> None:
    clock = SimulatedClock()
    load = open_loop(Queue(clock, 0.001, status=503), PICTURES, rate=50, seconds=2, clock=clock)
    assert load.statuses == {503: load.offered}
    assert load.errors == {"not now": load.offered}
    assert load.percentile(0.5) == float("inf")
    found = load.to_json()
    assert (found["p99_ms"], found["errors"], found["achieved"]) == (None, load.offered, 0)


def test_the_percentile_is_over_all_queries() -> None:
    load = Load(seconds=1, offered=100)
    for number in range(98):
        load.add(200, number / 100)
    load.add(503, 0.0, "full")
    load.add(503, 0.0, "full")
    assert load.percentile(0.98) == 0.97
    assert load.percentile(0.99) == float("inf")
    assert load.percentile(0.5) == 0.49


@given(st.integers(1, 3000))
def test_a_percentile_is_shown_where_a_query_lies_beyond_it(count: int) -> None:
    load = Load(seconds=1, offered=count)
    for number in range(count):
        load.add(200, (number + 1) / 1000)
    found = load.to_json()
    for name, share in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p99_9_ms", 0.999)):
        assert (found[name] is not None) == (round(count * (1 - share), 6) >= 1), name
        assert found[name] is None or found[name] < found["max_ms"]


def test_what_is_not_answered_in_time_has_failed() -> None:
    clock = SimulatedClock()
    queue = Queue(clock, 1.0)
    load = open_loop(queue, PICTURES, rate=10, seconds=10, poisson=False, patience=5, clock=clock)
    assert load.offered == 100
    assert load.statuses[200] == 15
    assert load.statuses[0] == load.failures == 85
    assert load.errors == {"no answer until the end": 85}
    assert queue.dropped
    assert load.seconds == 15


def test_a_system_that_is_gone_ends_the_load() -> None:
    clock = SimulatedClock()
    load = open_loop(Queue(clock, 0.0, status=0), PICTURES, rate=100, seconds=1000, clock=clock)
    assert load.gone
    assert GIVE_UP <= load.offered <= GIVE_UP + 2
    silent = closed_loop(AtOnce(SimulatedClock(), 0, status=0), PICTURES, clients=2, seconds=1000)
    assert silent.gone
    assert silent.offered == GIVE_UP


def test_a_closed_loop_that_is_never_answered_ends() -> None:
    clock = SimulatedClock()
    queue = Queue(clock, 1e9)
    load = closed_loop(queue, PICTURES, clients=2, seconds=10, patience=5, clock=clock)
    assert load.failures == 2
    assert queue.dropped


@pytest.mark.parametrize("wrong", [{"rate": 0.0, "seconds": 1.0}, {"rate": 1.0, "seconds": 0.0}])
def test_a_load_that_is_none(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        open_loop(Queue(SimulatedClock(), 1), PICTURES, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        closed_loop(Queue(SimulatedClock(), 1), PICTURES, clients=0, seconds=1)
