"""The sweep's interval holds the true rate, which for a queue with random arrivals and even service is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_infer.benchmarking.load.lateness import ALLOWED, Late, crossing, dispersion, within
from resnet_infer.benchmarking.load.loops import Load, open_loop
from resnet_infer.benchmarking.load.rate_sweep import LENGTHENED, RUNS, WIDTH, SweepResult, judge, sweep
from tests.benchmarking.simulated import Queue, SimulatedClock

SERVICE = 0.005
BOUNDS = (0.015, 0.025, 0.050)
"""Seconds of service, one query after the other, and bounds on the whole time in the system."""
SECONDS = 5.0
SHARES = (0.5, 0.9, 0.97, 1.0)


class Swept(NamedTuple):
    """What a sweep found: queries a second, and how long it took."""

    low: float
    rate: float
    high: float
    seconds: float


def late_share(rate: float, bound: float) -> float:
    """Of a queue M/D/1 in equilibrium: P(waiting + service > bound), by Erlang's and Crommelin's formula.

    P(W <= t) = (1 - rho) sum over j from 0 to floor(t / D) of (-x)^j e^x / j!, with x = rate (t - j D) (Crommelin,
    Post Office Electrical Engineers' Journal 25, 1932). Its terms alternate and are large: 60 digits.
    """
    with localcontext() as context:
        context.prec = 60
        load, service, wait = Decimal(rate), Decimal(str(SERVICE)), Decimal(str(bound)) - Decimal(str(SERVICE))
        total = Decimal(0)
        for number in range(int(wait / service) + 1):
            x = load * (wait - number * service)
            total += x.exp() * math.prod((-x / divisor for divisor in range(1, number + 1)), start=Decimal(1))
        return float(1 - (1 - load * service) * total)


def truth(bound: float) -> float:
    """The rate at which one query in a hundred takes longer, by bisection."""
    low, high = 0.001 / SERVICE, 0.999 / SERVICE
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if late_share(middle, bound) <= ALLOWED else (low, middle)
    return low


def simulate(service: float, rate: float, seconds: float, seed: int) -> Load:
    clock = SimulatedClock()
    return open_loop(
        Queue(clock, service), [b"picture"], rate=rate, seconds=seconds, seed=seed, patience=1e6, clock=clock
    )


def found(service: float, bound: float, capacity: float, number: int = 0, **more: Any) -> SweepResult:
    return sweep(
        lambda rate, seconds, seed: simulate(service, rate, seconds, 1000 * number + seed),
        bound,
        capacity=capacity,
        seconds=SECONDS,
        **more,
    )


def test_the_formula_is_that_of_the_queue_of_the_simulation() -> None:
    """Known by hand: nobody waits with probability 1 - rho; and against a long simulation."""
    assert late_share(100, SERVICE) == pytest.approx(0.5)
    rate = truth(0.025)
    assert rate == pytest.approx(112.2, abs=0.1)
    load = simulate(SERVICE, rate, 400, seed=3)
    assert np.mean(np.array(load.latencies[200]) > 0.025) == pytest.approx(ALLOWED, rel=0.25)


def swept(bound: float, numbers: Iterable[int]) -> Iterator[Swept]:
    """So many sweeps, with guesses of the capacity up to 15% below it."""
    for number in numbers:
        result = found(SERVICE, bound, (1 - 0.15 * (number % 10) / 9) / SERVICE, number)
        assert result.crossing is not None
        assert result.runs >= RUNS
        assert result.crossing.width <= WIDTH or result.seconds >= LENGTHENED * RUNS * SECONDS
        low, high = result.crossing.low or 0.0, result.crossing.high or math.inf
        yield Swept(low, result.crossing.rate, high, result.seconds)


def test_the_interval_holds_the_true_rate() -> None:
    """A few sweeps; hundreds of them are below."""
    held = [line.low <= truth(bound) <= line.high for bound in BOUNDS for line in swept(bound, range(4))]
    assert sum(held) >= 11


@pytest.mark.slow
@pytest.mark.parametrize("bound", BOUNDS)
def test_the_interval_holds_the_true_rate_95_times_of_100(bound: float) -> None:
    lines, rate = np.array(list(swept(bound, range(200)))), truth(bound)
    low, estimates, high, seconds = lines.T
    held = np.mean((low <= rate) & (rate <= high))
    widths = (high - low) / rate
    print(
        f"\n{1000 * bound:g} ms: {rate:.1f}/s, held by {held:.1%}, a low end in {np.mean(low > 0):.1%}; "
        f"half, 90%, 97% and all of the widths to {np.quantile(widths, SHARES)}, of the seconds to "
        f"{np.quantile(seconds, SHARES)}, of the errors to {np.quantile(abs(estimates / rate - 1), SHARES)}"
    )
    assert held >= 0.93
    assert np.median(estimates) == pytest.approx(rate, rel=0.03)
    assert np.mean(widths <= 0.25) >= 0.97


@pytest.mark.parametrize("number", [1009, 1060, 1073])
def test_a_few_late_queries_do_not_lead_astray(number: int) -> None:
    """These began as if the share of late queries hardly rose with the rate: the next rates must not be far off."""
    (line,) = swept(0.015, [number])
    assert line.high - line.low <= 0.25 * truth(0.015)


def test_a_sweep_ends_though_its_interval_is_wide() -> None:
    for lengthened in (1, 2):
        result = found(SERVICE, 0.015, 1 / SERVICE, runs=12, lengthened=lengthened)
        assert result.crossing is not None
        assert result.crossing.width > WIDTH
        longest = max(trial.load.seconds for trial in result.trials)
        assert result.runs == 12 or result.seconds <= lengthened * 12 * SECONDS + longest
        assert (result.runs > 12) == (lengthened > 1)


@pytest.mark.parametrize("guess", [3.0, 0.3])
def test_the_guess_at_the_capacity_may_be_wrong(guess: float) -> None:
    result = found(SERVICE, 0.025, guess / SERVICE)
    assert result.crossing is not None
    assert (result.crossing.low or 0) <= truth(0.025) <= (result.crossing.high or math.inf)


def test_a_bound_below_the_service_time_is_never_kept() -> None:
    result = found(0.01, 0.005, 100)
    assert result.crossing is None
    assert all(trial.within is False for trial in result.trials)


def steps(edge: float, *, failing: float = math.inf) -> SweepResult:
    """Of a system that keeps a second up to a rate and nothing above it; above `failing` some are refused."""

    def run(rate: float, seconds: float, seed: int) -> Load:
        load = Load(seconds=seconds, offered=round(rate * seconds))
        for number in range(load.offered):
            load.add(503 if rate > failing and number % 500 == 0 else 200, 0.1 if rate <= edge else 2.0, "full")
        return load

    return sweep(run, 1.0, capacity=90, seconds=5)


@settings(deadline=None, max_examples=6)
@given(st.floats(10, 300))
def test_an_edge_lies_in_the_interval(edge: float) -> None:
    where = steps(edge).crossing
    assert where is not None
    assert where.low is not None
    assert where.high is not None
    assert where.low <= edge * 1.02
    assert where.high >= edge / 1.02
    assert where.high <= 1.5 * where.low


def test_a_rate_at_which_queries_fail_is_too_high() -> None:
    result = steps(1000, failing=60)
    assert result.crossing is not None
    assert result.crossing.rate < 63
    assert all(trial.within is False for trial in result.trials if trial.rate > 60)


def test_what_keeps_the_bound_at_every_rate_has_no_crossing() -> None:
    result = steps(math.inf)
    assert result.crossing is None
    assert all(trial.within for trial in result.trials)


def test_the_sweep_ends_when_the_system_is_gone() -> None:
    result = sweep(lambda rate, seconds, seed: Load(offered=1, gone=True), 1, capacity=100, seconds=1)
    assert result.crossing is None
    assert result.runs == 1
    assert result.gone


def measured(rate: float, late: int, of: int = 1000) -> tuple[float, Load]:
    load = Load(seconds=of / rate, offered=of)
    for number in range(of):
        load.add(200, 1.0 if number % (of // max(late, 1)) == 0 and number < of // max(late, 1) * late else 0.1)
    return rate, load


def test_a_higher_rate_that_measured_better_is_named() -> None:
    trials = [judge(rate, load, 0.5) for rate, load in (measured(50, 20), measured(60, 5), measured(70, 40))]
    pairs = list(SweepResult(None, tuple(trials), 3).reversals())
    assert [(lower.rate, higher.rate) for lower, higher in pairs] == [(50, 60)]


def independent(late: int, queries: int, batches: int = 20) -> Late:
    """Late queries spread evenly."""
    sizes = [len(part) for part in np.array_split(np.arange(queries), batches)]
    counts = [len(part) for part in np.array_split(np.arange(late), batches)]
    return Late(np.array(sizes, float), np.array(counts, float), np.array(sizes, float) / 10)


@pytest.mark.parametrize(
    ("late", "queries", "expected"),
    [
        # Binomial tables: with 1% late, P(0 of 367) = 0.02502 and P(0 of 368) = 0.0248; P(5 or more of 160) = 0.024.
        (0, 367, None),
        (0, 368, True),
        (4, 160, None),
        (5, 160, False),
        (10, 1000, None),
    ],
)
def test_a_verdict_is_the_binomial_test(late: int, queries: int, expected: bool | None) -> None:
    assert within(independent(late, queries), 1.0) is expected


@given(st.integers(0, 60), st.integers(100, 5000), st.floats(1, 30))
def test_more_late_queries_are_never_a_better_verdict(late: int, queries: int, spread: float) -> None:
    order = {True: 2, None: 1, False: 0}
    verdicts = [order[within(independent(count, queries), spread)] for count in (late, late + 1)]
    assert verdicts[0] >= verdicts[1]


def clumped(size: int, clumps: Sequence[int], queries: int = 4000) -> list[float]:
    values = np.full(queries, 0.1)
    for clump in clumps:
        values[clump : clump + size] = 1.0
    return [float(value) for value in values]


def test_queries_that_are_late_together_say_less() -> None:
    """Forty late ones in a row are no surer than one; spread over the run they are forty."""
    generator = np.random.default_rng(0)
    together = Late.of(clumped(40, [1000]), 0.5, 40.0)
    apart = Late.of(clumped(1, sorted(generator.choice(4000, 40, replace=False))), 0.5, 40.0)
    assert together.late.sum() == apart.late.sum() == 40
    assert dispersion([together]) > 10
    assert dispersion([apart]) < 2.5
    near = [Late.of(clumped(40, list(range(0, 4000, 4000 // count))), 0.5, 40.0) for count in (1, 2, 4)]
    even = [Late.of(clumped(1, list(range(0, 4000, 100 // count))), 0.5, 40.0) for count in (1, 2, 4)]
    rates = (80.0, 100.0, 125.0)
    wide, narrow = (crossing(rates, trials, 100.0) for trials in (near, even))
    assert (wide.high or 1e9) - (wide.low or 0) > 1.5 * ((narrow.high or 1e9) - (narrow.low or 0))


def test_a_run_too_short_to_tell_is_undecided() -> None:
    assert judge(20, measured(20, 0, of=200)[1], 0.5).within is None
    assert judge(20, measured(20, 0, of=1000)[1], 0.5).within is True
    assert judge(20, measured(20, 100, of=1000)[1], 0.5).within is False
