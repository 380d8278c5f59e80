"""The sidecar of an engine: what it tells, where the engine runs, and how it may be damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnet_infer.errors import ModelError
from resnet_infer.runtimes.tensorrt.engine_file import EngineInfo, read_engine, sidecar_path
from tests.runtimes.engines import INFO


@pytest.mark.parametrize(
    ("built", "here", "compatible", "runs"),
    [
        ("10.3.0", "10.3.0", False, True),
        ("10.3.0", "10.4.0", False, False),
        ("10.3.0", "10.4.0", True, True),
        ("10.3.0", "10.16.1.11", True, True),  # by number, not by letter
        ("10.3.0", "10.2.9", True, False),
        ("10.3.0", "11.4.0", True, True),
        ("8.6.1", "10.3.0", True, True),
        ("8.6.1", "11.4.0", True, False),
        ("11.4.0", "10.3.0", True, False),
    ],
)
def test_the_version_of_tensorrt_decides(built: str, here: str, compatible: bool, runs: bool) -> None:
    info = replace(INFO, tensorrt=built, version_compatible=compatible)
    found = info.differences(here, info.gpu, info.compute_capability)
    assert (found == []) == runs
    if not runs:
        assert found == [f"it was built by TensorRT {built}, and this is TensorRT {here}"]


@pytest.mark.parametrize(
    ("gpu", "capability", "compatible", "runs"),
    [
        ("NVIDIA Test GPU", (9, 0), False, True),
        ("NVIDIA Other GPU", (9, 0), False, False),
        ("NVIDIA Test GPU", (9, 1), False, False),
        ("NVIDIA Other GPU", (10, 0), True, True),
        ("NVIDIA Other GPU", (8, 0), True, True),
        ("NVIDIA Old GPU", (7, 5), True, False),
    ],
)
def test_the_gpu_decides(gpu: str, capability: tuple[int, int], compatible: bool, runs: bool) -> None:
    info = replace(INFO, hardware_compatible=compatible)
    found = info.differences(info.tensorrt, gpu, capability)
    assert (found == []) == runs
    assert runs or gpu in found[0]


def test_a_sidecar_that_is_damaged_in_any_way_is_named(engine: Path) -> None:
    sidecar = sidecar_path(engine)
    good = json.loads(sidecar.read_text())
    assert EngineInfo.load(sidecar).spec.name == "small"
    bad: list[Any] = [[], 3, {}]
    for name, value in good.items():
        if name == "precision":  # for people; the spec has it too
            continue
        bad.append({key: item for key, item in good.items() if key != name})
        if not isinstance(value, bool) and name != "layers":
            bad += [{**good, name: wrong} for wrong in (None, {"x": 1}, [1, 2, 3, 4])]
    bad += [{**good, "batch": [2, 1, 4]}, {**good, "size": [0, 8]}, {**good, "tensorrt": "newest"}]
    for text in ("", "{", *map(json.dumps, bad)):
        sidecar.write_text(text)
        with pytest.raises(ModelError, match=r"model\.engine\.json.* is damaged"):
            read_engine(engine)
    sidecar.write_text(json.dumps({**good, "format": 2}))
    with pytest.raises(ModelError, match="is of format 2 of the engine sidecar; this resnet-infer reads up to 1"):
        read_engine(engine)


def test_the_sidecar_is_read_as_it_was_written(engine: Path) -> None:
    assert sidecar_path(engine).name == "model.engine.json"
    assert read_engine(engine) == (b"an engine", INFO)
    assert json.loads(sidecar_path(engine).read_text())["precision"] == "int8"
