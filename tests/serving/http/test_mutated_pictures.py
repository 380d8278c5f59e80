"""Damaged pictures: hundreds of them are answered or refused, and none is the server's fault."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tests.conftest import PICTURES
from tests.serving.conftest import Service

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
EACH = 40


def corpus() -> list[bytes]:
    """Forty of each format: cut off, bytes exchanged, filled, doubled, moved. The same every time."""
    generator = np.random.default_rng(2015)
    original = Image.open(PICTURES / "cat.jpg").convert("RGB").resize((96, 64))
    made = []
    for kind in FORMATS:
        buffer = io.BytesIO()
        original.save(buffer, kind)
        whole = buffer.getvalue()
        for number in range(EACH):
            data = np.frombuffer(whole, np.uint8).copy()
            way = number % 5
            if way == 0:
                data = data[: int(generator.integers(1, len(data)))]
            elif way == 1:
                places = generator.integers(0, len(data), int(generator.integers(1, 30)))
                data[places] = generator.integers(0, 256, len(places))
            elif way == 2:
                start = int(generator.integers(0, len(data)))
                data[start : start + int(generator.integers(1, 64))] = generator.integers(0, 2) * 255
            elif way == 3:
                data = np.concatenate([data[: int(generator.integers(2, 64))], data])
            else:
                head = data[:64]
                head[generator.integers(4, min(64, len(head)), 3)] ^= generator.integers(1, 256, 3).astype(np.uint8)
            made.append(data.tobytes())
    return made


def test_a_damaged_picture_is_answered_or_refused_and_never_a_500(service: Service) -> None:
    pictures = corpus()
    assert len(pictures) >= 200
    done = service.posts([("/classify", {"content": content}) for content in pictures])
    statuses = [answer.status_code for answer in done]
    assert set(statuses) <= {200, 413, 415, 422}, sorted(set(statuses))
    assert statuses.count(422) >= len(pictures) // 4
    assert all(answer.json()["error"] for answer in done if answer.status_code != 200)


def test_in_a_list_the_others_are_answered(service: Service) -> None:
    whole = (PICTURES / "cat.jpg").read_bytes()
    for start in range(0, 240, 60):
        files = [("images", content) for content in corpus()[start : start + 60]]
        done = service.post("/classify", files=[("images", whole), *files, ("images", whole)])
        answers = done.json()["answers"]
        assert answers[0]["predictions"][0]["label"] == answers[-1]["predictions"][0]["label"] == "cat"
        assert len(answers) == 62
