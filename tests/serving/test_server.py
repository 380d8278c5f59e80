"""The real service, under BentoML's supervisor: it starts, answers, is told things by signals, and leaves nothing."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bentoml", reason="a service needs the extra `serve`")
httpx = pytest.importorskip("httpx", reason="the client of these tests")
if not Path("/proc").is_dir():
    pytest.skip("the processes of a service are found in /proc", allow_module_level=True)

from resnet_infer.classifier import Classifier  # noqa: E402
from resnet_infer.errors import RuntimeUnavailableError  # noqa: E402
from resnet_infer.selection.machine import Model  # noqa: E402
from resnet_infer.selection.profile import Timing, remember  # noqa: E402
from resnet_infer.zoo import SMALL, built_in  # noqa: E402
from tests.conftest import PICTURES  # noqa: E402
from tests.data.formats.test_jpeg import of_scans  # noqa: E402
from tests.serving.servers import Server, serving  # noqa: E402

CAT = (PICTURES / "cat.jpg").read_bytes()
HEADERS = {"X-API-Key": "secret"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests of this file; the last one ends it."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(built_in(SMALL, ".onnx"), folder / "model.onnx")
    with serving(folder, "model.onnx", "--access-log", "--max-queue", "2000", RESNET_INFER_API_KEY="secret") as running:
        yield running


def test_it_answers_as_classify_does(server: Server) -> None:
    with Classifier() as classifier:
        for crops in (1, 10):
            done = server.post(params={"crops": crops}, content=CAT, headers=HEADERS)
            assert done.status_code == 200
            expected = classifier.classify(CAT, crops=crops)
            assert [item["label"] for item in done.json()["predictions"]] == [item.label for item in expected]
            assert [item["probability"] for item in done.json()["predictions"]] == pytest.approx(
                [item.probability for item in expected], abs=1e-5
            )


def test_it_says_where_it_is_and_logs_its_requests_and_nothing_else(server: Server) -> None:
    server.post(content=CAT, headers={**HEADERS, "X-Request-ID": "logged"})
    while '"logged"' not in server.log.read_text():  # it is written after the answer
        time.sleep(0.01)
    ready, *lines = server.log.read_text().splitlines()
    assert ready == f"resnet20-cifar10 (fp32, onnxruntime, cpu) is ready at {server.url}"
    line = next(line for line in map(json.loads, lines) if line["id"] == "logged")
    assert (line["status"], line["path"]) == (200, "/classify")


def test_the_log_says_which_runtime_was_chosen_and_why(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="is chosen (the extra `openvino`)")
    shutil.copy(built_in(SMALL, ".onnx"), tmp_path / "model.onnx")
    cache = tmp_path / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_INFER_CACHE", str(cache))
        times = [Timing("onnxruntime", 1, 2, 2.0), Timing("openvino", 1, 2, 1.0)]
        assert remember(Model(tmp_path / "model.onnx"), 8, times, source="a test")
    with serving(tmp_path, "model.onnx", RESNET_INFER_CACHE=str(cache)) as running:
        running.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 60
        while "reloaded" not in running.log.read_text():
            assert time.monotonic() < until, running.log.read_text()
            time.sleep(0.05)
        lines = running.log.read_text().splitlines()
    assert lines[0].startswith("openvino answers for model.onnx from now on; it was measured to be 2.00 times as fast")
    why, again = (line for line in lines if line.startswith("openvino answers: "))
    assert again == why
    assert why.startswith("openvino answers: it was measured to be 2.00 times as fast as onnxruntime here (batch 8")
    assert f"resnet20-cifar10 (fp32, openvino, cpu) is ready at {running.url}" in lines
    assert lines[-1] == "reloaded resnet20-cifar10 (fp32, openvino, cpu)"


def test_the_log_says_once_that_answers_are_in_bf16(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="computes it (the extra `openvino`)")
    from resnet_infer.runtimes.openvino import OpenVinoRuntime

    try:
        OpenVinoRuntime.hardware("cpu", "bf16")
    except RuntimeUnavailableError:
        pytest.skip("needs a processor with bfloat16")
    shutil.copy(built_in(SMALL, ".onnx"), tmp_path / "model.onnx")
    with serving(tmp_path, "model.onnx", "--compute", "bf16", RESNET_INFER_CACHE=str(tmp_path / "cache")) as running:
        said = running.log.read_text()
    assert said.count("model.onnx is computed in bf16 by openvino, as --compute says, and not in FP32") == 1
    assert "resnet20-cifar10 (bf16, openvino, cpu) is ready" in said


def test_health_the_page_and_errors_are_ours(server: Server) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready", "/", "/openapi.json"):
        assert server.get(path).status_code == 200
    assert "googletagmanager" not in server.get("/").text
    assert server.get("/docs.json", headers=HEADERS).status_code == 404
    assert server.post(content=CAT).status_code == 401
    assert server.post("/typed/classify", json={"image": ""}).status_code == 401
    wrong = server.get("/classify", headers=HEADERS)
    assert (wrong.status_code, list(wrong.json())) == (405, ["error"])
    for content in (b"", b"text", CAT[:2000]):
        done = server.post(content=content, headers=HEADERS)
        assert done.status_code in (400, 422)
        assert "Traceback" not in done.text
    assert b"x" * 10 not in server.post(content=b"x" * 33_000_000, headers=HEADERS).content
    assert server.post(content=b"x" * 33_000_000, headers=HEADERS).status_code == 413


def test_beside_what_bentoml_answers_it_is_the_api_that_says_no(server: Server) -> None:
    begin = time.monotonic()
    for method, path, status in (
        ("POST", "/typed/nothing", 404),
        ("GET", "/typed/", 404),
        ("GET", "/typed/classify", 405),
        ("POST", "/schema.json", 405),
    ):
        done = httpx.request(method, f"{server.url}{path}", headers=HEADERS, timeout=60)
        assert (done.status_code, list(done.json())) == (status, ["error"]), path
    assert server.get("/schema.json", headers=HEADERS).json()["name"] == "resnet_infer"
    assert time.monotonic() - begin < 10


JAVA = """
import java.net.URI; import java.net.http.*; import java.nio.file.*;
public class Ask { public static void main(String[] given) throws Exception {
  HttpClient client = HttpClient.newHttpClient();
  for (int i = 0; i < 3; i++) {
    HttpRequest request = HttpRequest.newBuilder(URI.create(given[0])).header("X-API-Key", "secret")
      .POST(HttpRequest.BodyPublishers.ofFile(Path.of(given[1]))).build();
    System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
  } } }
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java")
def test_javas_own_client_is_answered(server: Server, tmp_path: Path) -> None:
    """It offers HTTP/2 with every first request."""
    program = tmp_path / "Ask.java"
    program.write_text(JAVA)
    command = ["java", str(program), f"{server.url}/classify", str(PICTURES / "cat.jpg")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.stdout.split() == ["200"] * 3, run.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_an_offer_of_http2_is_ignored_and_its_body_is_no_request(server: Server, tmp_path: Path) -> None:
    command = ["curl", "-s", "--http2", "-H", "X-API-Key: secret", "-w", "%{http_code}", "-o", str(tmp_path / "answer")]
    command += ["--data-binary", f"@{PICTURES / 'cat.jpg'}", f"{server.url}/classify"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "200"
    body = b"\r\n" * 200_000 + b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: smuggled\r\n\r\n"
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nX-API-Key: secret\r\n{offer}\r\nContent-Length: {len(body)}\r\n\r\n"
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + body)
        connection.settimeout(1)
        received = b""
        with suppress(TimeoutError):
            while piece := connection.recv(1 << 16):
                received += piece
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"422"]
    assert b"smuggled" not in received


def test_a_head_without_end_and_a_progressive_picture_without_end_cost_nothing(server: Server) -> None:
    (worker,) = server.workers()
    status = Path(f"/proc/{worker}/status")

    def peak() -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))

    before, piece = peak(), b"a" * (1 << 20)
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection, suppress(ConnectionError):
        connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        for _ in range(1000):
            connection.sendall(piece)
    assert peak() - before < 16_000
    begin = time.monotonic()
    done = server.post(content=of_scans(8000), headers=HEADERS)
    assert (done.status_code, "more than 500 scans" in done.json()["error"]) == (422, True)
    assert time.monotonic() - begin < 1


@pytest.mark.slow
def test_silent_connections_do_not_shut_others_out(tmp_path: Path) -> None:
    """More than the service has descriptors: those that say nothing, and those that stop within a head."""
    limited = shutil.which("prlimit")
    if limited is None:
        pytest.skip("there is no prlimit")
    with serving(tmp_path, "--workers", "1") as running:
        for process in (running.process.pid, *running.workers()):
            subprocess.run([limited, "--pid", str(process), "--nofile=300:300"], check=True)
        port = int(running.url.rpartition(":")[2])
        for said in (b"", b"GET /livez HTTP/1.1\r\nX: b"):
            begin, held = time.monotonic(), []
            for _ in range(300):
                with suppress(OSError):
                    held.append(socket.create_connection(("127.0.0.1", port)))
                    held[-1].sendall(said)
            while True:
                with suppress(httpx.HTTPError):
                    if running.get("/livez").status_code == 200:
                        break
                assert time.monotonic() - begin < 12
                time.sleep(0.2)
            for connection in held:
                connection.close()


def test_a_websocket_is_refused_at_once(server: Server) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    for path in ("/", "/classify", "/typed/classify"):
        done = httpx.get(f"{server.url}{path}", headers={**upgrade, "Sec-WebSocket-Key": "A" * 22 + "=="}, timeout=10)
        assert done.status_code in (200, 403, 405, 401), path  # without a library for them, it is plain HTTP


def test_what_the_guard_refuses_within_a_body_is_no_error_of_bentoml(server: Server) -> None:
    def parts() -> Iterator[bytes]:  # chunked: no Content-Length
        for _ in range(34):
            yield b"x" * 1_000_000

    done = server.post("/typed/classify", content=parts(), headers={**HEADERS, "content-type": "application/json"})
    assert (done.status_code, done.json()) == (413, {"error": "a request has at most 32 MB"})
    many = b'{"image": [' + b"[]," * 200_000 + b"[]]}"
    done = server.post("/typed/classify", content=many, headers={**HEADERS, "content-type": "application/json"})
    assert (done.status_code, list(done.json())) == (413, ["error"])
    assert "Traceback" not in server.log.read_text()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's imports,
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # and its client's folder
def test_a_client_of_bentoml_can_use_it(server: Server) -> None:
    import bentoml

    with bentoml.SyncHTTPClient(server.url, token="secret") as client:
        done = client.classify(image=base64.b64encode(CAT).decode(), top_k=2)
        assert [item["label"] for item in done["predictions"]] == ["cat", "dog"]
    del client
    gc.collect()
    for image, status in ((base64.b64encode(b"text").decode(), 422), ("?", 400)):
        done = server.post("/typed/classify", json={"image": image}, headers=HEADERS)
        assert (done.status_code, list(done.json())) == (status, ["error"])
    assert "Traceback" not in server.log.read_text()


def test_it_tells_nobody(server: Server) -> None:
    """BentoML's usage report is off in the supervisor and in the processes it starts."""
    for process in (server.process.pid, *server.workers()):
        environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        if process != server.process.pid:  # its own shows how it was started
            assert b"BENTOML_DO_NOT_TRACK=True" in environment
        for line in Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]:
            remote = line.split()[2]
            inode = line.split()[9]
            owned = any(os.readlink(f).endswith(f"[{inode}]") for f in _sockets(process))
            assert not owned or remote.startswith(("0100007F", "00000000")), "a connection that leaves this machine"


def _sockets(process: int) -> list[str]:
    return [path for path in map(str, Path(f"/proc/{process}/fd").iterdir()) if os.path.islink(path)]


def test_a_hangup_loads_the_model_anew_without_losing_a_request(server: Server) -> None:
    async def exchange() -> list[int]:
        async with httpx.AsyncClient(timeout=60, headers=HEADERS) as client:
            stop = False

            async def ask() -> list[int]:
                seen = []
                while not stop:
                    seen.append((await client.post(f"{server.url}/classify", content=CAT)).status_code)
                return seen

            asking = [asyncio.ensure_future(ask()) for _ in range(4)]
            await asyncio.sleep(0.2)
            before = server.log.read_text().count("reloaded")
            server.process.send_signal(signal.SIGHUP)
            until = time.monotonic() + 60
            while server.log.read_text().count("reloaded") == before:
                assert time.monotonic() < until, server.log.read_text()
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)
            stop = True
            return [status for seen in await asyncio.gather(*asking) for status in seen]

    workers = server.workers()
    statuses = asyncio.run(exchange())
    assert set(statuses) == {200}
    assert server.workers() == workers, "the process was exchanged, not the model"


def test_a_killed_process_is_replaced(server: Server) -> None:
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    until = time.monotonic() + 60
    while server.workers() in ([], [worker]):
        assert time.monotonic() < until
        time.sleep(0.05)
    server.wait_until_ready()
    assert server.post(content=CAT, headers=HEADERS).status_code == 200
    text = server.get("/metrics", headers=HEADERS).text
    assert re.search(r"resnet_infer_active_requests 1\.0", text), "the dead process still counts"


def test_sigterm_answers_all_that_it_has_and_leaves_nothing(server: Server) -> None:
    """A hundred requests are with the service when it is told to stop; new ones are refused, not left hanging."""

    async def leave() -> tuple[list[Any], int]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(timeout=60, headers=HEADERS, limits=limits) as client:
            params = {"crops": 10}
            requests = [
                asyncio.ensure_future(client.post(f"{server.url}/classify", content=CAT, params=params))
                for _ in range(100)
            ]
            while True:
                text = (await client.get(f"{server.url}/metrics")).text
                found = re.search(r"resnet_infer_active_requests (\d+)", text)
                done = sum(request.done() for request in requests)
                assert found
                if int(found[1]) - 1 + done == 100:
                    break
            assert done < 100, "all were answered before the signal"
            server.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*requests)
            return answers, done

    answers, done = asyncio.run(leave())
    assert [answer.status_code for answer in answers] == [200] * 100
    assert {answer.json()["predictions"][0]["label"] for answer in answers} == {"cat"}
    assert done < 100
    assert server.process.wait(60) == 0
    assert list(server.temporary.iterdir()) == []
    assert "Traceback" not in server.log.read_text()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(server.url.rpartition(":")[2]))) != 0
