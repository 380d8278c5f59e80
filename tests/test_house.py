"""Who may import whom, where torch may be imported, how large files and functions may be, and what is public."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import resnet_infer
from resnet_infer.utils.extras import EXTRAS
from tests.conftest import ROOT

PACKAGE = Path(resnet_infer.__file__).parent
ROOMS = (
    ("errors", "reasons", "_version"),
    ("utils", "reporting"),
    ("models",),
    ("data", "runtimes", "lanes"),
    ("verification", "training"),
    ("converters", "selection"),
    ("zoo",),
    ("answers", "calls", "connections"),
    ("classifier",),
    ("client", "serving"),
    ("evaluation",),
    ("benchmarking",),
    ("api",),
    ("cli", "_pyinstaller"),
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
MOST_LINES, MOST_FILES, MOST_PARAMETERS, MOST_LINES_OF_A_FUNCTION = 350, 15, 12, 100
LARGE_FOLDERS = {"cli/commands", "data/datasets"}
"""Folders of one file for each row of a table: commands, and data sets that are recognised."""
LAZY_CIRCLES: set[frozenset[str]] = {
    # float64 has an error of parity's; parity imports the evaluator, and with it onnx, only for graphs.
    frozenset({"verification.float64", "verification.parity"}),
}
"""Modules that import each other in a circle, of which an import inside a function is a part."""


def modules(package: Path = PACKAGE) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package).as_posix(), parsed(path.read_text(encoding="utf-8"))


@cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


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


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """All but `self` and `cls`."""
    given = function.args
    names = [item.arg for item in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"])) + (given.vararg is not None) + (given.kwarg is not None)


def too_large(package: Path) -> list[str]:
    """What breaks a rule on size. The function `x` of `cli/commands/x.py` declares options: it is not measured."""
    found = []
    for path, tree in modules(package):
        lines = len((package / path).read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            found.append(f"{path} has {lines} lines")
        folder, _, name = path.removesuffix(".py").rpartition("/")
        for function in functions(tree):
            if folder == "cli/commands" and function.name == name:
                continue
            if (count := parameters(function)) > MOST_PARAMETERS:
                found.append(f"{path}: {function.name} has {count} parameters")
            if (length := (function.end_lineno or 0) - function.lineno + 1) > MOST_LINES_OF_A_FUNCTION:
                found.append(f"{path}: {function.name} has {length} lines")
    for place in sorted(item for item in (package, *package.rglob("*")) if item.is_dir()):
        name, count = place.relative_to(package).as_posix(), len(list(place.glob("*.py")))
        if count > MOST_FILES and name not in LARGE_FOLDERS:
            found.append(f"{name} has {count} files")
    return found


def test_files_folders_and_functions_are_small() -> None:
    assert not too_large(PACKAGE)


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("a.py", "x = 1\n" * 351, "a.py has 351 lines"),
        ("a.py", f"def f({', '.join(f'a{n}' for n in range(13))}): ...", "a.py: f has 13 parameters"),
        ("a.py", f"class A:\n def f(self, a, *, {', '.join(f'a{n}' for n in range(12))}): ...", "f has 13 parameters"),
        ("a.py", f"async def f({', '.join(f'a{n}' for n in range(12))}, **more): ...", "a.py: f has 13 parameters"),
        ("cli/commands/a.py", f"def f({', '.join(f'a{n}' for n in range(13))}): ...", "f has 13 parameters"),
        ("a.py", "def f():\n" + " x = 1\n" * 100, "a.py: f has 101 lines"),
        ("a/b/c.py", "", "a/b has 16 files"),
    ],
)
def test_what_is_too_large_is_found(tmp_path: Path, path: str, text: str, fault: str) -> None:
    place = tmp_path / path
    place.parent.mkdir(parents=True, exist_ok=True)
    for number in range(15):
        (place.parent / f"small{number}.py").touch()
    if "files" not in fault:
        (place.parent / "small0.py").unlink()
    place.write_text(text)
    (found,) = too_large(tmp_path)
    assert fault in found


def test_what_is_not_too_large_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "cli" / "commands").mkdir(parents=True)
    names = ", ".join(f"a{n}" for n in range(12))
    (tmp_path / "a.py").write_text(f"class A:\n def f(self, {names}):\n" + "  x = 1\n" * 99 + "\n" * 249)
    for number in range(16):
        text = f"def small{number}({names}, b):\n" + " x = 1\n" * 200
        (tmp_path / "cli" / "commands" / f"small{number}.py").write_text(text)
    assert not too_large(tmp_path)


def graph(package: Path, *, lazy: bool) -> dict[str, set[str]]:
    """Module -> modules of `package` that it imports when it is imported, and with `lazy` in its functions too."""
    trees = {
        f"{path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}": t for path, t in modules(package)
    }
    root = f"{package.name}."

    def visit(nodes: Iterable[ast.AST]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:  # a module of a package, or a name in a module
                    name = f"{node.module}.{alias.name}"
                    yield name if name.removeprefix(root) in trees else str(node.module)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from visit(node.orelse)
            elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from visit(ast.iter_child_nodes(node))

    return {
        name: {item.removeprefix(root) for item in visit([tree]) if item.startswith(root)} & trees.keys()
        for name, tree in trees.items()
    }


def circles(package: Path, *, lazy: bool) -> set[frozenset[str]]:
    """Sets of modules each of which imports, by way of the others, itself."""
    direct = graph(package, lazy=lazy)

    def reached(name: str) -> set[str]:
        found: set[str] = set()
        waiting = [name]
        while waiting:
            new = direct[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    all_reached = {name: reached(name) for name in direct}
    return {
        frozenset(other for other in found if name in all_reached[other])
        for name, found in all_reached.items()
        if name in found
    }


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert len(graph(PACKAGE, lazy=False)["cli.main"]) > 1
    assert circles(PACKAGE, lazy=False) == set()
    assert circles(PACKAGE, lazy=True) == LAZY_CIRCLES


@pytest.mark.parametrize(
    ("texts", "at_import", "in_functions"),
    [
        (
            {"a": "import p.b", "b": "from p.c import x", "c": "if 1:\n from p import a"},
            {"a", "b", "c"},
            {"a", "b", "c"},
        ),
        ({"a": "import p.b", "b": "class A:\n from p import a"}, {"a", "b"}, {"a", "b"}),
        ({"a": "import p.b", "b": "def f():\n from p.a import x"}, set(), {"a", "b"}),
        ({"a": "import p.b", "b": "if TYPE_CHECKING:\n import p.a"}, set(), set()),
        ({"a": "from p import b", "b": "from p import d"}, set(), set()),
    ],
)
def test_circles_are_found(tmp_path: Path, texts: dict[str, str], at_import: set[str], in_functions: set[str]) -> None:
    (tmp_path / "p").mkdir()
    for name, text in texts.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    for lazy, expected in ((False, at_import), (True, in_functions)):
        assert circles(tmp_path / "p", lazy=lazy) == ({frozenset(expected)} if expected else set())


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
                for field in ("body", "orelse"):
                    inner = getattr(node, field, None)
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


def test_the_changelog_is_kept_and_names_the_version() -> None:
    """In the form of keepachangelog.com 1.1: releases with their dates, below what is not released."""
    text = (PACKAGE.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    for release in others:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", release)
    kinds = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert kinds
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    version = re.escape(resnet_infer.__version__)
    assert re.search(rf"^## \[{version}\] - |^This is going to be {version}\b", text, re.MULTILINE)
