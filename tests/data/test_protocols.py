"""The table of protocols, and that no other module of the package has a list of their names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_infer.data.protocols import DEFAULTS, NAMES, PROTOCOLS, SIZED, Protocol, default_protocol, find_protocol
from resnet_infer.errors import UsageError
from resnet_infer.evaluation.paper import ENSEMBLE, TABLES
from resnet_infer.models.spec import InputSpec
from tests.test_house import PACKAGE, modules

HOME = "data/protocols.py"
ALLOWED = {
    "evaluation/paper.py": "each published table says by which protocol it was measured",
}
"""File beside the table that names protocols -> the reason."""


def prose(tree: ast.Module) -> set[int]:
    """The constants that are docstrings, or texts below attributes: they explain and decide nothing."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def named(text: str) -> set[str]:
    """The protocols in a text: as words of it that are no parts of longer ones."""
    return {name for name in NAMES if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)}


def lists(package: Path = PACKAGE) -> Iterator[str]:
    """The files that name two or more protocols, and those that compare a value with the name of one."""
    for path, tree in modules(package):
        skipped, found = prose(tree), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                found |= named(node.value)
            parts = [node.subject, *(case.pattern for case in node.cases)] if isinstance(node, ast.Match) else []
            if isinstance(node, ast.Compare):
                parts = [node.left, *node.comparators]
            constants = [one for part in parts for one in ast.walk(part) if isinstance(one, ast.Constant)]
            if any(one.value in NAMES for one in constants):
                yield f"{path} branches on a protocol's name"
        if len(found) > 1:
            yield f"{path} names {', '.join(sorted(found))}"


def test_only_the_table_names_the_protocols() -> None:
    found = {line.partition(" ")[0]: line for line in lists()}
    assert set(found) == {HOME, *ALLOWED}, found


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ('T = ("native", "1-crop")', True),
        ('T = {"10-crop": 10}\nU = {"multi-scale": 2}', True),
        ('def f(a):\n    """Do."""\n    return "native" if a else "1-crop"', True),
        ('METAVAR = "native|1-crop|10-crop|multi-scale"', True),
        ('def f(a):\n    return 10 if a == "10-crop" else 1', True),
        ('def f(a):\n    return a in ("10-crop", "x")', True),
        ('def f(a):\n    match a:\n        case "10-crop":\n            return 1', True),
        ('M = "1-crop"', False),
        ('"""Compare native and 1-crop."""\nM = "1-crop"', False),
        ('M = "not-native, 11-crop, 110-crop, multi-scales"', False),
        ('def f(a):\n    return a == "native, exactly"', False),
    ],
)
def test_a_planted_list_is_caught(tmp_path: Path, text: str, caught: bool) -> None:
    (tmp_path / "planted.py").write_text(text, encoding="utf-8")
    assert bool([*lists(tmp_path)]) == caught


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=NAMES)
def test_a_row_says_how_many_views_there_are(protocol: Protocol) -> None:
    spec = InputSpec(32, 28, np.zeros(3), np.ones(3))
    views = protocol.function()(Image.new("RGB", (48, 32)), spec)
    assert views.dtype == np.uint8
    assert views.shape == (protocol.views, *((32, 48) if protocol.needs_sizes else (28, 28)), 3)


def test_names_are_distinct_and_rows_are_frozen() -> None:
    assert len(set(NAMES)) == len(PROTOCOLS)
    with pytest.raises(FrozenInstanceError):
        PROTOCOLS[0].views = 2  # type: ignore[misc]


def test_every_published_table_stands_beside_a_protocol() -> None:
    columns = {column for item in PROTOCOLS for column in item.paper_columns}
    assert {table.protocol for table in TABLES} == {*columns, ENSEMBLE}


def test_one_row_is_the_default_where_the_crop_is_all_and_one_where_it_is_not() -> None:
    assert sorted(item.default_for for item in PROTOCOLS if item.default_for) == ["centre", "whole"]
    assert all(find_protocol(name).views == 1 for name in DEFAULTS.values())
    assert default_protocol(InputSpec(32, 32, np.zeros(3), np.ones(3))) == "native"
    assert default_protocol(InputSpec(256, 224, np.zeros(3), np.ones(3))) == "1-crop"


def test_errors_by_the_same_views_are_comparable() -> None:
    assert find_protocol("native").alike() == find_protocol("1-crop").alike() == ("native", "1-crop")
    assert find_protocol("10-crop").alike() == ("10-crop",)
    assert find_protocol("multi-scale").alike() == SIZED == ("multi-scale",)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no protocol '10-crops'; did you mean 10-crop") as caught:
        find_protocol("10-crops")
    assert caught.value.hint == f"known are {', '.join(NAMES)}"
    assert {"native", "1-crop", "10-crop", "multi-scale"} <= set(NAMES)


def test_the_table_imports_nothing_heavy() -> None:
    """The help of `evaluate` reads it."""
    code = "import sys, resnet_infer.data.protocols; print(sorted({'numpy', 'PIL'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
