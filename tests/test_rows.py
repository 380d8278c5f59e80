"""Each kind of thing has one table: nothing else in the package lists its names, or branches on one."""

from __future__ import annotations

from pathlib import Path

import pytest

import resnet_infer
from resnet_infer.cli.main import COMMANDS
from resnet_infer.converters.formats import FORMATS
from resnet_infer.data.datasets.formats import FORMATS as DATASETS
from resnet_infer.models.families import published_names
from resnet_infer.runtimes.registry import RUNTIMES
from tests.rows import Place, branches, lists

PACKAGE = Path(resnet_infer.__file__).parent
RUNTIME_TABLE = "runtimes/registry.py"
RUNTIME_NAMES = {row.name for row in RUNTIMES}

LISTS: dict[Place, str] = {
    ("utils/extras.py", "tensorrt|openvino"): "extras, some of which are called as a runtime",
    ("utils/extras.py", "onnxruntime|tensorrt|openvino|torch"): "distributions of the packages called so",
}
"""Lists of names that are not runtimes -> what they are."""
BRANCHES: dict[Place, str] = {
    ("benchmarking/candidates.py", "tensorrt"): "execution provider of ONNX Runtime",
    ("runtimes/nvidia/libraries.py", "tensorrt"): "execution provider of ONNX Runtime",
    ("runtimes/nvidia/sessions.py", "tensorrt"): "execution provider of ONNX Runtime",
    ("runtimes/onnxruntime.py", "tensorrt"): "execution provider of ONNX Runtime",
    ("runtimes/tensorrt/library.py", "tensorrt"): "package that was not found",
    ("utils/extras.py", "onnxruntime"): "package of which several distributions exist",
}
"""Branches on names that are not runtimes -> what they are."""


OTHER_TABLES: dict[str, tuple[str, set[str], set[Place]]] = {
    "architectures": ("models/families.py", set(published_names()), set()),
    "data sets": ("data/datasets/formats.py", {row.name for row in DATASETS}, set()),
    "commands": (
        "cli/main.py",
        set(COMMANDS),
        {
            ("utils/extras.py", "export|train|serve|benchmark"),  # extras
            ("__init__.py", "benchmark|compare|evaluate|export|train"),  # public functions
            ("cli/slips.py", "train|serve|import|inspect|export|compare|models"),  # what is meant by other tools' names
        },
    ),
}
"""Kind -> module of its table, its names, and lists of other things with these names: extras are called so."""
FORMAT_TABLE = "converters/formats.py"
FORMAT_NAMES = set(FORMATS)


def test_nothing_but_the_table_lists_the_runtimes() -> None:
    assert lists(PACKAGE, RUNTIME_TABLE, RUNTIME_NAMES) == LISTS.keys()


def test_nothing_branches_on_a_runtime() -> None:
    assert branches(PACKAGE, RUNTIME_TABLE, RUNTIME_NAMES) == BRANCHES.keys()


def test_nothing_but_the_table_lists_the_formats_or_branches_on_one() -> None:
    """Packages and runtimes may be called as a format is; no module names two formats but the table of packages."""
    assert {path for path, _ in lists(PACKAGE, FORMAT_TABLE, FORMAT_NAMES)} == {"utils/extras.py"}
    assert branches(PACKAGE, FORMAT_TABLE, FORMAT_NAMES) <= BRANCHES.keys()


@pytest.mark.parametrize("kind", OTHER_TABLES)
def test_nothing_but_its_table_lists_rows(kind: str) -> None:
    table, names, others = OTHER_TABLES[kind]
    assert lists(PACKAGE, table, names) == others


def test_nothing_branches_on_an_architecture() -> None:
    assert not branches(PACKAGE, "models/families.py", published_names())


@pytest.mark.parametrize(
    "text",
    [
        'x = ["onnxruntime", "torch"]',
        'x = ("auto", "onnxruntime", "torch")',
        'x = {"onnxruntime", "torch"}',
        'x = {"onnxruntime": 1, "torch": 2}',
        'x = {1: "onnxruntime", 2: "torch"}',
        'x: Literal["onnxruntime", "torch"]',
        'x = choice("onnxruntime", "torch")',
        'x = option(metavar="auto|onnxruntime|torch")',
        'def f():\n    if y in ("onnxruntime", "torch"): pass',
    ],
)
def test_a_planted_list_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "cli").mkdir()
    for name in ("cli/a.py", "table.py"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert lists(tmp_path, "table.py", RUNTIME_NAMES) == {("cli/a.py", "onnxruntime|torch")}
    (tmp_path / "cli" / "a.py").write_text(text.replace("torch", "other"), encoding="utf-8")
    assert not lists(tmp_path, "table.py", RUNTIME_NAMES)


@pytest.mark.parametrize(
    "text",
    [
        'x = 1 if y == "torch" else 2',
        'x = y.name != "torch"',
        'x = y in ("torch",)',
        'x = {"torch": 1}.get(y, 2)',
        'x = {"torch": 1}[y]',
        'match y:\n    case "torch" | "other": pass',
    ],
)
def test_a_planted_branch_is_found(text: str, tmp_path: Path) -> None:
    for name in ("a.py", "table.py"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert branches(tmp_path, "table.py", RUNTIME_NAMES) == {("a.py", "torch")}
    (tmp_path / "a.py").write_text(text.replace("torch", "spam"), encoding="utf-8")
    assert not branches(tmp_path, "table.py", RUNTIME_NAMES)
