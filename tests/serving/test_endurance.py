"""Minutes under load: overload is refused and leaves no trace, and memory does not grow. Slow; figures are printed.

With $RESNET_INFER_RESULTS, a folder, they are kept there as `serving-endurance.json`.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import PICTURES

pytest.importorskip("bentoml", reason="a service needs the extra `serve`")
pytest.importorskip("httpx", reason="the client of these tests")
if not Path("/proc/self/status").exists():
    pytest.skip("memory is read from /proc", allow_module_level=True)

from benchmarks.http_load import Load, closed_loop, open_loop, post
from tests.serving.servers import Server, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def pictures() -> list[bytes]:
    """Photos in four sizes and six formats, grey and transparent ones among them."""
    made = []
    for path in sorted(PICTURES.iterdir()):
        original = Image.open(path).convert("RGB")
        for width in (90, 300, 640, 1200):
            picture = original.resize((width, width * original.height // original.width))
            for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
                if kind in ("BMP", "TIFF") and width > 300:
                    continue
                buffer = io.BytesIO()
                (picture.convert("LA") if kind == "PNG" and width == 90 else picture).save(buffer, kind)
                made.append(buffer.getvalue())
    np.random.default_rng(0).shuffle(made)
    return made


def requests(url: str) -> list[bytes]:
    return [post(url, "/classify", content) for content in pictures()]


def keep(name: str, figures: dict[str, Any]) -> None:
    print(f"\n{name}: {json.dumps(figures, indent=2)}")
    if folder := os.environ.get("RESNET_INFER_RESULTS"):
        path = Path(folder, "serving-endurance.json")
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, name: figures}, indent=2) + "\n")


def summary(load: Load) -> dict[str, Any]:
    statuses = {str(status): count for status, count in sorted(load.statuses.items()) if count}
    milliseconds = {f"p{share}_ms": round(1000 * load.quantile(share / 100), 1) for share in (50, 99)}
    return {"statuses": statuses, "per_s": round(load.rate, 1), **milliseconds}


def memory(server: Server) -> float:
    """Resident MB of the process that answers."""
    (worker,) = server.workers()
    lines = Path(f"/proc/{worker}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1000


def test_three_times_what_it_can_do_for_a_minute(tmp_path: Path) -> None:
    bound = 2.0  # at most 512 requests are in progress, or they would wait on the side of the client
    with serving(tmp_path, "--timeout", str(bound), "--max-queue", "4000") as server:
        asked = requests(server.url)
        closed_loop(server.url, asked, connections=8, count=300)
        before = closed_loop(server.url, asked, connections=1, count=200)
        capacity = closed_loop(server.url, asked, connections=16, seconds=10)
        flood = open_loop(server.url, asked, rate=3 * capacity.rate, seconds=60, patience=bound + 10)
        closed_loop(server.url, asked, connections=1, count=20)
        after = closed_loop(server.url, asked, connections=1, count=200)
        metrics = server.get("/metrics").text
    late = [line for line in metrics.splitlines() if line.startswith('resnet_infer_rejections_total{reason="late"}')]
    keep(
        "overload",
        {
            "bound_s": bound,
            "idle before": summary(before),
            "capacity": summary(capacity),
            "3x for 60 s": summary(flood),
            "refused because of time": float(late[0].split()[1]) if late else 0,
            "idle afterwards": summary(after),
        },
    )
    assert {status for status, count in flood.statuses.items() if count} == {200, 503}
    assert flood.quantile(0.99) <= bound
    assert flood.rate >= 0.6 * capacity.rate  # the flood is made on the same cores
    assert flood.quantile(0.99, 503) <= bound  # what was taken and comes too late is refused when its time is over
    assert after.median <= 1.5 * before.median + 0.005


def test_memory_stays_where_it_is(tmp_path: Path) -> None:
    with serving(tmp_path, "--max-queue", "4000") as server:
        asked = requests(server.url)
        figures = {}
        done = 0
        for count in (1000, 2000, 5000, 10000):
            load = closed_loop(server.url, asked, connections=16, count=count - done)
            assert set(load.statuses) == {200}
            done = count
            figures[f"after {count}"] = round(memory(server), 1)
        figures["growth"] = round(figures["after 10000"] / figures["after 1000"] - 1, 4)
    keep("memory_mb", figures)
    assert figures["growth"] <= 0.05
