"""Requests made from the API's own description, good and bad: no 5xx, and nothing that the description does not say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PICTURES
from tests.serving.conftest import Service

pytest.importorskip("schemathesis", reason="makes requests of an OpenAPI document, an extra of the tests")

HOOKS = f"""
import schemathesis
from hypothesis import strategies as st
from pathlib import Path

CAT = Path({str(PICTURES / "cat.jpg")!r}).read_bytes()
for kind in ("jpeg", "png", "webp", "bmp", "gif", "tiff"):
    pictures = st.sampled_from([CAT, CAT[:5000]]) | st.binary(max_size=200)
    schemathesis.openapi.media_type(f"image/{{kind}}", pictures)


@schemathesis.hook
def before_call(context, case, kwargs):
    # A deadline of a millisecond is rightly missed, with 503. One that makes no sense stays.
    for options in (case.query, case.body):
        if isinstance(options, dict) and str(options.get("timeout_ms")).isdigit() and int(options["timeout_ms"]) > 0:
            del options["timeout_ms"]
"""
# Too many pictures are refused with 413.
CONFIG = """
[checks]
negative_data_rejection.expected-statuses = [400, 401, 404, 405, 406, 413, 415, 422]
"""
# A body of random bytes fits its schema, and is no picture: it is rightly refused.
CHECKS = ("--checks", "all", "--exclude-checks", "positive_data_acceptance")


@pytest.mark.parametrize(
    ("phases", "examples"), [("fuzzing", 4), pytest.param("coverage,fuzzing,stateful", 150, marks=pytest.mark.slow)]
)
@pytest.mark.timeout(1800)
def test_the_service_does_what_its_description_says(
    make_service: Callable[..., Service], tmp_path: Path, phases: str, examples: int
) -> None:
    url = make_service(max_queue=10**6, timeout=300).listen()
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", *CHECKS]
    options = ["--phases", phases, "--max-examples", str(examples), "--seed", "2015", "--warnings", "off"]
    quiet = ["--generation-database", "none", "--suppress-health-check", "all", "--no-color"]
    done = subprocess.run(
        [*command, *options, *quiet],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    print(done.stdout[-800:])
