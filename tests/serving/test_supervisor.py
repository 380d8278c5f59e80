"""The supervisor of a service: it obeys nobody else, replaces what dies, and leaves nothing when it is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("bentoml", reason="a service needs the extra `serve`")
httpx = pytest.importorskip("httpx", reason="the client of these tests")
if not Path("/proc/net/tcp").exists():
    pytest.skip("the processes of a service are found in /proc", allow_module_level=True)

from resnet_infer.serving import supervisor  # noqa: E402
from resnet_infer.serving.settings import Settings  # noqa: E402
from tests.conftest import PICTURES, ROOT  # noqa: E402
from tests.serving.servers import Server, free_port, serving  # noqa: E402

CAT = (PICTURES / "cat.jpg").read_bytes()
NOBODY = 65534
MODEL = "resnet20-cifar10"


def descendants(process: int) -> list[int]:
    found = [process]
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in path.read_text().split():
            found += descendants(int(child))
    return found


def listening(process: int) -> tuple[set[int], set[str]]:
    """TCP and UDP ports, and names of unix sockets (`@` for none in the file system), of a process and those below."""
    sockets = set()
    for number in descendants(process):
        for file in Path(f"/proc/{number}/fd").iterdir():
            with suppress(OSError):
                sockets.add(os.readlink(file).removeprefix("socket:[").removesuffix("]"))
    ports, names = set(), set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            entry = line.split()
            if entry[9] in sockets and (entry[3] == "0A" or kind.startswith("udp")):
                ports.add(int(entry[1].rpartition(":")[2], 16))
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        entry = line.split(maxsplit=7)
        if entry[6] in sockets and len(entry) > 7 and entry[3] == "00010000":  # listens, and has a name
            names.add(entry[7])
    return ports, names


@pytest.mark.parametrize(
    ("model", "runtime", "cuda", "found"),
    [
        ("model.engine", "auto", False, True),
        ("model.onnx", "auto", True, True),
        ("model.onnx", "auto", False, False),
        ("resnet50.v1", "auto", True, True),
        (None, "auto", False, False),
        (None, "torch", True, True),
        (None, "openvino", True, False),
        (None, "not a runtime", True, True),
    ],
)
def test_each_gpu_has_a_process_if_the_runtime_takes_it(
    model: str | None, runtime: str, cuda: bool, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")
    providers = ["CUDAExecutionProvider"] if cuda else ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr("resnet_infer.runtimes.nvidia.obstacles.obstacle", lambda provider: None)
    monkeypatch.setattr(supervisor, "count_gpus", lambda: 2)
    settings = Settings(model=model, runtime=runtime)
    gpus = ["cuda:0", "cuda:1"] if found else ["auto"]
    assert supervisor.devices(settings) == gpus
    assert supervisor.devices(replace(settings, compute="fp32")) == gpus
    if runtime == "auto" and not str(model).endswith(".engine"):  # OpenVINO, which has only the CPU, computes in bf16
        assert supervisor.devices(replace(settings, compute="bf16")) == ["auto"]


@pytest.mark.parametrize(
    ("visible", "count"),
    [("0,1", 2), ("0,-1,1", 1), ("", 0), ("-1", 0), (" GPU-a , MIG-b ", 2), ("1,1", 0), ("0,none,1", 1), ("0,,1", 1)],
)
def test_gpus_are_counted_as_cuda_does(visible: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert supervisor.count_gpus() == count


def test_a_build_for_cuda_whose_libraries_are_missing_takes_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on the CPU, in one process, rather than in one for each GPU that none can open."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(supervisor, "count_gpus", lambda: 2)
    monkeypatch.setattr("resnet_infer.runtimes.nvidia.driver.LIBRARY", "libcuda-of-nobody.so.1")
    assert supervisor.devices(Settings(model="model.onnx")) == ["auto"]


COMMAND = """
import json, os, sys, zmq
if sys.argv[1] != "-":
    os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
for place in sys.argv[2:]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as control:
        control.setsockopt(zmq.LINGER, 0)
        control.connect(place)
        control.send(json.dumps({"id": "1", "command": "list", "properties": {}}).encode())
        print(json.dumps(place), bool(control.poll(3000)))
"""


def obeying(places: list[str], user: int | None = None) -> list[str]:
    """Which of the endpoints answer a command of circus, given by a user of this machine."""
    if not places:
        return []
    command = [sys.executable, "-c", COMMAND, "-" if user is None else str(user), *places]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", timeout=60)
    return [json.loads(line.split()[0]) for line in done.stdout.splitlines() if line.endswith("True")]


@contextmanager
def bentoml_serve(folder: Path, *options: str) -> Iterator[Server]:
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "bentoml", "serve", "resnet_infer.serving.service:service"]
    variables = {"BENTOML_HOME": str(folder), "RESNET_INFER_SERVE_MODEL": MODEL, "BENTOML_DO_NOT_TRACK": "True"}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), *options],
            stdout=output, stderr=output, cwd=ROOT, env={**os.environ, **variables},
        )  # fmt: skip
    server = Server(process, f"http://127.0.0.1:{port}", log, folder)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            server.stop()


def require_private(server: Server) -> set[str]:
    """No port but the service's own, and no unix socket that somebody else could connect to; their names."""
    ports, names = listening(server.process.pid)
    own = int(server.url.rpartition(":")[2])
    obeyed = obeying([f"tcp://127.0.0.1:{port}" for port in ports], NOBODY if os.getuid() == 0 else None)
    assert obeyed == []
    assert ports == {own}
    for name in names:
        folder = Path(name).parent.stat()
        assert (name[0], folder.st_mode & 0o777, folder.st_uid) == ("/", 0o700, os.getuid())
    if os.getuid() == 0:
        assert obeying([f"ipc://{name}" for name in names], NOBODY) == []
    return names


@pytest.fixture(scope="module", params=[1, 2])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests of this file; the last one kills it."""
    folder = tmp_path_factory.mktemp("supervised")
    (folder / "keys").write_text("first\n")
    keys = ("--api-key-file", "keys", "--workers", str(request.param))
    with serving(folder, MODEL, *keys, RESNET_INFER_ADMIN_KEY="admin") as running:
        yield running


def test_another_user_reaches_nothing_but_the_service(server: Server) -> None:
    assert require_private(server) == set()


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--reload",)])
def test_another_user_reaches_nothing_of_bentoml_serve(tmp_path: Path, options: tuple[str, ...]) -> None:
    """With --reload another process gives commands to the supervisor: over a socket in a folder of its user."""
    with bentoml_serve(tmp_path, *options) as running:
        names = require_private(running)
        assert bool(names) == bool(options)
        assert len(obeying([f"ipc://{name}" for name in names if name.endswith("control")])) == len(options)


def statuses(server: Server, key: str) -> set[int]:
    """Of several connections, so of all processes."""
    return {server.get("/model", headers={"X-API-Key": key}).status_code for _ in range(8)}


@pytest.mark.parametrize("way", ["hangup", "request"])
def test_keys_are_exchanged_in_all_processes(server: Server, way: str) -> None:
    file, workers = server.temporary.parent / "keys", server.workers()
    (old,) = file.read_text().split()
    file.write_text(f"{way}\n")
    if way == "hangup":
        server.process.send_signal(signal.SIGHUP)
    else:
        assert server.post("/admin/reload", headers={"X-API-Key": old}).status_code == 403
        assert server.post("/admin/reload", headers={"X-API-Key": "admin"}).status_code == 200
    until = time.monotonic() + 30
    while (statuses(server, old), statuses(server, way)) != ({401}, {200}):
        assert time.monotonic() < until
    assert server.workers() == workers


def test_a_process_that_dies_is_replaced_at_once(server: Server) -> None:
    """Also one that dies when the supervisor has just looked."""
    for _ in range(2):
        before = set(server.workers())
        dead = max(before)
        os.kill(dead, signal.SIGKILL)
        killed = time.monotonic()
        while len(set(server.workers()) - {dead}) < len(before):
            assert time.monotonic() - killed < 5
            time.sleep(0.02)
        print(f"replaced after {time.monotonic() - killed:.2f} s")
    server.wait_until_ready()


CRASHING = """
import sys
from circus.watcher import Watcher
from circus.sockets import CircusSocket
from resnet_infer.serving import supervisor
supervisor.supervise()
from bentoml._internal.utils.circus import create_standalone_arbiter
watcher = Watcher("service", sys.executable, ["-S", "-c", "print('begun', flush=True)"], numprocesses=1)
create_standalone_arbiter([watcher]).start()
"""


@pytest.mark.slow
def test_what_dies_at_every_start_does_not_keep_a_core_busy() -> None:
    command = [sys.executable, "-c", CRASHING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as supervisor:
        assert supervisor.stdout is not None
        for _ in range(6):  # the first, and five in its place
            assert supervisor.stdout.readline() == "begun\n"
        since = time.monotonic()
        assert supervisor.stdout.readline() == "begun\n"
        assert 5 < time.monotonic() - since < 20
        supervisor.terminate()


def test_without_its_supervisor_the_service_answers_what_it_has_and_ends(server: Server) -> None:
    workers = server.workers()
    port = int(server.url.rpartition(":")[2])
    while statuses(server, "request") != {200}:  # of a process that was just replaced
        time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST /classify HTTP/1.1\r\nHost: x\r\nX-API-Key: request\r\nContent-Length: {len(CAT)}\r\n\r\n"
        connection.sendall(head.encode() + CAT[:1000])
        time.sleep(0.2)
        server.process.kill()
        server.process.wait()
        time.sleep(0.5)
        connection.sendall(CAT[1000:])
        connection.settimeout(30)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    until = time.monotonic() + 15
    while any(_runs(number) for number in workers):
        assert time.monotonic() < until, "a process goes on"
        time.sleep(0.05)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    assert list(server.temporary.iterdir()) == []


FOLLOWER = """
import os, signal, subprocess, sys, time
if sys.argv[1] == "supervisor":
    os.environ["RESNET_INFER_SUPERVISOR"] = sys.argv[3] if len(sys.argv) > 3 else str(os.getpid())
    subprocess.Popen([sys.executable, "-c", os.environ["SOURCE"], "worker", sys.argv[2]])
    time.sleep(60)
from bentoml import server_context
from resnet_infer.serving import supervisor
server_context.worker_index = 1
supervisor.LINGER = 0
if "elsewhere" in sys.argv[2]:
    sys.platform = "elsewhere"
if "stuck" in sys.argv[2]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
supervisor.follow_supervisor(1)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["here", "here, stuck", "elsewhere", "elsewhere, stuck", "late"])
def test_a_process_ends_after_its_supervisor(kind: str, tmp_path: Path) -> None:
    """With the system's help or without; also one that is stuck, or whose supervisor had ended before it looked."""
    environment = {**os.environ, "SOURCE": FOLLOWER, "RESNET_INFER_HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-c", FOLLOWER, "supervisor", kind, *(["1"] if kind == "late" else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as supervisor:
        assert supervisor.stdout is not None
        follower = int(supervisor.stdout.readline())
        if kind != "late":
            time.sleep(0.7)
            assert _runs(follower)
            supervisor.kill()
        until = time.monotonic() + 5
        while _runs(follower):
            assert time.monotonic() < until
            time.sleep(0.02)
        supervisor.kill()
    if kind != "here":  # nobody is there to look, where it ends at once and is no service
        assert not (tmp_path / "home").exists()


def _runs(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
