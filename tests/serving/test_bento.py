"""`bentoml build`: what is built has all that it needs, and serves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PICTURES, ROOT

pytest.importorskip("bentoml", reason="a service needs the extra `serve`")
yaml = pytest.importorskip("yaml", reason="bentoml brings it")
httpx = pytest.importorskip("httpx", reason="the client of these tests")

from .servers import Server, free_port  # noqa: E402


def test_the_bento_asks_for_what_the_package_asks_for() -> None:
    tomllib = pytest.importorskip("tomllib", reason="in Python from 3.11 on")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [item.split(";")[0] for item in project["dependencies"] + extras["cpu"] + extras["serve"]]
    assert yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]["packages"] == wanted


@pytest.mark.slow
def test_a_bento_is_built_and_serves(tmp_path: Path) -> None:
    """With the package that is in it, and a Dockerfile beside it."""
    source, home, log = tmp_path / "source", tmp_path / "home", tmp_path / "log"
    home.mkdir()
    shutil.copytree(ROOT / "resnet_infer", source / "resnet_infer", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "bentofile.yaml", source)
    about = source / "resnet_infer" / "__init__.py"
    about.write_text(re.sub(r'__version__ = ".*"', '__version__ = "9.9.9"', about.read_text()))
    bentoml = [sys.executable, "-m", "bentoml"]
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": ""}
    subprocess.run([*bentoml, "build", "."], cwd=source, env=environment, check=True, capture_output=True)
    (bento,) = (path for path in (home / "bentos" / "resnet_infer").iterdir() if path.is_dir())
    assert "ENTRYPOINT" in (bento / "env" / "docker" / "Dockerfile").read_text()
    port = free_port()
    command = [*bentoml, "serve", ".", "--host", "127.0.0.1", "--port", str(port)]
    with open(log, "wb") as output:
        process = subprocess.Popen(command, cwd=bento, env=environment, stdout=output, stderr=output)
    server = Server(process, f"http://127.0.0.1:{port}", log, tmp_path)
    try:
        server.wait_until_ready()
        assert server.get("/model").json()["version"] == "9.9.9"
        answer = server.post(content=(PICTURES / "cat.jpg").read_bytes()).json()
        assert answer["predictions"][0]["label"] == "cat"
    finally:
        assert server.stop() in (0, -15)
