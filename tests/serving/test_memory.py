"""One bound for bodies and for pictures that are being decoded, whoever comes at the same time."""

from __future__ import annotations

import base64
import io
import random
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

httpx = pytest.importorskip("httpx", reason="the client of these tests")
pytest.importorskip("bentoml", reason="a service needs the extra `serve`")

from resnet_infer.data.formats.kinds import UnusableError  # noqa: E402
from resnet_infer.serving.inference.jobs import RefusedError  # noqa: E402
from resnet_infer.serving.memory import Memory  # noqa: E402
from resnet_infer.zoo import SMALL, built_in  # noqa: E402
from tests.conftest import PICTURES  # noqa: E402
from tests.data.formats.test_memory import files  # noqa: E402
from tests.serving.conftest import Service  # noqa: E402
from tests.serving.servers import serving  # noqa: E402

Make = Callable[..., Service]
CAT = (PICTURES / "cat.jpg").read_bytes()


def test_shares_of_many_threads_never_exceed_the_limit_and_all_get_theirs() -> None:
    memory, most = Memory(100), []

    def work(seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(50):
            with memory.share(time.monotonic() + 60) as share:
                share.take(generator.randint(1, 100))
                share.take(generator.randint(1, share.size))
                most.append(memory.decoding)
                time.sleep(0.0001)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert max(most) <= 100
    assert memory.decoding == 0
    assert not memory._waiting


def test_who_waits_gets_the_memory_in_turn_or_is_refused_when_the_time_is_over() -> None:
    memory, order = Memory(100), []

    def wait(size: int) -> None:
        with memory.share(time.monotonic() + 30) as share:
            share.take(size)
            order.append(size)

    with memory.share(0) as first:
        first.take(60)
        threads = []
        for size in (90, 30):  # the second would fit, but the first would wait for ever if others passed it
            threads.append(threading.Thread(target=wait, args=(size,)))
            threads[-1].start()
            while len(memory._waiting) < len(threads):
                time.sleep(0.001)
        begin = time.monotonic()
        with pytest.raises(RefusedError, match="no memory"), memory.share(begin + 0.1) as late:
            late.take(10)
        assert 0.09 < time.monotonic() - begin < 1
        with pytest.raises(UnusableError, match="more than the service may use"), memory.share(begin + 30) as large:
            large.take(101)
    for thread in threads:
        thread.join(10)
    assert order == [90, 30]
    assert memory.decoding == 0


def test_what_waits_for_memory_is_woken_when_a_body_goes() -> None:
    memory = Memory(100)
    assert memory.hold(50)
    assert not memory.hold(10)
    timer = threading.Timer(0.1, memory.release, (60,))
    timer.start()
    begin = time.monotonic()
    with memory.share(begin + 30) as share:
        share.take(80)
        assert time.monotonic() - begin < 5


def picture(side: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), 77).save(buffer, kind)
    return buffer.getvalue()


def test_a_picture_that_never_fits_is_told_so_and_others_are_answered(make_service: Make) -> None:
    service = make_service(max_memory_mb=20, max_body_mb=5)
    done = service.post("/classify", content=picture(2000))
    assert (done.status_code, "reading it takes 33 MB" in done.json()["error"]) == (422, True)
    done = service.post("/classify", files=[("images", picture(2000)), ("images", CAT)])
    assert ["error" in answer for answer in done.json()["answers"]] == [True, False]


def test_pictures_beyond_the_memory_wait_or_are_refused_in_time(make_service: Make) -> None:
    service = make_service(max_memory_mb=20, max_body_mb=5, timeout=1)
    memory = service.app.traffic.memory
    done = service.posts([("/classify", {"content": picture(1200)})] * 6)  # 15 MB each
    assert {answer.status_code for answer in done} == {200}
    with memory.share(0) as share:
        share.take(19_000_000)
        begin = time.monotonic()
        done = service.posts([("/classify", {"content": picture(1200)})] * 3)
        assert time.monotonic() - begin < 1.6
        assert {answer.status_code for answer in done} == {503}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in done)
    assert service.post("/classify", content=picture(1200)).status_code == 200
    assert (memory.decoding, memory.bodies, len(memory._waiting)) == (0, 0, 0)


def test_json_counts_as_what_its_parser_takes(make_service: Make) -> None:
    service = make_service(max_memory_mb=40, max_body_mb=5)
    json_body = {"image": base64.b64encode(CAT + bytes(2_500_000)).decode()}
    done = service.post("/classify", json=json_body)
    assert (done.status_code, "send the bytes as they are" in done.text) == (413, True)
    assert service.post("/classify", content=CAT + bytes(2_500_000)).status_code == 200
    infer = f"/v2/models/{SMALL}/infer"
    assert service.post(infer, content=bytes(2_000_000)).status_code == 413
    done = service.post(infer, content=bytes(2_000_000), headers={"Inference-Header-Content-Length": "100"})
    assert done.status_code == 400
    assert service.app.traffic.memory.bodies == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read in /proc")
def test_eight_of_the_worst_pictures_at_a_time_stay_within_the_memory(tmp_path: Path) -> None:
    limit = 128
    shutil.copy(built_in(SMALL, ".onnx"), tmp_path / "model.onnx")
    made: dict[str, Any] = {**files(1500, 1400), "gif large": picture(3400, "GIF", "L"), "jpeg": picture(3400, "JPEG")}
    with serving(tmp_path, "model.onnx", "--max-memory-mb", str(limit)) as server:
        (worker,) = server.workers()

        def status(name: str) -> int:
            lines = Path(f"/proc/{worker}/status").read_text().splitlines()
            return next(int(line.split()[1]) // 1000 for line in lines if line.startswith(name))

        server.post(content=CAT)
        idle = status("VmRSS")
        with ThreadPoolExecutor(8) as clients:
            for name, content in made.items():
                Path(f"/proc/{worker}/clear_refs").write_text("5")
                done = list(clients.map(lambda _, content=content: server.post(content=content), range(8)))
                statuses = {answer.status_code for answer in done}
                assert statuses <= ({200, 503} if len(content) > 8_000_000 else {200}), (name, done[0].text)
                assert status("VmHWM") < idle + limit + len(content) // 1_000_000, name  # joined of its pieces
        assert status("VmRSS") < idle + 64, "it is not given back"
