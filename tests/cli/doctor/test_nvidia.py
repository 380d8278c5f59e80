"""What `env` says of NVIDIA's driver and of CUDA's libraries."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from resnet_infer.cli.commands import env
from resnet_infer.cli.doctor import nvidia as module
from resnet_infer.cli.doctor.nvidia import NOTHING, describe, fits_not, nvidia
from resnet_infer.runtimes.nvidia.driver import Driver
from resnet_infer.runtimes.nvidia.fits import FITS, fit_of
from resnet_infer.utils.extras import EXTRAS
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
ROW = asdict(FITS[0])


def test_a_child_says_the_same_as_this_process() -> None:
    assert nvidia() == describe()
    assert nvidia().keys() == NOTHING.keys()


def test_a_driver_that_crashes_the_child_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    monkeypatch.setattr("resnet_infer.runtimes.processes.command", lambda name: crash)
    assert nvidia()["error"] == "asking NVIDIA's driver failed: its process was ended by SIGSEGV"
    monkeypatch.setattr("resnet_infer.runtimes.processes.command", lambda name: ["/no/python"])
    assert nvidia()["error"] == "asking NVIDIA's driver failed (FileNotFoundError)"


def test_a_driver_has_a_row_of_versions_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ask_driver", lambda: Driver((12, 8), ("A100",), "570.1"))
    found = describe()
    assert (found["driver"], found["cuda"], found["gpus"], found["error"]) == ("570.1", "12.8", ["A100"], None)
    row = fit_of(12)
    assert row is not None
    assert found["fits"]["onnxruntime"] == row.onnxruntime
    assert {extra for extra in EXTRAS if fits_not(extra, found["fits"])} == {"gpu", "tensorrt"}
    assert not any(fits_not(extra, None) for extra in EXTRAS)


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({}, {}),
        ({"error": "there is no NVIDIA driver here"}, {}),
        (
            {"driver": "580.1", "cuda": "13.0", "gpus": ["H200", "H100"], "fits": ROW},
            {"NVIDIA driver": "580.1: CUDA up to 13.0, H200, H100", "fits the driver": ROW["onnxruntime"]},
        ),
        ({"cuda": "13.0"}, {"NVIDIA driver": "of unknown version: CUDA up to 13.0, no GPU"}),
        (
            {"driver": "580.1", "error": "NVIDIA's driver does not start (CUDA_ERROR_UNKNOWN)"},
            {"NVIDIA driver": "580.1: NVIDIA's driver does not start"},
        ),
        ({"libraries": {"a.so.1": None, "b.so.2": "cannot"}}, {"CUDA libraries": "missing: b.so.2"}),
        ({"libraries": {"a.so.1": None, "b.so.2": None}}, {"CUDA libraries": "found: a.so.1, b.so.2"}),
    ],
)
def test_rows_name_driver_gpus_and_libraries(change: dict[str, Any], rows: dict[str, str]) -> None:
    found = dict(env._nvidia({**NOTHING, **change}))
    assert found.keys() == rows.keys()
    for name, text in rows.items():
        assert found[name].startswith(text)


def test_env_has_it_and_names_no_extra_for_another_cuda(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "nvidia", lambda: {**NOTHING, "cuda": "12.8", "fits": asdict(FITS[1])})
    monkeypatch.setattr(env, "probe", lambda modules: {name: [{"step": "import", "error": "no"}] for name in modules})
    monkeypatch.setattr(env, "writers", lambda module: [])
    report = json.loads(cli("env", "--json").out)
    assert report["nvidia"]["cuda"] == "12.8"
    named = "".join(report["missing"])
    assert "[gpu-cu12]" in named
    assert "[tensorrt-cu12]" in named
    assert "[gpu]" not in named
    assert "[tensorrt]" not in named
