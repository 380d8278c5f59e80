"""gunicorn, which opens a `Classifier` once and forks its workers from that process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from resnet_infer import Classifier, zoo
from tests.conftest import PICTURES, ROOT

GUNICORN = """
from resnet_infer import Classifier

classifier = Classifier({model!r}, runtime={runtime!r})

def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    answer = repr(classifier.classify(body)).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]
"""
CONFIGURATION = """
import os

real = os.waitpid

def waitpid(pid, options):
    found = real(pid, options)
    if found[0]:
        with open("ended", "a") as file:
            file.write(f"{os.waitstatus_to_exitcode(found[1])}\\n")
    return found

os.waitpid = waitpid  # the master learns by it how its workers ended
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(
    ("runtime", "kind", "requests"),
    [
        pytest.param("onnxruntime", "sync", 150),
        pytest.param("onnxruntime", "gthread", 150),
        pytest.param("openvino", "sync", 60, marks=pytest.mark.slow),
        pytest.param("torch", "gthread", 60, marks=pytest.mark.slow),
    ],
)
def test_gunicorn_with_a_preloaded_classifier(runtime: str, kind: str, requests: int, tmp_path: Path) -> None:
    """Every request is answered right, by workers that are replaced after 15, and each of them ends with 0."""
    pytest.importorskip("gunicorn", reason="needs gunicorn (the extra `test`)")
    pytest.importorskip(runtime)
    (tmp_path / "app.py").write_text(GUNICORN.format(model=zoo.SMALL, runtime=runtime))
    (tmp_path / "settings.py").write_text(CONFIGURATION)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        options = f"-b fd://{listening.fileno()} -w 2 --preload --max-requests 15 -k {kind}"
        options += " --threads 4" if kind == "gthread" else ""
        pictures = [path.read_bytes() for path in sorted(PICTURES.glob("*.jpg"))[:4]]
        with Classifier(zoo.SMALL, runtime=runtime) as classifier:
            expected = [repr(classifier.classify(picture)) for picture in pictures]
        with open(tmp_path / "log", "wb") as log:
            master = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "settings.py", *options.split(), "app:app"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
                pass_fds=[listening.fileno()],
                stdout=log,
                stderr=log,
            )
        try:
            for number in range(requests):
                connection = HTTPConnection("127.0.0.1", listening.getsockname()[1], timeout=60)
                connection.request("POST", "/", pictures[number % 4])
                assert connection.getresponse().read().decode() == expected[number % 4]
                connection.close()
            leaving = (tmp_path / "log").read_text().count("Autorestarting")
            # A worker that is ending Python has no handler for SIGTERM any more.
            while leaving and len((tmp_path / "ended").read_text().split()) < leaving:
                time.sleep(0.05)
            master.send_signal(signal.SIGTERM)
            assert master.wait(60) == 0, (tmp_path / "log").read_text()
        finally:
            master.kill()
            master.wait()
        ended = (tmp_path / "ended").read_text().split()
        assert len(ended) >= requests // 15 - 1
        assert set(ended) == {"0"}, (tmp_path / "log").read_text()
