"""LoadGen in a process of its own, for the tests: it runs once in each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar, cast

from resnet_infer.benchmarking.load.image_library import ImageLibrary, open_image_library
from resnet_infer.benchmarking.load.loadgen import Log, Plan, run, settings
from resnet_infer.benchmarking.load.system import InProcess, OnResponse, Response
from resnet_infer.errors import ResnetInferError

Result = TypeVar("Result")


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a function of this file, from a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(120)


def made_settings(plan: Plan, folder: Path, pictures: int) -> dict[str, Any]:
    made = settings(plan, folder, pictures)
    names = [name for name in dir(made) if not name.startswith("_") and name != "FromConfig"]
    return {name: value if isinstance(value := getattr(made, name), (int, float)) else str(value) for name in names}


def settings_twice(folder: Path) -> None:
    for _ in range(2):
        settings(Plan("offline"), folder, 10)


def with_the_model(plan: Plan, folder: Path) -> tuple[Log, Counter[str], int]:
    """By the built-in model; and how many pictures are still loaded."""
    with closing(InProcess()) as system:
        library = open_image_library(None, system.spec)
        return *run(system, library, plan, folder), len(library._loaded)


def with_numbers(plan: Plan, folder: Path, count: int, status: int = 200) -> tuple[Log, Counter[str], int]:
    """By a fake that answers with the number of the picture; and how many were asked about at a time."""
    fake = Fake(status)
    return *run(fake, cast(ImageLibrary, Numbers(count)), plan, folder), fake.most


def with_halves(plan: Plan, folder: Path, count: int) -> tuple[Log, Counter[str], int]:
    """By a fake that answers most pictures of a query at once, and the last three after 5 ms."""

    class Halves(Fake):
        def submit(self, pictures: Sequence[bytes], on_response: OnResponse) -> None:
            def answer() -> None:
                for index in range(len(pictures)):
                    if index == len(pictures) - 3:
                        time.sleep(0.005)
                    on_response(index, Response(200, (0,)))

            threading.Thread(target=answer).start()

    fake = Halves(200)
    return *run(fake, cast(ImageLibrary, Numbers(count)), plan, folder), fake.most


def with_a_broken_library(folder: Path) -> None:
    class Broken(Numbers):
        def load(self, numbers: Sequence[int]) -> None:
            raise ResnetInferError("the disk is gone")

    run(Fake(200), cast(ImageLibrary, Broken(10)), Plan("offline", accuracy=True), folder)


class Fake:
    """Answers with the number that a picture's bytes are, from another thread."""

    at_once = 4
    spec: Any = None

    def __init__(self, status: int) -> None:
        self.status = status
        self.in_progress = self.most = 0
        self.lock = threading.Lock()

    def submit(self, pictures: Sequence[bytes], on_response: OnResponse) -> None:
        with self.lock:
            self.in_progress += len(pictures)
            self.most = max(self.most, self.in_progress)

        def answer() -> None:
            for index, content in enumerate(pictures):
                with self.lock:
                    self.in_progress -= 1
                on_response(index, Response(self.status, (int(content),) if self.status == 200 else (), "full"))

        threading.Thread(target=answer).start()

    def drop(self) -> None: ...

    def close(self) -> None: ...

    def describe(self) -> dict[str, Any]:
        return {"name": "a fake"}


class Numbers:
    """A library whose pictures are their own numbers."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.loaded: set[int] = set()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> bytes:
        assert number in self.loaded
        return str(number).encode()

    def load(self, numbers: Sequence[int]) -> None:
        self.loaded |= set(numbers)

    def unload(self, numbers: Sequence[int]) -> None:
        self.loaded -= set(numbers)
