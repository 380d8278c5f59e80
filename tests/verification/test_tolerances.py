"""What passes, and the one verdict."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest

import resnet_infer
from resnet_infer.verification import gates
from resnet_infer.verification.metrics import Deviation, measure
from resnet_infer.verification.parity import Parity, judge
from resnet_infer.verification.tolerances import (
    ENGINES,
    FP32_DELTA,
    GATES,
    LAYER_LIMITS,
    LIMITS,
    PARITY,
    Tolerance,
    Verdict,
    agreement_failure,
    delta_failure,
    error_failure,
)

PACKAGE = Path(resnet_infer.__file__).parent


def verdict_classes(folder: Path) -> set[str]:
    """Every class of the package that says whether something passed."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                {
                    item.name if isinstance(item, ast.FunctionDef) else ast.unparse(item.target)
                    for item in node.body
                    if isinstance(item, ast.FunctionDef | ast.AnnAssign)
                }
                if isinstance(node, ast.ClassDef)
                else set()
            )
            if names & {"passed", "passes"}:
                assert isinstance(node, ast.ClassDef)
                found.add(f"{path.relative_to(folder).as_posix()}:{node.name}")
    return found


def test_there_is_one_class_of_verdicts(tmp_path: Path) -> None:
    assert verdict_classes(PACKAGE) == {"verification/tolerances.py:Verdict"}
    (tmp_path / "other.py").write_text("class Outcome:\n    passed: bool\n", encoding="utf-8")
    (tmp_path / "third.py").write_text("class Third:\n    def passes(self): ...\n", encoding="utf-8")
    assert verdict_classes(tmp_path) == {"other.py:Outcome", "third.py:Third"}


def test_a_reason_against_it_is_what_fails() -> None:
    good, bad = Verdict(1, (), "all is well", {"a": 1}), Verdict(1, ("too far",), "it is too far", {"a": 2})
    assert (good.passed, str(good), good.to_json()) == (True, "all is well", {"a": 1})
    assert (bad.passed, str(bad), bad.to_json()) == (False, "it is too far", {"a": 2})


def test_the_figures() -> None:
    """They are published in reports; whoever changes one changes what passes."""
    assert (PARITY.delta, PARITY.agreement, PARITY.own_error) == (FP32_DELTA, 1.0, True) == (1e-4, 1.0, True)
    assert {name: (item.delta, item.agreement) for name, item in ENGINES.items()} == {
        "fp32": (1e-3, 1.0),
        "fp16": (5e-2, 0.9),
        "int8": (5e-1, 0.9),
    }
    assert {name: (item.error, item.agreement) for name, item in GATES.items()} == {
        "fp16": (2e-4, 0.97),
        "int8": (0.03, 0.90),
    }
    assert {name: (item.delta, item.error, item.agreement) for name, item in LIMITS.items()} == {
        "fp32": (1e-4, None, 1.0),
        "tf32": (None, 2e-4, 1.0),
        "fp16": (None, 2e-4, 1.0),
        "bf16": (None, 2e-3, 1.0),
        "int8": (None, 0.03, 0.95),
    }
    assert LAYER_LIMITS.keys() == LIMITS.keys()


def test_the_source_s_own_error_widens_the_tolerance_only_where_it_may() -> None:
    assert PARITY.largest_delta(None) == 1e-4
    assert PARITY.largest_delta(1e-5) == 1e-4
    assert PARITY.largest_delta(1e-3) == pytest.approx(3e-3)
    assert PARITY.largest_delta(math.nan) == 1e-4
    assert Tolerance(delta=1e-4).largest_delta(1e-3) == 1e-4


@pytest.mark.parametrize("value", [1.1, math.nan, math.inf])
def test_what_is_beyond_or_no_number_has_a_reason_against_it(value: float) -> None:
    assert delta_failure(value, 1.0)
    assert error_failure(value, 1.0)
    assert agreement_failure(1 - value, 0.9)
    assert not delta_failure(1.0, 1.0)
    assert not error_failure(1.0, 1.0)
    assert not error_failure(value, None)
    assert not agreement_failure(0.9, 0.9)
    assert not agreement_failure(1 - value, None)


def test_parity_has_its_reasons() -> None:
    apart = judge(Parity("x", 9, Deviation(1.0, None, 0, 2.0), 0.5, PARITY))
    assert apart.failures == (
        "max |logit delta| is 5.0e-01 of the spread, 1e-04 is allowed",
        "50.00% of the answers agree, 100% is asked for",
    )
    assert not judge(Parity("x", 9, Deviation(0.0, None, 0, 0.0), 1.0, PARITY)).passed
    assert judge(Parity("x", 9, Deviation(0.0, None, 0, 1.0), 1.0, PARITY)).passed


def test_a_gate_has_its_reasons() -> None:
    random = np.random.default_rng(0)
    reference = random.normal(size=(40, 10)).astype(np.float32)
    labels = reference.argmax(axis=1)
    wrong = measure(reference, reference[::-1].copy(), labels)
    assert [reason.partition(" is")[0] for reason in gates.judge(wrong, GATES["int8"]).failures] == [
        "the logit error",
        f"{100 * wrong.agreement:.2f}% of the answers agree, 90%",
    ]
    slightly = measure(reference, (reference + 0.3 * random.normal(size=reference.shape)).astype(np.float32), labels)
    assert slightly.difference is not None
    (reason,) = gates.judge(slightly, Tolerance(max_drop=-1.0)).failures
    assert reason == f"the top-1 error changes by {slightly.difference.top1:+.2f} points, -1.00 are allowed"
    (reason,) = gates.judge(measure(reference, reference), Tolerance(max_drop=1.0)).failures
    assert reason == "the pictures have no labels to tell the top-1 error by"
