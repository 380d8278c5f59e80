"""Which tests `make quick` runs: those that start no process and no browser and compute little.

What starts a process is found in the tests themselves: a test is looked through with the fixtures and the helpers of
`tests` that it uses. `tests/conftest.py` fails a test that is marked quick and starts one after all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

LEFT_OUT = {
    "api/test_functions.py": "models that are trained, exported and put under load",
    "benchmarking/latency": "processes that measure",
    "benchmarking/load": "loads for seconds, LoadGen in a process",
    "benchmarking/test_autotune.py": "exports in every precision, timed in processes",
    "benchmarking/test_candidates.py": "processes that measure",
    "benchmarking/test_environment.py": "programs that are asked for their versions",
    "benchmarking/test_scenarios.py": "LoadGen in a process",
    "cli/commands": "commands with models and data",
    "cli/doctor": "processes that import every package",
    "cli/test_shown.py": "commands with models and data",
    "converters": "models imported, exported and calibrated",
    "data/test_archive.py": "archives of many pictures",
    "data/test_arrivals.py": "streams that wait",
    "evaluation": "data sets by every protocol",
    "hosts": "real hosts, in an environment of their own",
    "models/weights/test_cache.py": "exports",
    "parity": "networks of torchvision and timm",
    "runtimes/test_pytorch.py": "modules that torch compiles",
    "runtimes/test_reopening.py": "processes that open a model",
    "runtimes/tensorrt": "TensorRT's bindings",
    "serving/http/test_deadlines.py": "seconds that a deadline takes",
    "serving/http/test_hostile.py": "a server for each test",
    "serving/http/test_protocol.py": "a server for each test",
    "serving/test_client.py": "a server for each test",
    "serving/test_concurrency.py": "hundreds of requests",
    "selection/test_select.py": "runtimes that are opened and compared, processes that compare at once",
    "serving/test_keys.py": "a server for each test",
    "test_answers.py": "calls that take too long",
    "test_classifier.py": "models that answer",
    "test_doctests.py": "models that are trained, exported and timed",
    "test_formats.py": "commands with models and data, and a run",
    "test_gpu_program.py": "the steps of a program, a process each",
    "test_kept_errors.py": "every error of the package",
    "test_new_architecture.py": "networks that are exported, quantised and trained",
    "test_odd_streams.py": "processes that measure and load pictures",
    "test_packaging.py": "a wheel, and PyInstaller's processes",
    "test_zoo.py": "exports",
    "test_zoo_published.py": "exports",
    "training": "runs that train, some with worker processes",
    "utils/test_inputs.py": "commands with models and data",
    "verification/test_parity.py": "networks of the paper, layer by layer in float64",
}
"""Path below tests/, of a file or a folder -> what its tests start, or spend seconds with."""
STARTS = {"subprocess", "multiprocessing", "Popen", "ProcessPoolExecutor", "fork", "posix_spawn", "forkpty"}
"""Names that start processes, of modules and functions."""
FIXTURES = {"browser", "pytester"}
"""Fixtures that start processes."""
TESTS = Path(__file__).parent
EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}
"""Audit events of the interpreter that tell of a new process."""

started: list[str] = []
"""What was started by this process, ever."""


def listen() -> None:
    """Take note of every process that is started from here on."""

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS:
            started.append(f"{event} {arguments[:1]}")

    sys.addaudithook(heard)


for _left in LEFT_OUT:
    assert (TESTS / _left).exists(), f"{_left} is not in {TESTS}"


def is_left_out(path: Path) -> bool:
    """Return whether a file or folder is, or lies below, a row of `LEFT_OUT`."""
    name = path.relative_to(TESTS).as_posix()
    return any(name == left or name.startswith(f"{left}/") for left in LEFT_OUT)


def is_quick(item: pytest.Item) -> bool:
    """Return whether `make quick` runs the test."""
    if item.get_closest_marker("slow") or is_left_out(item.path):
        return False
    fixtures = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009
    if FIXTURES & fixtures.keys():
        return False
    test = getattr(item, "obj", None)
    given = getattr(getattr(test, "hypothesis", None), "inner_test", None)
    functions = [test, given, *(one.func for several in fixtures.values() for one in several)]
    return not any(isinstance(function, FunctionType) and starts_processes(function) for function in functions)


@cache
def starts_processes(function: FunctionType) -> bool:
    """Return whether a function of the tests, or one of theirs that it calls, names what starts processes."""
    seen: set[FunctionType] = set()
    left = [function]
    while left:
        one = left.pop()
        if one in seen:
            continue
        seen.add(one)
        names = set(names_of(one.__code__))
        if names & STARTS:
            return True
        values = [one.__globals__[name] for name in names if name in one.__globals__]
        modules = [value for value in values if isinstance(value, ModuleType) and value.__name__.startswith("tests.")]
        values += [vars(module)[name] for module in modules for name in names if name in vars(module)]
        left += [helper for value in values for helper in helpers(value)]
    return False


def names_of(code: CodeType) -> Iterator[str]:
    """Yield all global and attribute names in a function and in those that it defines."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_of(constant)


def helpers(value: Any) -> Iterator[FunctionType]:
    """Yield the functions behind a global name of a test: a function of `tests`, or the methods of a class of it."""
    value = getattr(value, "__wrapped__", value)
    if not str(getattr(value, "__module__", "")).startswith("tests.") or isinstance(value, ModuleType):
        return
    if isinstance(value, FunctionType):
        yield value
    elif isinstance(value, type):
        yield from (method for method in vars(value).values() if isinstance(method, FunctionType))
