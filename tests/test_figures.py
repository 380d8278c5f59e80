"""The speed table of the README says what was measured: its figures against `benchmarks/results`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import ROOT

LINES = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def measured(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def rows() -> dict[str, list[str]]:
    """What each row of the table should say, by how its line in the README begins."""
    startup, throughput, peers = measured("startup"), measured("throughput"), measured("peers")
    evaluation, int8, training = measured("evaluation"), measured("int8"), measured("training")
    first = startup["resnet18-tinyimagenet: classify one photo / bare onnxruntime and PIL"]
    page = startup["--help / python -c 'import typer'"]
    small, large = throughput["resnet20-cifar10"], throughput["resnet50"]
    own, tiny = evaluation["resnet20-cifar10"], evaluation["resnet18-tinyimagenet"]
    pipeline, loader = peers["pipeline"], peers["loader"]
    one, eight = int8["batch 1"], int8["batch 8"]
    rates = training["pictures_per_s"]
    fp32, lower, nncf = "resnet-infer FP32", "resnet-infer INT8", "openvino INT8 (NNCF)"
    calls = peers["batch1"], peers["batch8"]
    hugging, eager = "Hugging Face, batch 8", "torch eager + DataLoader, batch 8"
    return {
        "| `classify cat.jpg`": [
            f"{first['ours_median_s']:.2f} s, {first['ours_peak_mb']:.0f} MB",
            f"{first['theirs_median_s']:.2f} s, {first['theirs_peak_mb']:.0f} MB",
            f"{1 / first['ratio']:.2f}",
        ],
        "| `resnet-infer --help`": [
            f"{page['ours_median_s']:.3f} s",
            f"{page['theirs_median_s']:.3f} s",
            f"{1 / page['ratio']:.2f}",
        ],
        "| `resnet20-cifar10`, JPEG": [
            f"{small['classify_per_s']:.0f} images/s",
            f"{small['loop_per_s']:.0f}",
            f"{small['classify / loop']:.2f}",
        ],
        "| ResNet-50 FP32, JPEG": [
            f"{large['classify_per_s']} images/s",
            f"{large['loop_per_s']}",
            f"{large['classify / loop']:.2f}",
        ],
        "| | | upper bound of the two cores: 42": [f"{large['bound_per_s']}", f"{large['classify / bound']:.2f}"],
        "| ResNet-50 FP32 / INT8, JPEG": [
            f"{pipeline[fp32]['pictures_per_s']} / {pipeline[lower]['pictures_per_s']} images/s",
            f"{pipeline[hugging]['pictures_per_s']}",
            f"{pipeline[fp32][f'times {hugging}']:.1f} / {pipeline[lower][f'times {hugging}']:.1f}",
        ],
        "| ResNet-50 FP32 / INT8, the same": [
            f"{loader[fp32]['pictures_per_s']} / {loader[lower]['pictures_per_s']} images/s",
            f"{loader[eager]['pictures_per_s']}",
            f"{loader[fp32][f'times {eager}']:.1f} / {loader[lower][f'times {eager}']:.1f}",
        ],
        "| `evaluate` `resnet20-cifar10`": [
            f"{own['evaluate_per_s']:.0f} images/s",
            f"{own['loop_per_s']:.0f}",
            f"{own['evaluate / loop']:.2f}",
        ],
        "| `evaluate` `resnet18-tinyimagenet`": [
            f"{tiny['evaluate_per_s']:.0f} images/s",
            f"{tiny['loop_per_s']:.0f}",
            f"{tiny['evaluate / loop']:.2f}",
        ],
        "| | | upper bound of the two cores: 657": [f"{tiny['bound_per_s']:.0f}", f"{tiny['evaluate / bound']:.3f}"],
        "| ResNet-50 INT8, batch": [
            f"{one['ours_ms']:.1f} / {eight['ours_ms']:.1f} ms",
            f"{one['fp32_ms']:.1f} / {eight['fp32_ms']:.1f} ms",
            f"{one['fp32 / ours']:.1f} / {eight['fp32 / ours']:.1f}",
        ],
        "| ResNet-50 INT8, the runtime": [
            f"{calls[0][lower]['ms']:.1f} / {calls[1][lower]['ms']:.1f} ms",
            f"{calls[0][nncf]['ms']:.1f} / {calls[1][nncf]['ms']:.1f} ms",
            f"{1 / calls[0][lower]['ratio']:.2f} / {1 / calls[1][lower]['ratio']:.2f}",
        ],
        "| | | best graph": [
            f"{one['QOperator_ms']:.1f} / {eight['QOperator_ms']:.1f} ms",
            f"{one['QOperator / ours']:.2f} / {eight['QOperator / ours']:.2f}",
        ],
        "| ResNet-20, batch 128, bf16": [
            f"{rates['train']} images/s",
            f"{rates['plain loop']}",
            f"{training['train / plain loop']:.1f}",
            training["precision of train"],
        ],
        "| ResNet-20, batch 128, eager FP32": [
            f"{rates['train, eager fp32']} images/s",
            f"{training['train, eager fp32 / plain loop']}",
        ],
    }


@pytest.mark.parametrize(
    ("begins", "figures"), rows().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_row_of_the_speed_table_says_what_was_measured(begins: str, figures: list[str]) -> None:
    (line,) = (line for line in LINES if line.startswith(begins))
    assert [figure for figure in figures if figure not in line] == []


def test_gates_that_did_not_hold_are_told() -> None:
    """In the README, by the figure that missed them."""
    text = "\n".join(LINES)
    for name in ("evaluation", "serving", "throughput", "int8", "inference", "startup", "training", "loadgen"):
        for gate, holds in measured(name)["gates"].items():
            if not holds:
                subject, _, what = gate.partition(": ")
                found = measured(name)
                row = found[subject] if subject in found else found["large"][subject.split()[1]]
                assert f"{row[what.partition(' >=')[0]]:.3f}" in text, gate


def test_a_goal_beside_other_libraries_that_was_missed_is_told() -> None:
    """In the README, by the speed-up, or the end of the interval, that missed it."""
    peers = measured("peers")
    text = " ".join(LINES)
    sentences = text[text.index("The benchmark scripts check goals") :].partition("`evaluate`")[0]
    parts = {
        "Hugging Face": ("pipeline", "Hugging Face, batch 8"),
        "torch": ("loader", "torch eager + DataLoader, batch 8"),
    }
    for gate in (gate for gate, holds in peers["gates"].items() if not holds):
        if gate.startswith("batch"):
            part, _, rest = gate.partition(": ")
            figure = f"{max(peers[part][rest.partition(' takes ')[0]]['interval']):.3f}"
        else:
            own, _, rest = gate.partition(" >= ")
            part, peer = next(parts[name] for name in parts if name in rest)
            figure = f"{peers[part][own][f'times {peer}']:.1f}"
        assert figure in sentences, gate
