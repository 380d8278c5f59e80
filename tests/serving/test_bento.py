"""`bentoml build`: what is built has all that it needs, and serves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_infer import zoo
from resnet_infer.serving import settings
from resnet_infer.serving.settings import packed_model
from tests.conftest import PICTURES, ROOT

pytest.importorskip("bentoml", reason="a service needs the extra `serve`")
yaml = pytest.importorskip("yaml", reason="bentoml brings it")
httpx = pytest.importorskip("httpx", reason="the client of these tests")

from tests.serving.servers import Server, free_port  # noqa: E402


def test_the_bento_asks_for_what_the_package_asks_for() -> None:
    tomllib = pytest.importorskip("tomllib", reason="in Python from 3.11 on")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [item.split(";")[0] for item in project["dependencies"] + extras["cpu"] + extras["serve"]]
    assert yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]["packages"] == wanted


def test_only_a_bento_has_a_packed_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "src" / "resnet_infer" / "serving" / "settings.py"
    monkeypatch.setattr(settings, "__file__", str(place))
    (tmp_path / "src").mkdir()
    assert packed_model() is None
    model = tmp_path / "src" / "model.onnx"
    model.write_bytes(b"")
    assert packed_model() is None  # a checkout with a model in it
    (tmp_path / "bento.yaml").touch()
    assert packed_model() == str(model.resolve())


def pack(path: Path) -> str:
    """The small built-in model under a name of its own."""
    onnx = pytest.importorskip("onnx", reason="gives the model another name")
    from resnet_infer.models.graph import get_spec, set_spec

    model = onnx.load(zoo.built_in(zoo.SMALL, ".onnx"))
    set_spec(model, get_spec(model).with_(name="mine"))
    onnx.save(model, path)
    return "mine"


@pytest.mark.slow
@pytest.mark.parametrize("packed", [True, False])
def test_a_bento_is_built_and_serves_what_was_packed(packed: bool, tmp_path: Path) -> None:
    """With the package that is in it, and a Dockerfile beside it; no variable names the model."""
    source, home, log = tmp_path / "source", tmp_path / "home", tmp_path / "log"
    home.mkdir()
    shutil.copytree(ROOT / "resnet_infer", source / "resnet_infer", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "bentofile.yaml", source)
    name = pack(source / "model.onnx") if packed else zoo.DEFAULT
    about = source / "resnet_infer" / "_version.py"
    about.write_text(re.sub(r'__version__ = ".*"', '__version__ = "9.9.9"', about.read_text()))
    bentoml = [sys.executable, "-m", "bentoml"]
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": ""}
    environment.pop(zoo.VARIABLE)
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
        assert server.get("/model").json()["name"] == name
        answer = server.post(content=(PICTURES / "cat.jpg").read_bytes()).json()
        assert not packed or answer["predictions"][0]["label"] == "cat"
    finally:
        assert server.stop() in (0, -15)
