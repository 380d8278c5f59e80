"""Forked children answer and end, and programs end while their threads are at work, whatever the runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from resnet_infer import zoo
from tests.conftest import PICTURES

NAMES = ("onnxruntime", "openvino", "torch")


def runtimes(*, slow: str = "") -> list[Any]:
    """Those that are installed; of `slow`, which takes seconds to import, only where there is time."""
    return [
        pytest.param(
            name,
            marks=[
                pytest.mark.skipif(not find_spec(name), reason=f"needs {name}"),
                *([pytest.mark.slow] if name == slow else []),
            ],
        )
        for name in NAMES
    ]


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
linux = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")

BEGIN = f"""
import json, multiprocessing, os, sys, threading, time
import numpy as np
from pathlib import Path
from resnet_infer import Classifier, Picture, ResnetInferError
from resnet_infer.runtimes.registry import open_runtime

PATHS = [Path({str(PICTURES)!r}, name) for name in ("airplane.jpg", "car.jpg", "cat.jpg", "ship.jpg")]
PICTURES = [Picture(path.name, path) for path in PATHS]
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
SMALL = {zoo.SMALL!r}

def codes(children, seconds=60):
    '''How each of the processes ends: its exit code, a negative signal, or "hangs".'''
    found, end = {{}}, time.monotonic() + seconds
    for name, pid in children.items():
        while name not in found:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                found[name] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                found[name] = "hangs"
            time.sleep(0.01)
    return found
"""


def program(text: str, *arguments: str, folder: Path | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a Python program of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGIN + text, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def result(text: str, *arguments: str, folder: Path | None = None) -> Any:
    """The JSON that a program prints."""
    code, out, err = program(text, *arguments, folder=folder)
    assert code == 0, err
    return json.loads(out)


FORKING = """
runtime, threads = sys.argv[1], int(sys.argv[2])
classifier = Classifier(SMALL, runtime=runtime, threads=threads)
pooled = Classifier(SMALL, runtime=runtime, throughput=True)
closed = Classifier(SMALL, runtime="onnxruntime")
closed.close()
expected = classifier.runtime(IMAGES)
answers = [classifier.classify(path) for path in PATHS]
pooled_answers = list(pooled.stream(PICTURES))

def busy():
    while running:
        classifier.runtime(IMAGES[:2])
        pooled.runtime(IMAGES[:1])

def check():
    assert np.array_equal(classifier.runtime(IMAGES), expected)
    assert [classifier.classify(path) for path in PATHS] == answers
    assert list(pooled.stream(PICTURES)) == pooled_answers

def counted():
    classifier.runtime(IMAGES)
    assert len(os.listdir("/proc/self/task")) >= min(threads, 2)  # OpenVINO has no more of them than there are cores

def in_threads():
    def work():
        check()
        right.append(True)
    right = []
    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    assert len(right) == 3

def grandchild():
    check()
    child = os.fork()
    check()
    if not child: sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0

def closing():
    classifier.close()
    classifier.close()
    try: classifier.runtime(IMAGES)
    except ResnetInferError as error: assert "was closed" in str(error)
    else: raise AssertionError

def used_and_closed():
    check()
    classifier.close()
    pooled.close()

def still_closed():
    try: closed.runtime(IMAGES)
    except ResnetInferError as error: assert "was closed" in str(error)
    else: raise AssertionError

def opened_there():
    with Classifier(SMALL, runtime=runtime, threads=threads) as other:
        assert np.array_equal(other.runtime(IMAGES), expected)

ways = [lambda: None, check, in_threads, grandchild, closing, used_and_closed, still_closed, opened_there]
if sys.platform == "linux":
    ways.append(counted)
running = True
workers = [threading.Thread(target=busy) for _ in range(2 if runtime != "openvino" else 0)]
for worker in workers: worker.start()
children = {}
for way in ways:
    time.sleep(0.02)
    child = os.fork()
    if not child:
        way()
        sys.exit(0)
    children[way.__name__] = child
running = False
for worker in workers: worker.join()
found = codes(children)
check()
print(json.dumps(found))
"""


@forks
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize("runtime", runtimes())
def test_a_forked_child_answers_as_its_parent_and_ends(runtime: str, threads: int) -> None:
    """It was forked while other threads of the parent were in calls, but for OpenVINO's, see below.

    Five threads have more stacks than are kept.
    """
    found = result(FORKING, runtime, str(threads))
    assert len(found) >= 8
    assert found == dict.fromkeys(found, 0)


CUT_OFF = """
classifier = Classifier(SMALL, runtime="openvino")
expected = classifier.runtime(IMAGES)
def busy():
    while running: classifier.runtime(IMAGES)
running = True
workers = [threading.Thread(target=busy) for _ in range(2)]
for worker in workers: worker.start()
children = {}
for number in range(8):
    time.sleep(0.02)
    child = os.fork()
    if not child:
        try: assert np.array_equal(classifier.runtime(IMAGES), expected)
        except ResnetInferError as error: sys.exit(7 if "other threads were classifying" in str(error) else 1)
        sys.exit(0)
    children[number] = child
running = False
for worker in workers: worker.join()
print(json.dumps(codes(children)))
"""


@forks
@pytest.mark.skipif(not find_spec("openvino"), reason="needs openvino")
def test_a_child_that_was_forked_while_openvino_was_busy_is_refused() -> None:
    """It may wait for ever for a lock that one of OpenVINO's threads held."""
    assert set(result(CUT_OFF).values()) <= {0, 7}


POOLS = """
runtime, way = sys.argv[1:]
classifier = Classifier(SMALL, runtime=runtime)
expected = [classifier.classify(path) for path in PATHS]

def classify(number):
    return classifier.classify(PATHS[number % 4])

def work():
    assert [classify(number) for number in range(4)] == expected
    sys.exit(0)

context = multiprocessing.get_context("fork")
if way == "pool":
    pool = context.Pool(2, maxtasksperchild=4)
    workers = list(pool._pool)
    assert pool.map(classify, range(20), chunksize=1) == 5 * expected
    pool.close()
    pool.join()
else:
    workers = [context.Process(target=work) for _ in range(3)]
    for worker in workers: worker.start()
    for worker in workers: worker.join(60)
print(json.dumps([worker.exitcode for worker in workers]))
"""


@forks
@pytest.mark.parametrize("way", ["pool", "process"])
@pytest.mark.parametrize("runtime", runtimes(slow="torch"))
def test_multiprocessing_by_fork(runtime: str, way: str) -> None:
    codes = result(POOLS, runtime, way)
    assert len(codes) >= 2
    assert set(codes) == {0}


STREAMS = """
def unending():
    while True:
        yield from PICTURES

children = {}
for lanes in (False, True):
    classifier = Classifier(SMALL, throughput=lanes)
    stream = classifier.stream(unending(), batch_size=2)
    first = [next(stream) for _ in range(5)]
    for go_on in (False, True):
        child = os.fork()
        if not child:
            if go_on:
                try: list(stream)
                except ResnetInferError as error: assert "begun in another process" in str(error)
                else: raise AssertionError
                assert list(classifier.stream(PICTURES)) == first[:4]
            sys.exit(0)
        children[f"{lanes} {go_on}"] = child
    assert [next(stream) for _ in range(3)] == first[1:4]
    stream.close()
print(json.dumps(codes(children)))
"""


@forks
def test_a_stream_goes_on_only_in_the_process_that_began_it() -> None:
    found = result(STREAMS)
    assert len(found) == 4
    assert found == dict.fromkeys(found, 0)


CLOSED = """
with Classifier(SMALL, runtime=sys.argv[1]) as classifier:
    expected = classifier.runtime(IMAGES)
def opened_there():
    try:
        with Classifier(SMALL, runtime=sys.argv[1]) as classifier:
            assert np.array_equal(classifier.runtime(IMAGES), expected)
    except ResnetInferError as error:
        assert "had been closed" in str(error) and "spawn" in error.hint
        sys.exit(7)
children = {}
for name in ("first", "second"):
    child = os.fork()
    if not child:
        opened_there()
        sys.exit(0)
    children[name] = child
opened_there()
print(json.dumps(codes(children)))
"""


@forks
@pytest.mark.parametrize("runtime", runtimes(slow="torch"))
def test_a_child_opens_a_model_after_its_parent_has_closed_one(runtime: str) -> None:
    """OpenVINO, which would hang there, is refused."""
    code = 7 if runtime == "openvino" else 0
    assert result(CLOSED, runtime) == {"first": code, "second": code}


CHANGED = """
import shutil
shutil.copy(sys.argv[1], "model.onnx")
runtime = open_runtime(Path("model.onnx"), runtime=sys.argv[2])
expected = runtime(IMAGES)
os.mkdir("elsewhere")
def moved():
    os.chdir("elsewhere")
    assert np.array_equal(runtime(IMAGES), expected)
def refused():
    for _ in range(2):
        try: runtime(IMAGES)
        except ResnetInferError as error: assert "has changed since it was opened" in str(error)
        else: raise AssertionError
    runtime.close()
def fork(way):
    child = os.fork()
    if not child:
        way()
        sys.exit(0)
    return codes({way.__name__: child})
found = fork(moved)
shutil.copy(sys.argv[1], "other.onnx")
os.replace("other.onnx", "model.onnx")
found["replaced"] = fork(refused)["refused"]
os.remove("model.onnx")
found["removed"] = fork(refused)["refused"]
assert np.array_equal(runtime(IMAGES), expected)
print(json.dumps(found))
"""


@forks
@pytest.mark.parametrize("runtime", runtimes()[:2])
def test_a_child_takes_no_other_model_for_the_one_it_inherited(runtime: str, tmp_path: Path) -> None:
    """The folder that it works in may be another; a file that is another is refused."""
    found = result(CHANGED, str(zoo.built_in(zoo.SMALL, ".onnx")), runtime, folder=tmp_path)
    assert found == {"moved": 0, "replaced": 0, "removed": 0}


ON_A_GPU = """
from resnet_infer.runtimes.base import Runtime
class Gpu(Runtime):
    name = "gpu"
    freed = False
    def __init__(self, spec):
        super().__init__(spec, "cuda:0", (None, None))
    def _run(self, images): raise AssertionError("it was used")
    def _transfer(self, images): raise AssertionError("it was used")
    def _free(self): raise AssertionError("it was freed")
opened = Gpu(Classifier(SMALL).spec)
def refused():
    for use in (opened, opened.transfer):
        try: use(IMAGES)
        except ResnetInferError as error: assert "cannot use a GPU" in str(error) and "spawn" in error.hint
        else: raise AssertionError
    opened.close()
child = os.fork()
if not child:
    refused()
    sys.exit(0)
print(json.dumps(codes({"refused": child})))
"""


@forks
def test_a_gpu_is_refused_in_a_child_and_left_alone() -> None:
    assert result(ON_A_GPU) == {"refused": 0}


ENDING = """
classifier = Classifier(SMALL, runtime=sys.argv[1])
begun = threading.Semaphore(0)
def work():
    while True:
        classifier.runtime(IMAGES)
        begun.release()
def open_and_close():
    while True:
        Classifier(SMALL, runtime=sys.argv[1]).close()
for target in (work, work, work, open_and_close):
    threading.Thread(target=target, daemon=True).start()
for _ in range(20): begun.acquire()
if sys.argv[2] == "raise": raise KeyError("the end")
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(("end", "code"), [("3", 3), ("raise", 1)])
@pytest.mark.parametrize("runtime", runtimes())
def test_a_program_ends_as_it_should_while_daemon_threads_classify(runtime: str, end: str, code: int) -> None:
    found, out, err = program(ENDING, runtime, end)
    assert (found, out) == (code, "")
    assert [line for line in err.splitlines() if not line.startswith((" ", "Traceback"))] == (
        ["KeyError: 'the end'"] if end == "raise" else []
    )


AT_EXIT = """
import atexit
from resnet_infer.utils import lifetime
classifier = Classifier(SMALL, runtime=sys.argv[1])
expected = [classifier.classify(path) for path in PATHS]
many = Classifier(SMALL, runtime=sys.argv[1], throughput=True)
many.lanes = 2
stop = threading.Event()

def last():
    found = {"classify": [classifier.classify(path) for path in PATHS] == expected, "ends": not lifetime.CALLS._running}
    for name, opened in (("stream", classifier), ("lanes", many)):
        try: found[name] = len(list(opened.stream(PICTURES)))
        except ResnetInferError as error: found[name] = str(error)
    def late():
        try: classifier.classify(PATHS[0])
        except ResnetInferError as error: found["late"] = str(error)
    if sys.version_info < (3, 12):
        thread = threading.Thread(target=late, daemon=True)
        thread.start()
        thread.join()
    print(json.dumps(found))

# Exit handlers run from the last to the first: this one before that of the package, and after it.
if sys.argv[2] == "before":
    atexit.register(last)
else:
    atexit.unregister(lifetime.CALLS.end)
    atexit.register(last)
    atexit.register(lifetime.CALLS.end)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("runtime", runtimes(slow="torch"))
def test_at_exit_the_last_thread_may_classify_and_is_told_why_it_cannot_stream(runtime: str, when: str) -> None:
    found = result(AT_EXIT, runtime, when)
    assert found["classify"]
    for name in ("stream", "lanes"):
        assert "the program is ending" in found[name]
        assert "`classify`" in found[name]
    if when == "after" and "late" in found:
        assert "the program is ending" in found["late"]


@linux
def test_a_call_in_progress_is_waited_for_only_so_long() -> None:
    code, out, err = program(
        """
from resnet_infer.utils import lifetime
lifetime.END_SECONDS = 0.3
def stuck():
    with lifetime.CALLS:
        time.sleep(100)
threading.Thread(target=stuck, daemon=True).start()
time.sleep(0.1)
"""
    )
    assert (code, out, err) == (0, "", "")


CLOSING = """
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

def opened(count):
    many = [Classifier(SMALL, runtime=sys.argv[1], threads=1) for _ in range(count)]
    for one in many: one.runtime(IMAGES)
    most = resident()
    for one in many: one.close()
    return most

opened(1)
before = resident()
print(json.dumps([before, opened(30), resident()]))
"""


@linux
def test_what_is_closed_gives_its_memory_back() -> None:
    before, most, after = result(CLOSING, "onnxruntime")
    assert most > before + 30
    assert after < before + 10


IDLE = """
many = [Classifier(SMALL, threads=3, spin=json.loads(sys.argv[1])) for _ in range(20)]
for one in many: one.runtime(IMAGES)
begin = time.process_time()
time.sleep(1)
print(time.process_time() - begin)
"""


def test_threads_that_do_not_spin_sleep() -> None:
    """The option of the runtime is one of `Classifier` too."""
    assert result(IDLE, "false") < 0.05
