"""Who may import whom, where torch may be imported, and what is public."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import resnet_infer
from resnet_infer.utils.extras import EXTRAS
from tests.conftest import ROOT

PACKAGE = Path(resnet_infer.__file__).parent
ROOMS = (
    ("errors", "_version"),
    ("utils", "reporting"),
    ("models",),
    ("data", "runtimes", "lanes"),
    ("verification", "training"),
    ("converters",),
    ("zoo",),
    ("classifier",),
    ("client", "serving"),
    ("evaluation",),
    ("benchmarking",),
    ("cli",),
)
"""A room imports from its own row and from rows above it."""
TORCH = {"models/network.py", "models/weights/torch_file.py", "runtimes/pytorch.py", "cli/commands/train.py"}
"""Outside training/, the only files that import torch; the last ones inside a function."""
REPORTING = {"onnxruntime": {"runtimes/ort_session.py"}, "openvino": {"runtimes/openvino.py"}}
"""Packages that report to their makers unless they are told not to -> the files that import them, and tell them."""


ASKED = {
    "cpu_count": {"utils/cpu.py"},
    "process_cpu_count": {"utils/cpu.py"},
    "sched_getaffinity": {"utils/cpu.py"},
    "sysconf": {"utils/host_memory.py"},
    "/proc/meminfo": {"utils/host_memory.py"},
    "cfs_quota": {"utils/cgroups.py"},
    "cpu.max": {"utils/cgroups.py"},
    "memory.max": {"utils/cgroups.py"},
    "/sys/fs/cgroup": set(),
}
"""What tells how many cores or how much memory there is -> the files that may ask it; all others ask those."""
SESSIONS = {"InferenceSession", "SessionOptions"}
"""What makes a session of ONNX Runtime: only `runtimes/ort_session.py`, which gives it its threads, may name them."""
POOLS = {"ThreadPoolExecutor", "ProcessPoolExecutor", "ThreadPool", "Pool"}
"""What has as many threads or processes as the machine has cores, unless it is told a number."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            if node.module == "resnet_infer":
                yield from (f"resnet_infer.{alias.name}" for alias in node.names)
            else:
                yield node.module


def room(module: str) -> str:
    return module.removeprefix("resnet_infer.").partition(".")[0]


def test_rooms_import_only_from_the_left() -> None:
    place = {name: number for number, row in enumerate(ROOMS) for name in row}
    wrong = []
    for path, tree in modules():
        own = path.partition("/")[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        assert own in place, f"{own} has no place in the house"
        for name in imports(tree):
            if name.startswith("resnet_infer.") and place[room(name)] > place[own]:
                wrong.append(f"{path} imports {name}")
    assert not wrong


def test_the_page_of_the_architecture_has_the_same_rows() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\d+\. (.*)$", text, re.MULTILINE)
    assert [tuple(re.findall(r"`(\w+)`", row)) for row in rows] == list(ROOMS)


def test_every_package_and_file_that_the_page_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = set(re.findall(r"`([a-z_]+/[a-z_/]*)", text))
    named = {name for name in found if not name.startswith("tests/") and name != "resnet_infer/a/b"}
    there = {
        path.relative_to(PACKAGE).with_suffix("").as_posix()
        for path in PACKAGE.rglob("*")
        if path.suffix == ".py" or path.is_dir()
    }
    assert named
    assert not [name for name in named if not any(f"/{one}".endswith(f"/{name.strip('/')}") for one in there)]


def test_torch_is_imported_only_where_it_may_be() -> None:
    found = {path for path, tree in modules() if any(name.partition(".")[0] == "torch" for name in imports(tree))}
    assert {path for path in found if not path.startswith("training/")} == TORCH


def test_what_reports_to_its_maker_is_imported_only_where_that_is_ended() -> None:
    found: dict[str, set[str]] = {package: set() for package in REPORTING}
    for path, tree in modules():
        by_name = {
            node.args[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        }
        for name in {str(name).partition(".")[0] for name in (*imports(tree), *by_name)} & found.keys():
            found[name].add(path)
    assert found == REPORTING


def test_one_module_says_how_many_cores_and_how_much_memory_there_are() -> None:
    found: dict[str, set[str]] = {what: set() for what in ASKED}
    for path, tree in modules():
        for node in ast.walk(tree):
            text = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            for what in ASKED:
                if text is not None and what in text and not (what == "cpu_count" and "process_cpu_count" in text):
                    found[what].add(path)
    assert found == ASKED


def test_every_pool_is_told_how_many_workers_it_has() -> None:
    silent = []
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in POOLS:
                told = node.args or any(item.arg in ("max_workers", "processes") for item in node.keywords)
                silent += [] if told else [f"{path}:{node.lineno}"]
    assert not silent


def test_sessions_of_onnx_runtime_are_made_in_one_module() -> None:
    found: dict[str, set[str]] = {}
    for path, tree in modules():
        for node in ast.walk(tree):
            text = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
            if isinstance(node, ast.alias):
                text = node.name
            elif isinstance(node, ast.Constant):
                text = str(node.value)
            if text in SESSIONS:
                found.setdefault(path, set()).add(str(text))
    assert found == {"runtimes/ort_session.py": SESSIONS}


def loads(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """What a module imports, and whether `needs` says what is wrong with it: around the import, or just before it."""

    def visit(body: list[ast.stmt], guarded: bool) -> Iterator[tuple[str, bool]]:
        for node in body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                own = ast.Module([node], [])
                yield from ((name, guarded) for name in imports(own))
                if isinstance(node, ast.ImportFrom):
                    yield from ((f"{node.module}.{alias.name}", guarded) for alias in node.names)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            elif isinstance(node, ast.With):
                inside = guarded or any("needs(" in ast.unparse(item.context_expr) for item in node.items)
                yield from visit(node.body, inside)
                guarded = inside
            elif isinstance(node, ast.Try):
                anything = any(one.type is None or ast.unparse(one.type) == "Exception" for one in node.handlers)
                yield from visit(node.body, guarded or anything)
                for part in (node.orelse, node.finalbody, *(one.body for one in node.handlers)):
                    yield from visit(part, guarded)
            else:
                for part in ("body", "orelse"):
                    inner = getattr(node, part, None)
                    yield from visit(inner, guarded) if isinstance(inner, list) else ()

    return visit(tree.body, False)


def test_no_optional_package_is_met_without_the_one_that_says_what_is_wrong_with_it() -> None:
    """A module is open if importing it, or calling it, may meet one bare: what imports it in turn has to be guarded."""
    web = {"bentoml", "starlette", "uvicorn", "circus", "pynvml", "pydantic", "_bentoml_sdk"}
    found = {f"resnet_infer.{path[:-3].replace('/', '.')}": list(loads(tree)) for path, tree in modules()}

    def bare(packages: set[str]) -> set[str]:
        met: set[str] = set()
        while True:
            more = {
                module
                for module, names in found.items()
                if any(not guarded and (name.partition(".")[0] in packages or name in met) for name, guarded in names)
            }
            if more == met:
                return met
            met = more

    others = {module for modules in EXTRAS.values() for module in modules} - web - {"torch"}
    assert bare(others) == {"resnet_infer.runtimes.ort_session"}
    # The commands `train` and `serve` have met torch and BentoML before they import these rooms.
    trained, served = bare({"torch"}), bare(web)
    assert {room(module) for module in trained} == {"training", "models"}
    assert "resnet_infer.models.network" in trained
    assert {room(module) for module in served} == {"serving"}
    assert "resnet_infer.serving.service" not in served


def test_the_public_names() -> None:
    assert resnet_infer.__all__ == [
        "Answer",
        "Classifier",
        "ModelSpec",
        "Picture",
        "Prediction",
        "ResnetInferError",
        "__version__",
    ]
    for name in resnet_infer.__all__:
        assert getattr(resnet_infer, name) is not None


def test_the_changelog_names_the_version() -> None:
    text = (PACKAGE.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {resnet_infer.__version__}" in text
