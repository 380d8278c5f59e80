"""Many requests at a time: each gets its own answer, overload is refused, a new model takes over unnoticed."""

from __future__ import annotations

import asyncio
import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_infer.classifier import Classifier, Picture
from resnet_infer.zoo import SMALL, built_in
from tests.conftest import PICTURES
from tests.serving.conftest import Service

Make = Callable[..., Service]
CAT = (PICTURES / "cat.jpg").read_bytes()


def pictures(count: int) -> list[bytes]:
    """Each another one: parts of the tests' pictures, in different sizes."""
    generator = np.random.default_rng(0)
    originals = [Image.open(path).convert("RGB") for path in sorted(PICTURES.iterdir())]
    made = []
    for number in range(count):
        original = originals[number % len(originals)]
        side = int(generator.integers(40, min(original.size) // 2))
        left, top = (int(generator.integers(0, full - side)) for full in original.size)
        buffer = io.BytesIO()
        original.crop((left, top, left + side, top + side + int(generator.integers(0, 9)))).save(buffer, "PNG")
        made.append(buffer.getvalue())
    assert len(set(made)) == count
    return made


@pytest.mark.parametrize("count", [300, pytest.param(4000, marks=pytest.mark.slow)])
def test_concurrent_requests_are_never_mixed_up(make_service: Make, count: int) -> None:
    """Every third with ten crops, every fifth in a form, every seventh one of a list: the answer of `classify`."""
    service = make_service(max_queue=10**6, timeout=3000)
    contents = pictures(count)
    expected: dict[tuple[int, int], list[float]] = {}
    with Classifier(throughput=True) as classifier:
        for crops in (1, 10):
            stream = classifier.stream(
                [Picture(str(i), item) for i, item in enumerate(contents)], crops=crops, top_k=10
            )
            for number, answer in enumerate(stream):
                by_class = sorted(answer.predictions, key=lambda item: item.index)
                expected[number, crops] = [item.probability for item in by_class]

    async def ask(number: int) -> tuple[int, int, Any]:
        crops = 10 if number % 3 == 0 else 1
        params = {"crops": crops, "top_k": 10}
        if number % 7 == 0:
            files = [("images", CAT), ("images", contents[number]), ("images", b"damaged")]
            done = await service.client.post("/classify", params=params, files=files)
            assert done.status_code == 200, done.text
            answers = done.json()["answers"]
            assert [answer.get("status") for answer in answers] == [None, None, 422]
            return number, crops, answers[1]
        sent: dict[str, Any] = (
            {"files": {"image": contents[number]}} if number % 5 == 0 else {"content": contents[number]}
        )
        done = await service.client.post("/classify", params=params, **sent)
        assert done.status_code == 200, done.text
        return number, crops, done.json()

    async def together() -> list[tuple[int, int, Any]]:
        return await asyncio.gather(*(ask(number) for number in range(count)))

    batches = set()
    for number, crops, answer in service.run(together()):
        by_class = sorted(answer["predictions"], key=lambda item: item["index"])
        assert [item["probability"] for item in by_class] == pytest.approx(expected[number, crops], abs=1e-5)
        batches.add(answer["batch"])
    assert max(batches) > 1, "they were not batched"


def test_overload_is_refused_at_once_and_what_is_taken_is_answered(make_service: Make) -> None:
    service = make_service(max_queue=20, max_batch=4)
    done = service.posts([("/classify", {"content": CAT})] * 300)
    statuses = [answer.status_code for answer in done]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 20
    refused = [answer for answer in done if answer.status_code == 503]
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert all("queue is full" in answer.json()["error"] for answer in refused)
    assert service.post("/classify", content=CAT).status_code == 200
    text = service.get("/metrics").text
    assert f'resnet_infer_rejections_total{{reason="full"}} {len(refused)}.0' in text


def test_what_would_come_too_late_is_refused(make_service: Make) -> None:
    service = make_service(max_queue=10**6, max_batch=1)
    many = [("/classify", {"content": CAT})] * 100
    hurried = [("/classify", {"content": CAT, "params": {"timeout_ms": 1}})] * 20
    done = service.posts(many + hurried)
    assert {answer.status_code for answer in done[:100]} == {200}
    assert 503 in {answer.status_code for answer in done[100:]}
    assert {answer.status_code for answer in done[100:]} <= {200, 503}


def test_a_list_larger_than_the_queue_is_answered_when_nothing_waits(make_service: Make) -> None:
    service = make_service(max_queue=4)
    done = service.post("/classify", params={"crops": 10}, files=[("images", CAT)] * 8)
    assert [answer["predictions"][0]["label"] for answer in done.json()["answers"]] == ["cat"] * 8


def test_a_client_that_leaves_harms_nobody(make_service: Make) -> None:
    service = make_service(max_queue=10**6)

    async def leave() -> Any:
        tasks = [asyncio.ensure_future(service.client.post("/classify", content=CAT)) for _ in range(60)]
        await asyncio.sleep(0.01)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    done = service.run(leave())
    assert all(answer.status_code == 200 for answer in done[1::2])
    assert service.manager.current.batcher.waiting_rows == 0
    assert (service.app.traffic.requests, service.app.traffic.memory.bodies) == (set(), 0)


def test_closing_answers_what_was_taken(make_service: Make) -> None:
    service = make_service(max_queue=10**6, start=False).start()

    async def leave() -> Any:
        tasks = [asyncio.ensure_future(service.client.post("/classify", content=CAT)) for _ in range(100)]
        # All were taken before the first is answered; how many of them wait for the runtime is a matter of its speed.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        closing = asyncio.ensure_future(service.manager.close())
        await asyncio.sleep(0)
        late = await service.client.post("/classify", content=CAT)
        await closing
        return late, await asyncio.gather(*tasks)

    late, done = service.run(leave())
    assert late.status_code == 503
    statuses = [answer.status_code for answer in done]
    assert statuses.count(200) >= 50
    assert set(statuses) <= {200, 503}


def test_a_new_model_takes_over_without_losing_a_request(make_service: Make, tmp_path: Path) -> None:
    """The file is exchanged while requests go on; each is answered by the old model or by the new one."""
    onnx = pytest.importorskip("onnx", reason="another model is made with onnx")
    from resnet_infer.models.graph import set_spec
    from resnet_infer.models.spec import METADATA_KEY, ModelSpec

    artifact = tmp_path / "model.onnx"
    shutil.copy(built_in(SMALL, ".onnx"), artifact)
    model = onnx.load(artifact)
    text = next(item.value for item in model.metadata_props if item.key == METADATA_KEY)
    spec = ModelSpec.loads(text, "it")
    set_spec(model, spec.with_(name="newer", classes=tuple(name.upper() for name in spec.classes)))
    service = make_service(keys=("k",), admin=("a",), model=str(artifact), max_queue=10**6)
    headers = {"X-API-Key": "k"}

    async def ask(until: Callable[[], bool]) -> list[tuple[str, str]]:
        seen = []
        while not until():
            done = await service.client.post("/classify", content=CAT, headers=headers)
            assert done.status_code == 200, done.text
            seen.append((done.json()["model"], done.json()["predictions"][0]["label"]))
        return seen

    async def exchange() -> Any:
        finished = False
        asking = [asyncio.ensure_future(ask(lambda: finished)) for _ in range(8)]
        await asyncio.sleep(0.2)
        onnx.save(model, artifact)
        reloads = await asyncio.gather(
            *(service.client.post("/admin/reload", headers={"X-API-Key": "a"}) for _ in range(3))
        )
        await asyncio.sleep(0.2)
        finished = True
        return reloads, [seen for one in await asyncio.gather(*asking) for seen in one]

    reloads, seen = service.run(exchange())
    assert [done.json() for done in reloads] == [{"status": "reloaded", "model": "newer"}] * 3
    assert set(seen) == {("resnet20-cifar10", "cat"), ("newer", "CAT")}
    text = service.get("/metrics", headers=headers).text
    assert 'model="newer",precision="fp32",runtime="onnxruntime"} 1.0' in text
    assert 'model="resnet20-cifar10",precision="fp32",runtime="onnxruntime"} 0.0' in text


def test_a_model_that_cannot_be_opened_does_not_take_over(
    make_service: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = tmp_path / "model.onnx"
    shutil.copy(built_in(SMALL, ".onnx"), artifact)
    service = make_service(keys=("k",), admin=("a",), model=str(artifact))
    artifact.write_bytes(b"damaged")
    done = service.post("/admin/reload", headers={"X-API-Key": "a"})
    assert done.status_code == 409
    assert str(tmp_path) not in done.text
    assert str(artifact) in caplog.text
    assert service.post("/classify", content=CAT, headers={"X-API-Key": "k"}).status_code == 200


def test_idle_and_loaded_give_the_same_answer(make_service: Make) -> None:
    """One request runs on all threads, several on one each: to 1e-5 the same."""
    service = make_service(max_queue=10**6)
    alone = service.post("/classify", content=CAT, params={"crops": 10, "top_k": 10}).json()
    begin = time.monotonic()
    crowd = service.posts([("/classify", {"content": CAT, "params": {"crops": 10, "top_k": 10}})] * 40)
    assert time.monotonic() - begin < 60
    for done in crowd:
        for mine, other in zip(alone["predictions"], done.json()["predictions"], strict=True):
            assert mine["index"] == other["index"]
            assert mine["probability"] == pytest.approx(other["probability"], abs=1e-5)
