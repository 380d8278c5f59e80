"""Ratios with their intervals, and what calls are summed up to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.benchmarking.latency.statistics import Summary, outer_rank, paired_ratio

TIMES = st.lists(st.tuples(st.floats(1e-6, 10), st.floats(1e-6, 10)), min_size=1, max_size=40)


@given(TIMES, st.floats(0.1, 10))
def test_a_ratio_is_paired_and_lies_in_its_interval(pairs: list[tuple[float, float]], drift: float) -> None:
    ours, theirs = (list(times) for times in zip(*pairs, strict=True))
    found = paired_ratio(ours, theirs)
    assert found.pairs == len(pairs)
    assert (found.interval is None) == (len(pairs) < 6)
    if found.interval:
        assert found.interval[0] <= found.value <= found.interval[1]
    # What slows both down in a round, however much, changes nothing.
    slower = paired_ratio(
        [time * drift for time in ours[:1]] + ours[1:], [time * drift for time in theirs[:1]] + theirs[1:]
    )
    assert slower.value == pytest.approx(found.value)


def test_the_interval_holds_the_median_95_times_of_100() -> None:
    """Of a skewed distribution, whose median is 1."""
    generator = np.random.default_rng(0)
    for count in (6, 9, 20, 41):
        samples = np.exp(generator.exponential(size=(4000, count)) - np.log(2))
        found = [paired_ratio(sample, [1.0] * count).interval or (0.0, 0.0) for sample in samples]
        share = np.mean([low <= 1 <= high for low, high in found])
        assert 0.94 < share < 0.985, count


def test_known_ranks() -> None:
    """Those of printed tables for the sign test: 6 pairs take the extremes, 20 the sixth from either end."""
    assert [outer_rank(count) for count in (5, 6, 8, 9, 20, 50)] == [None, 0, 0, 1, 5, 17]


def test_rounds_that_only_one_was_in_do_not_count() -> None:
    assert paired_ratio([2.0, 9.0], [1.0]).pairs == 1
    assert paired_ratio([2.0, 9.0], [1.0]).value == 2


def test_a_summary_knows_how_much_it_can_say() -> None:
    few = Summary((np.full(5, 0.010), np.full(4, 0.030)), batch=8)
    assert few.to_json()["ms"] == {
        "p50": 10,
        "p90": None,
        "p99": None,
        "mean": pytest.approx(170 / 9),
        "min": 10,
        "max": 30,
    }
    many = Summary((np.arange(1, 10_001) / 1e4,), batch=1)
    found = many.to_json()
    assert found["ms"]["p90"] == pytest.approx(900, rel=1e-3)
    assert found["ms"]["p99"] == pytest.approx(990, rel=1e-3)
    assert len(found["quantiles_ms"]) == 101
    assert found["quantiles_ms"] == sorted(found["quantiles_ms"])


def test_slow_calls_count_in_the_throughput_as_long_as_they_took() -> None:
    found = Summary((np.array([0.1] * 9), np.array([1.1])), batch=4)
    assert found.pictures_per_second == pytest.approx(40 / 2.0)
    assert found.median == pytest.approx(0.1)


def test_the_spread_is_that_of_the_rounds() -> None:
    steady = Summary(tuple(np.array([0.1, 0.1, 0.5]) for _ in range(8)), batch=1)
    assert steady.spread == 0
    drifting = Summary(tuple(np.full(3, 0.1 + 0.01 * number) for number in range(9)), batch=1)
    assert drifting.spread == pytest.approx(0.04 / 0.14)
