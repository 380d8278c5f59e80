"""The table of rules: what each covers, and that a runtime that is not there is advised and not chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resnet_infer.runtimes.registry import NAMES, RuntimeInfo
from resnet_infer.selection.rules import (
    RULES,
    USES,
    Rule,
    Situation,
    find_rule,
    missing_for,
    missing_rule,
)

AMX = frozenset({"amx_int8", "avx512_vnni", "avx2"})
SERVICE = Situation(AMX, "int8", "service", stem="imagenet")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RuntimeInfo, "is_installed", True)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RuntimeInfo, "is_installed", property(lambda row: row.name != "openvino"))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("change", "runtime"),
    [
        ({}, "openvino"),
        ({"use": "many"}, "openvino"),
        ({"use": "many", "images": 100}, "openvino"),
        ({"use": "many", "images": 99}, None),
        ({"images": 1}, "openvino"),  # a service goes on
        ({"compute": "fp32"}, "openvino"),
        ({"stem": None}, "openvino"),
        ({"use": "single"}, None),
        ({"precision": "fp32"}, None),
        ({"precision": "fp16"}, None),
        ({"compute": "bf16"}, None),
        ({"suffix": ".xml"}, None),
        ({"stem": "cifar"}, None),
        ({"flags": frozenset({"avx2"})}, None),
        ({"flags": frozenset()}, None),
    ],
)
def test_amx_and_int8_are_answered_by_openvino(change: dict[str, object], runtime: str | None) -> None:
    rule = find_rule(replace(SERVICE, **change))  # type: ignore[arg-type]
    assert (rule.runtime if rule else None) == runtime


@pytest.mark.usefixtures("absent")
def test_a_runtime_that_is_not_installed_is_advised_and_not_chosen() -> None:
    assert find_rule(SERVICE) is None
    rule = missing_rule(SERVICE)
    assert rule is not None
    assert "2.2 times as fast at batch 1 and 2.7 at batch 8" in rule.advice()
    assert rule.advice().endswith('to install it: pip install "resnet-infer[openvino]"')
    assert missing_for(AMX) == [rule for rule in RULES if rule.suits(AMX)]
    assert missing_for(frozenset()) == []
    assert missing_rule(replace(SERVICE, precision="fp32")) is None


@pytest.mark.usefixtures("installed")
def test_nothing_is_advised_where_everything_is_installed() -> None:
    assert missing_rule(SERVICE) is None
    assert missing_for(AMX) == []


@pytest.mark.parametrize("rule", RULES)
def test_a_row_is_whole(rule: Rule) -> None:
    assert rule.runtime in NAMES
    assert rule.ratio > 1.05
    assert f"{rule.ratio:g} times as fast" in rule.measured
    assert set(rule.uses) <= set(USES)
    assert "single" not in rule.uses  # one image is answered soonest by what starts soonest
    assert not rule.flags & rule.without
    assert rule.images > 1
