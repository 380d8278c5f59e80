"""What a fresh process loads, and what works where optional packages are not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resnet_infer.zoo import DEFAULT, SMALL
from tests.conftest import DEMO, PICTURES

HEAVY = ("torch", "onnx", "tensorrt", "bentoml")

HELP = {
    "": {"_version", "errors"},
    "cli": {"main", "signals"},
    "utils": {"cgroups", "console", "cpu", "files"},
}
"""Package -> its modules that `resnet-infer --help` imports."""
CLASSIFY = {
    "": {"_version", "answers", "classifier", "errors", "lanes", "zoo"},
    "cli": {"answers", "inputs", "main", "options", "parsing", "signals"},
    "cli.commands": {"classify"},
    "data": {"arrivals", "image", "pictures", "preprocess", "walk"},
    "data.formats": {"jpeg", "jpeg_header", "kinds", "memory", "samples", "strict", "suffixes"},
    "data.formats.tiff": {"directory"},
    "models": {"architectures", "checkpoint", "families", "format_version", "spec", "spec_fields"},
    "models.weights": {"builtin"},
    "runtimes": {"base", "onnxruntime", "ort_session", "registry", "signature"},
    "utils": {
        *("cgroups", "console", "cpu", "error_statistics", "extras", "files", "heap", "inputs", "lifetime", "parallel"),
        *("strict_json", "threads"),
    },
}
"""Package -> its modules that `resnet-infer classify picture.jpg` imports, which take part of its quarter of a second.

A module that is added here is worth its time for every answer; what is needed less often is imported where it is.
"""
OF_TYPER = {"annotated_doc", "click", "colorama", "shellingham", "typing_extensions"}
"""Packages that typer imports, which ones depends on its version and on the system."""

PROBE = """
import json, sys
before = set(sys.modules)
for name in {absent!r}:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from resnet_infer.cli.main import app
try:
    app({arguments!r})
except SystemExit as stop:
    code = stop.code
heavy = [m for m in {heavy!r} if sys.modules.get(m)]
modules = [name for name, module in sys.modules.items() if module and name not in before]
print(json.dumps({{"code": code, "loaded": heavy, "modules": modules}}), file=sys.stderr)
"""


def report(*arguments: str, absent: tuple[str, ...] = (), cache: Path) -> tuple[dict[str, Any], str, str]:
    """Run the command in a new process, with the packages `absent` missing: what it loaded, its stdout and stderr."""
    code = PROBE.format(absent=absent, arguments=list(arguments), heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "RESNET_INFER_CACHE": str(cache), "PYTHONIOENCODING": "utf-8"},
    )
    *notes, last = done.stderr.strip().splitlines()
    return json.loads(last), done.stdout, "\n".join(notes)


def fresh(*arguments: str, absent: tuple[str, ...] = (), cache: Path) -> tuple[int, list[str], str, str]:
    """Exit code, heavy packages that were loaded, stdout and stderr."""
    found, out, notes = report(*arguments, absent=absent, cache=cache)
    return found["code"], found["loaded"], out, notes


def names(table: dict[str, set[str]]) -> set[str]:
    """The packages of a table and their modules, by their full names."""
    packages = {f"resnet_infer.{package}".removesuffix(".") for package in table}
    return packages | {".".join(("resnet_infer", *filter(None, (p,)), m)) for p, found in table.items() for m in found}


@pytest.mark.parametrize(
    ("arguments", "own", "others"),
    [
        (("--help",), HELP, {"typer"}),
        (("classify", str(DEMO / "coffee.jpg")), CLASSIFY, {"PIL", "numpy", "onnxruntime", "typer"}),
    ],
)
def test_a_command_imports_these_modules_and_no_others(
    arguments: tuple[str, ...], own: dict[str, set[str]], others: set[str], tmp_path: Path
) -> None:
    found, _, _ = report(*arguments, cache=tmp_path)
    assert found["code"] == 0
    assert {name for name in found["modules"] if name.partition(".")[0] == "resnet_infer"} == names(own)
    packages = {name.partition(".")[0] for name in found["modules"]} - {"resnet_infer"}
    assert {name for name in packages if name not in sys.stdlib_module_names} - OF_TYPER == others


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code, loaded, out, _ = fresh("--help", cache=tmp_path)
    assert (code, loaded) == (0, [])
    assert "classify" in out


@pytest.mark.parametrize(("model", "label"), [(SMALL, "ship"), (DEFAULT, "espresso")])
def test_classify_loads_nothing_heavy_and_needs_only_onnxruntime(model: str, label: str, tmp_path: Path) -> None:
    picture = DEMO / "coffee.jpg" if model == DEFAULT else PICTURES / "ship.jpg"
    code, loaded, out, _ = fresh("classify", str(picture), "-m", model, absent=HEAVY, cache=tmp_path)
    assert (code, loaded) == (0, [])
    assert label in out.splitlines()[1]
    assert fresh("classify", str(picture), "-m", model, cache=tmp_path)[1] == []


def test_export_works_without_torch(tmp_path: Path) -> None:
    code, loaded, _, notes = fresh(
        "export", "-o", str(tmp_path / "model.onnx"), absent=("torch", "tensorrt", "bentoml"), cache=tmp_path
    )
    assert (code, loaded) == (0, ["onnx"])
    assert "parity PASS against the unfused graph" in notes


@pytest.mark.parametrize(
    ("arguments", "absent", "extra"),
    [
        (("classify", str(PICTURES / "cat.jpg")), "onnxruntime", "cpu"),
        (("export", "-o", "model.onnx"), "onnx", "export"),
        (("train", str(PICTURES)), "torch", "train"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, arguments: tuple[str, ...], absent: str, extra: str
) -> None:
    code, _, _, notes = fresh(*arguments, absent=(absent,), cache=tmp_path)
    assert code == 1
    assert f'pip install "resnet-infer[{extra}]"' in notes
    assert "Traceback" not in notes
