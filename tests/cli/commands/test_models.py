"""The table of models, and one of them in full."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnet_infer import zoo
from resnet_infer.models.weights.published import PUBLISHED, find_published


def test_the_table(cli: Callable[..., Any]) -> None:
    outcome = cli("models")
    assert (outcome.code, outcome.err) == (0, "")
    header, *rows = outcome.out.splitlines()
    assert header.split() == [
        "name",
        "kind",
        "network",
        "classes",
        *("top-1", "error", "top-5", "error"),
        "MB",
        "licence",
    ]
    cells = {row.split()[0]: row.split()[1:] for row in rows}
    assert list(cells) == [*zoo.BUILT_IN, *(weights.name for weights in PUBLISHED)]
    assert cells["resnet20-cifar10"][:3] == ["built-in", "resnet20", "10"]
    assert cells["resnet50.v2"] == [
        *("downloadable", "resnet50", "1,000", "19.14%", "4.57%", "102.4"),
        "BSD-3-Clause",
    ]


def test_json_and_what_is_in_the_cache(cli: Callable[..., Any], tmp_path: Path) -> None:
    weights = find_published("resnet18")
    assert weights is not None
    assert cli("models", "--json").code == 0
    assert not (tmp_path / "cache").exists()
    place = tmp_path / "cache" / "downloads" / "resnet18-f37072fd.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    entries = {entry["name"]: entry for entry in json.loads(cli("models", "--json").out)["models"]}
    assert entries["resnet18.v1"] == {
        "name": "resnet18.v1",
        "also_called": ["resnet18"],
        "kind": "cached",
        "network": "resnet18",
        "classes": 1000,
        "top1_error": 30.242,
        "top5_error": 10.922,
        "bytes": 4 * (11_689_512 + 9_600),
        "licence": "BSD-3-Clause",
        "files": {"download": str(place)},
    }
    assert [name for name, entry in entries.items() if entry["kind"] == "cached"] == ["resnet18.v1"]
    assert entries["resnet50.v1"]["also_called"] == []
    assert entries["resnet50.v2"]["also_called"] == ["resnet50"]
    assert Path(entries["resnet20-cifar10"]["files"]["artifact"]).is_file()
    assert entries["resnet20-cifar10"]["bytes"] > 1e6


def test_one_model(cli: Callable[..., Any]) -> None:
    rows = dict(line.split("  ", 1) for line in cli("models", "ResNet-50").out.splitlines())
    values = {name: value.strip() for name, value in rows.items()}
    assert values["name"] == "resnet50.v2"
    assert values["also called"] == "resnet50"
    assert values["kind"] == "downloadable"
    assert values["input"].startswith("shorter side to 232")
    assert values["url"] == "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    assert values["sha256 prefix"] == "11ad3fa6"
    assert values["licence"] == "BSD-3-Clause"
    detailed = json.loads(cli("models", "resnet50", "--json").out)
    assert (detailed["name"], detailed["spec"]["input"]["resize"]) == ("resnet50.v2", 232)
    built_in = cli("models", "resnet20-cifar10").out
    assert "name" in built_in.splitlines()[0]
    assert "resnet20-cifar10.onnx" in built_in


def test_an_unknown_name(cli: Callable[..., Any]) -> None:
    outcome = cli("models", "resnet51")
    assert (outcome.code, outcome.out) == (1, "")
    assert "did you mean resnet50" in outcome.err
