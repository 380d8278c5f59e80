"""`--compute`: what each command that has the option says of answers in bfloat16."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer import zoo
from resnet_infer.errors import MissingExtraError, RuntimeUnavailableError
from resnet_infer.selection import bf16_guard
from tests.conftest import PICTURES, Outcome

Cli = Callable[..., Outcome]


def _has_bf16() -> bool:
    """Whether OpenVINO and torch are installed, and the processor has bfloat16."""
    try:
        from resnet_infer.runtimes.openvino import OpenVinoRuntime
        from resnet_infer.runtimes.pytorch import TorchRuntime

        OpenVinoRuntime.hardware("cpu", "bf16")
        TorchRuntime.hardware("cpu", "bf16")
    except (ImportError, MissingExtraError, RuntimeUnavailableError):
        return False
    return True


needs_bf16 = pytest.mark.skipif(not _has_bf16(), reason="OpenVINO, torch and a processor with bfloat16")


@pytest.fixture(autouse=True)
def no_note_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16_guard, "_NOTED", set())


def test_what_is_no_value_of_it(cli: Cli) -> None:
    done = cli("classify", PICTURES / "ship.jpg", "--compute", "half")
    assert (done.code, "--compute" in done.err) == (2, True)
    done = cli("classify", PICTURES / "ship.jpg", "-m", zoo.DEFAULT, "--compute", "bf16")  # INT8
    assert (done.code, "--compute bf16 is for FP32 models" in done.err) == (2, True)
    done = cli("export", zoo.SMALL, "--allow", "bf16")
    assert (done.code, "--allow bf16 is for --target auto" in done.err) == (2, True)


@needs_bf16
def test_the_commands_say_it(cli: Cli) -> None:
    done = cli("classify", PICTURES / "ship.jpg", "-m", zoo.SMALL, "--compute", "bf16")
    assert done.code == 0
    assert "is computed in bf16 by openvino, as --compute says" in done.err
    assert "ship" in done.out.splitlines()[1]
    arguments = ("-m", zoo.SMALL, "--compute", "bf16", "--runtime")
    assert cli("classify", PICTURES / "ship.jpg", *arguments, "torch").code == 0
    done = cli("classify", PICTURES / "ship.jpg", *arguments, "onnxruntime")
    assert (done.code, "hint: --runtime openvino or torch" in done.err) == (1, True)
    done = cli("classify", PICTURES / "ship.jpg", "--url", "http://127.0.0.1:9", "--compute", "bf16")
    assert (done.code, "its own model, runtime, device, batches, threads and compute" in done.err) == (2, True)
    assert "it has --compute bf16" in cli("classify", PICTURES / "ship.jpg", "--bf16").err


@needs_bf16
def test_evaluate_compares_it_with_the_reference_in_fp32(cli: Cli, tmp_path: Path) -> None:
    for number, name in enumerate(("ship", "cat")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for copy in range(2):
            (tmp_path / "data" / name / f"{number}{copy}.jpg").write_bytes((PICTURES / f"{name}.jpg").read_bytes())
    arguments = ("evaluate", zoo.SMALL, tmp_path / "data", "--compute", "bf16", "--reference", zoo.SMALL, "--json")
    results = json.loads(cli(*arguments).out)["results"]
    told = [(item["precision"], item["runtime"]["precision"], item["runtime"]["runtime"]) for item in results]
    assert told == [("fp32", "fp32", "onnxruntime"), ("bf16", "bf16", "openvino")]


@needs_bf16
def test_benchmark_says_it(cli: Cli) -> None:
    arguments = ("benchmark", zoo.SMALL, "--compute", "bf16", "--rounds", 1, "--seconds", 0.01)
    done = cli(*arguments, "--json")
    (row,) = json.loads(done.out)["results"]
    assert (row["compute"], row["opened"]["precision"], row["opened"]["runtime"]) == ("bf16", "bf16", "openvino")
    assert done.err.count("is computed in bf16 by openvino") == 1


@needs_bf16
def test_a_load_says_it(cli: Cli) -> None:
    done = cli("benchmark", zoo.SMALL, "--compute", "bf16", "--scenario", "closed-loop", "--seconds", 0.2)
    assert f"{zoo.SMALL} bf16, in process, openvino on cpu" in done.out
    assert done.err.count("is computed in bf16 by openvino") == 1
