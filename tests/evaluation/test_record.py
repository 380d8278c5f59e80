"""What is kept of every picture's answers."""

from __future__ import annotations

import json

from resnet_infer.evaluation.record import Record


def test_fifty_thousand_pictures_need_little_memory() -> None:
    record = Record(3, 50_000)
    size = sum(part.nbytes for part in (record.ranks, record.top1, record.confidence, record.digests))
    assert size == 50_000 * (3 * 12 + 8)
    assert len(json.dumps([49_999, 2**64 - 1, [[999, 999, 0.123456789]] * 3])) < 120
