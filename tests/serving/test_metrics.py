"""What /metrics says is what happened: counters add up to what was sent, gauges are of the present."""

from __future__ import annotations

import base64
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

httpx = pytest.importorskip("httpx", reason="the client of these tests")
parser = pytest.importorskip("prometheus_client.parser", reason="a service needs the extra `serve`")

from resnet_infer.serving.http import protocol  # noqa: E402
from resnet_infer.serving.inference.batching import Batcher  # noqa: E402
from resnet_infer.serving.inference.jobs import RefusedError  # noqa: E402
from tests.conftest import PICTURES  # noqa: E402
from tests.serving.conftest import Service  # noqa: E402
from tests.serving.servers import serving  # noqa: E402

CAT = (PICTURES / "cat.jpg").read_bytes()
TEXT = base64.b64encode(CAT).decode()
KEY, ADMIN = {"X-API-Key": "key"}, {"X-API-Key": "admin"}
MODEL = "resnet20-cifar10"
INFER = "/v2/models/{name}/infer"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass
class Running:
    """A service that is measured."""

    url: str
    workers: Callable[[], list[int]]
    typed: bool
    """Whether it has BentoML's own route."""
    client: Any = field(default_factory=lambda: httpx.Client(timeout=60, headers={"Connection": "close"}))

    @property
    def place(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def scrape(self) -> Samples:
        """Over a connection of its own, so of whichever process takes it."""
        text = self.client.get(f"{self.url}/metrics", headers=KEY).text
        families = list(parser.text_string_to_metric_families(text))
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    def gauge(self, name: str) -> float:
        return self.scrape()[f"resnet_infer_{name}", ()]

    def talk(self, data: bytes, *, leave: bool = False) -> int:
        """The status of what is answered to these bytes; 499 for who does not wait."""
        with closing(socket.create_connection(self.place, timeout=60)) as connection:
            connection.sendall(data)
            if leave:
                time.sleep(0.1)
                return 499
            received = b""
            with suppress(ConnectionError):
                while piece := connection.recv(1 << 16):
                    received += piece
            return int(received.split()[1]) if received else 0


@pytest.fixture(scope="module", params=["in this process", "two workers"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_service: Callable[..., Service]
) -> Iterator[Running]:
    limits = {"max_pictures": 4, "max_body_mb": 1.0, "timeout": 4.0}
    if request.param == "in this process":
        url = make_service(keys=("key",), admin=("admin",), model=MODEL, **limits).listen()
        yield Running(url, list, typed=False)
        return
    pytest.importorskip("bentoml", reason="a service needs the extra `serve`")
    if not Path("/proc").is_dir():
        pytest.skip("the processes of a service are found in /proc")
    options = [text for name, value in limits.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    keys = {"RESNET_INFER_API_KEY": "key", "RESNET_INFER_ADMIN_KEY": "admin"}
    with serving(tmp_path_factory.mktemp("metrics"), MODEL, "--workers", "2", *options, **keys) as server:
        running = Running(server.url, server.workers, typed=True)
        while running.gauge("last_reload_timestamp_seconds") == 0:  # the second process is not ready yet
            time.sleep(0.1)
        yield running


# Every kind of request, with its route as the metrics name it. What becomes of it the answer says.


@dataclass
class Sent:
    """A request and its answer; `pictures` by outcome, as the answer says."""

    route: str
    status: int
    pictures: Counter[str]
    parsed: bool = True


def pictures(status: int, said: Any = None, several: int = 1) -> Counter[str]:
    """What became of the pictures of a request, by its answer."""
    if status == 200 and said and "answers" in said:
        return Counter("unreadable" if "error" in answer else "answered" for answer in said["answers"])
    return Counter({"answered": several} if status == 200 else {"unreadable": several} if status == 422 else {})


def ask(running: Running, path: str, route: str, method: str = "POST", **options: Any) -> Sent:
    options = {"headers": KEY, **options}
    done = running.client.request(method, f"{running.url}{path}", **options)
    return Sent(route, done.status_code, Counter())


def classify(running: Running, path: str = "/classify", **options: Any) -> Sent:
    options = {"headers": KEY, **options}
    done = running.client.post(f"{running.url}{path}", **options)
    found = pictures(done.status_code, done.json())
    if done.status_code == 400 and "base64" in done.text:
        found = Counter(unreadable=1)
    return Sent(path, done.status_code, found)


def infer(running: Running, rows: int, side: int = 32, model: str = MODEL, version: str = "") -> Sent:
    data = np.zeros((rows, side, side, 3), np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(data.shape), "data": data.ravel().tolist()}
    path = f"/v2/models/{model}{version}/infer"
    done = running.client.post(f"{running.url}{path}", json={"inputs": [tensor]}, headers=KEY)
    route = "/v2/models/{name}/versions/{version}/infer" if version else INFER
    return Sent(route, done.status_code, pictures(done.status_code, several=rows))


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", "X-API-Key: key", *lines, "", ""]).encode()


def form(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", ("name", content)) for content in contents]


KINDS: dict[str, Callable[[Running], Sent]] = {
    "picture": lambda to: classify(to, content=CAT),
    "ten crops": lambda to: classify(to, content=CAT, params={"crops": 10}),
    "maps": lambda to: classify(to, content=CAT, params={"activation_map": "true"}),
    "unreadable": lambda to: classify(to, content=CAT[:3000]),
    "form": lambda to: classify(to, files=form(CAT, CAT[:3000], b"text", CAT)),
    "json": lambda to: classify(to, json={"images": [TEXT, "?", TEXT]}),
    "no base64": lambda to: classify(to, json={"image": "?"}),
    "short of time": lambda to: classify(to, content=CAT, params={"timeout_ms": 1}),
    "empty": lambda to: ask(to, "/classify", "/classify"),
    "type": lambda to: ask(to, "/classify", "/classify", content=b"x", headers={**KEY, "Content-Type": "text/css"}),
    "option": lambda to: ask(to, "/classify?crop=2", "/classify", content=CAT),
    "pictures": lambda to: ask(to, "/classify", "/classify", files=form(*[CAT] * 5)),
    "size": lambda to: ask(to, "/classify", "other", content=bytes(1_500_000)),
    "chunks": lambda to: ask(to, "/classify", "/classify", content=iter([bytes(600_000)] * 2)),
    "no key": lambda to: ask(to, "/classify", "other", content=CAT, headers={}),
    "not the admin's": lambda to: ask(to, "/admin/reload", "other"),
    "method": lambda to: ask(to, "/classify", "other", "GET"),
    "path": lambda to: ask(to, "/nothing", "other"),
    "tensor": lambda to: infer(to, 1),
    "tensors": lambda to: infer(to, 3, version="/versions/1"),
    "shape": lambda to: infer(to, 2, side=31),
    "model": lambda to: infer(to, 1, model="other"),
    "metadata": lambda to: ask(to, f"/v2/models/{MODEL}", "/v2/models/{name}", "GET"),
    "described": lambda to: ask(to, "/model", "/model", "GET"),
    "page": lambda to: ask(to, "/", "/", "GET"),
    "alive": lambda to: ask(to, "/livez", "/livez", "GET", headers={}),
    "left": lambda to: Sent(
        "/classify", to.talk(head("/classify", "Content-Length: 9") + b"half", leave=True), Counter()
    ),
    "left early": lambda to: Sent("/classify", to.talk(head("/classify", "Content-Length: 9"), leave=True), Counter()),
    "half a body": lambda to: Sent("/classify", to.talk(head("/classify", "Content-Length: 9") + b"half"), Counter()),
    "bad chunk": lambda to: Sent(
        "/classify", to.talk(head("/classify", "Transfer-Encoding: chunked") + b"zz\r\n"), Counter()
    ),
    "no http": lambda to: Sent("other", to.talk(b"\x16\x03\x01\r\n\r\n"), Counter(), parsed=False),
    "long head": lambda to: Sent("other", to.talk(head("/" + "x" * 70_000)), Counter(), parsed=False),
    "typed": lambda to: classify(to, "/typed/classify", json={"image": TEXT}),
    "typed, unreadable": lambda to: classify(to, "/typed/classify", json={"image": TEXT[:3000]}),
    "typed, no base64": lambda to: classify(to, "/typed/classify", json={"image": "?"}),
}
REASONS = {401: ("key",), 403: ("key",), 413: ("size",), 408: ("idle",), 431: ("head",), 499: ("left",)}
BUSY = ("full", "late", "closed", "unready", "memory")


def total(samples: Samples, name: str, *labels: str) -> Counter[tuple[str, ...]]:
    """A counter by some of its labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for (sample, own), value in samples.items():
        if sample == f"resnet_infer_{name}":
            found[tuple(dict(own)[label] for label in labels)] += int(value)
    return +found


def counted(samples: Samples) -> dict[str, Counter[tuple[str, ...]]]:
    rejections = total(samples, "rejections_total", "reason")
    busy = Counter({("busy",): sum(rejections.pop((reason,), 0) for reason in BUSY)})
    return {
        "requests": total(samples, "requests_total", "route", "status"),
        "durations": total(samples, "request_duration_seconds_count", "route", "status_class"),
        "pictures": total(samples, "pictures_total", "outcome"),
        "stages": total(samples, "stage_seconds_count", "stage"),
        "rejections": rejections + busy,
    }


def expected(sent: list[Sent]) -> dict[str, Counter[tuple[str, ...]]]:
    answered = sum(item.pictures["answered"] for item in sent)
    reasons = (
        ("head",)
        if item.status == 400 and not item.parsed
        else ("busy",)
        if item.status == 503
        else REASONS.get(item.status)
        for item in sent
    )
    return {
        "requests": Counter((item.route, str(item.status)) for item in sent),
        "durations": Counter((item.route, f"{item.status // 100}xx") for item in sent if item.parsed),
        "pictures": sum((Counter({(word,): n for word, n in item.pictures.items()}) for item in sent), Counter()),
        "stages": +Counter({(stage,): answered for stage in ("queue", "decode", "wait", "inference")}),
        "rejections": Counter(reason for reason in reasons if reason),
    }


def test_counters_add_up_to_what_was_sent(running: Running) -> None:
    """Requests of all routes and outcomes at a time, in any order and number."""
    rng = random.Random(2015)
    names = [name for name in KINDS if running.typed or "typed" not in name]
    order = [name for name in names for _ in range(rng.randint(1, 4))]
    rng.shuffle(order)
    before = counted(running.scrape())
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda name: KINDS[name](running), order))
    statuses = {item.status for item in sent}
    assert {200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 431, 499} <= statuses
    scrapes = 1
    until = time.monotonic() + 20
    wanted = expected(sent)
    bad_chunks = order.count("bad chunk")
    wanted["rejections"]["head",] += bad_chunks
    while True:  # what is counted is so after the answer
        now = counted(running.scrape())
        found = {name: now[name] - before[name] for name in now}
        found["requests"]["/metrics", "200"] -= scrapes
        found["durations"]["/metrics", "2xx"] -= scrapes
        scrapes += 1
        if {name: +value for name, value in found.items()} == wanted or time.monotonic() > until:
            break
        time.sleep(0.2)
    differences = {name: (found[name] - wanted[name], wanted[name] - found[name]) for name in wanted}
    assert differences == dict.fromkeys(wanted, (Counter(), Counter())), order


def test_gauges_are_of_the_present_whoever_is_asked(running: Running) -> None:
    """Also when every process was asked while it was busy, and has rested since."""

    def seen(name: str, count: int) -> set[float]:
        return {running.gauge(name) for _ in range(count)}

    def settles(name: str, value: float) -> None:
        until = time.monotonic() + 20
        while seen(name, 3) != {value}:
            assert time.monotonic() < until, seen(name, 3)

    settles("active_requests", 1)
    held = [socket.create_connection(running.place) for _ in range(6)]
    for connection in held:
        connection.sendall(head("/classify", "Content-Length: 9"))
    settles("active_requests", 7)
    for connection in held:
        connection.close()
    settles("active_requests", 1)
    assert seen("active_requests", 12) == {1}
    stop = threading.Event()

    def press() -> None:
        while not stop.is_set():
            running.client.post(f"{running.url}/classify", content=CAT, params={"crops": 10}, headers=KEY)

    with ThreadPoolExecutor(8) as pool:
        pressing = [pool.submit(press) for _ in range(8)]
        waiting = [running.gauge("queue_rows") for _ in range(20)]
        stop.set()
        wait(pressing)
    assert max(waiting) > 0
    settles("queue_rows", 0)
    assert seen("queue_rows", 12) == {0}


def test_there_are_processes_reloads_and_no_times_of_creation(running: Running) -> None:
    before = running.scrape()
    workers = running.workers()
    labels = [(("pid", str(number)),) for number in sorted(workers, key=str)] or [()]
    for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "start_time_seconds"):
        own = [labels for (sample, labels), value in before.items() if sample == f"process_{name}" and value > 0]
        assert sorted(own) == labels
    assert not [name for name, _ in before if name.endswith("_created")]
    assert 0 < before["resnet_infer_last_reload_timestamp_seconds", ()] <= time.time()
    assert running.client.post(f"{running.url}/admin/reload", headers=ADMIN).status_code == 200
    done = "resnet_infer_reloads_total", (("outcome", "done"),)
    until = time.monotonic() + 30
    while (now := running.scrape())[done] - before[done] < max(len(workers), 1):
        assert time.monotonic() < until
        time.sleep(0.1)
    opened = "resnet_infer_last_reload_timestamp_seconds", ()
    assert now[opened] > before[opened]
    time.sleep(0.5)
    assert running.scrape()[done] - before[done] == max(len(workers), 1), "a process reloaded twice"


def test_what_nobody_answers_is_counted(make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections without a request, and with half a head."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    running = Running(make_service(keys=("key",)).listen(), list, typed=False)
    assert running.talk(b"") == 0
    assert running.talk(b"GET / HTTP/1.1\r\nX: ") == 408
    samples = running.scrape()
    assert total(samples, "rejections_total", "reason") == Counter({("idle",): 2})
    assert total(samples, "requests_total", "route", "status") == Counter({("other", "408"): 1})


def test_the_pictures_of_a_model_that_fails_have_failed(
    make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(model=MODEL)
    for runtime in (service.manager.current.runtime, service.manager.current._one_thread):
        monkeypatch.setattr(runtime, "_run", lambda images: 1 / 0)
    running = Running(service.listen(), list, typed=False)
    assert (classify(running, content=CAT).status, infer(running, 3).status) == (500, 500)
    samples = running.scrape()
    assert total(samples, "pictures_total", "outcome") == Counter({("failed",): 4})
    assert total(samples, "rejections_total", "reason") == Counter()


def test_every_reason_that_the_code_gives_is_known() -> None:
    """The reasons are there from the start, at 0: a rate has something to begin with."""
    from resnet_infer.serving import metrics

    source = "".join(path.read_text() for path in Path(metrics.__file__).parent.glob("*.py"))
    given = set(re.findall(r'reason="(\w+)"', source)) | {"idle", "head", "left"}
    assert given <= {*metrics.REASONS}


@pytest.mark.parametrize("seed", range(3))
def test_a_batcher_tells_how_many_rows_wait(seed: int) -> None:
    """Whatever is done, refused, late or no longer wanted: the changes add up to what waits."""
    rng = random.Random(seed)
    told: list[int] = []
    batcher: Batcher[int, int] = Batcher(
        lambda item: np.zeros((item, 1)),
        lambda rows, alone: time.sleep(0.001) or rows,
        lambda item, rows, inferred: item,
        max_rows=4,
        max_queue=20,
        on_waiting=told.append,
    )
    futures = []
    for _ in range(300):
        rows = rng.randint(1, 5)
        with suppress(RefusedError):
            futures += batcher.submit([(rows, rows)] * rng.randint(1, 3), rng.choice([0.002, 0.02, 5.0]))
        if rng.random() < 0.3 and futures:
            rng.choice(futures).cancel()
        with batcher._changed:
            assert sum(told) == batcher.waiting_rows
        time.sleep(rng.choice([0, 0, 0.002]))
    batcher.close()
    assert len(told) > 100
    assert max(sum(told[:end]) for end in range(len(told))) > 1
    assert min(sum(told[:end]) for end in range(len(told))) == 0
    assert sum(told) == batcher.waiting_rows == 0
