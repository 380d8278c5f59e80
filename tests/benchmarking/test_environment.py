"""What is told of the machine, and what is warned of."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

import pytest

from resnet_infer.benchmarking import environment as module
from resnet_infer.benchmarking.environment import environment, warnings


def test_it_tells_the_machine_and_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("KMP_AFFINITY", raising=False)
    found = json.loads(json.dumps(environment()))
    assert found["python"] == platform.python_version()
    assert found["processor"]
    assert 1 <= found["usable_cores"] <= found["cores"]
    assert found["packages"]["numpy"]
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert "KMP_AFFINITY" not in found["variables"]
    if sys.platform == "linux":
        assert set(found["flags"]) <= set(Path("/proc/cpuinfo").read_text().split())
        assert found["memory_gb"] > 0
        assert len(found["load_average"]) == 3


@pytest.mark.parametrize(
    ("load", "governor", "said"),
    [
        ([0.9, 9, 9], "performance", []),
        ([1.1, 0, 0], None, ["not quiet: its load average is 1.1 on 2 cores"]),
        (None, "powersave", ["the governor is powersave"]),
        ([2, 2, 2], "powersave", ["not quiet", "powersave"]),
    ],
)
def test_a_busy_machine_and_a_saving_governor_are_warned_of(
    load: list[float] | None, governor: str | None, said: list[str]
) -> None:
    lines = warnings({"load_average": load, "usable_cores": 2, "governor": governor})
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


@pytest.mark.skipif(os.name != "posix", reason="a program that is a script")
def test_gpus_are_those_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 550.1, 143771 MiB, 700.00 W, 1980 MHz, Enabled, Disabled'\n")
    program.chmod(0o755)
    (gpu,) = module.gpus()
    assert (gpu["name"], gpu["driver_version"], gpu["memory.total"]) == ("NVIDIA H200", "550.1", "143771 MiB")
    program.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert module.gpus() == []
