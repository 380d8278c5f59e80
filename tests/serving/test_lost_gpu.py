"""A process whose GPU is lost ends, and the supervisor starts another that answers."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

pytest.importorskip("bentoml", reason="a service needs the extra `serve`")
httpx = pytest.importorskip("httpx", reason="the client of these tests")
if not Path("/proc").is_dir():
    pytest.skip("the processes of a service are found in /proc", allow_module_level=True)

from resnet_infer.zoo import SMALL, built_in  # noqa: E402
from tests.conftest import PICTURES, ROOT  # noqa: E402
from tests.serving.servers import serving  # noqa: E402

CAT = (PICTURES / "cat.jpg").read_bytes()
PLANT = """
import importlib.abc, importlib.util, os, sys
NAME = "resnet_infer.runtimes.onnxruntime"

class Plant(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            infer = module.OnnxRuntime._run
            def failing(runtime, images):
                if os.path.exists(os.environ["BREAK_THE_GPU"]):
                    runtime.device = "cuda:0"
                if runtime.device == "cuda:0":
                    raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")
                return infer(runtime, images)
            module.OnnxRuntime._run = failing
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Plant())
"""
"""Breaks the GPU of a process that infers while the file BREAK_THE_GPU exists; nothing mends it in that process."""


def test_the_process_is_replaced_by_one_that_answers(tmp_path: Path) -> None:
    shutil.copy(built_in(SMALL, ".onnx"), tmp_path / "model.onnx")
    planted, switch = tmp_path / "planted", tmp_path / "break"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(PLANT)
    environment = {"PYTHONPATH": f"{planted}:{ROOT}", "BREAK_THE_GPU": str(switch)}
    with serving(tmp_path, "model.onnx", **environment) as server:
        (first,) = server.workers()
        assert server.post(content=CAT).status_code == 200
        switch.touch()
        response = server.post(content=CAT)
        assert (response.status_code, response.json()) == (503, {"error": "not now: the GPU failed"})
        switch.unlink()
        until = time.monotonic() + 40
        while server.workers() in ([first], []) and time.monotonic() < until:
            time.sleep(0.2)
        (second,) = server.workers()
        assert second != first
        server.wait_until_ready()
        assert server.post(content=CAT).status_code == 200
        log = server.log.read_text()
        assert "an illegal memory access was encountered" in log
        assert "this process ends, and another takes its place" in log
        assert "Traceback" not in log
        assert server.stop() == 0
