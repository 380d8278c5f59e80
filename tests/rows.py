"""Find the places that name rows of a table: lists of names, and branches on a name.

A table is the only list of its names. Another list would need a new name too, and a branch on one name would leave a
new one out.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

Place = tuple[str, str]
"""A module, relative to the package, and the text of the list or the name in the branch."""


def texts(nodes: Collection[ast.expr | None]) -> list[str]:
    """The texts among these expressions."""
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _looked_up(node: ast.AST) -> ast.Dict | None:
    """The dict literal in which this expression looks something up, by `[]` or `get`: a branch, even with one key."""
    if isinstance(node, ast.Subscript):
        found = node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        found = node.func.value
    else:
        return None
    return found if isinstance(found, ast.Dict) else None


def named(node: ast.AST) -> list[str]:
    """The texts in a list, tuple, set, dict (keys or values) or call, or separated by `|` in a text.

    The values that `Literal` allows are a tuple.
    """
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return texts(node.elts)
    if isinstance(node, ast.Dict):
        return [*texts(node.keys), *texts(node.values)]
    if isinstance(node, ast.Call):
        return texts([*node.args, *(item.value for item in node.keywords)])
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and "|" in node.value:
        return node.value.split("|")
    return []


def modules(package: Path, table: str) -> Iterator[tuple[str, ast.Module]]:
    """The modules of the package, without the one of the table."""
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if name != table:
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def lists(package: Path, table: str, names: Collection[str]) -> set[Place]:
    """The lists that have two or more of the names, outside the module `table`, each with its names in order."""
    found = set()
    for path, tree in modules(package, table):
        for node in ast.walk(tree):
            here = [name for name in named(node) if name in names]
            if len(set(here)) > 1:
                found.add((path, "|".join(here)))
    return found


def branches(package: Path, table: str, names: Collection[str]) -> set[Place]:
    """The comparisons (`==`, `!=`, `in`), cases of `match` and look-ups in a dict literal with one of the names.

    The module `table` is left out.
    """
    found = set()
    for path, tree in modules(package, table):
        for node in ast.walk(tree):
            sides: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
            elif isinstance(node, ast.MatchValue):
                sides = [node.value]
            elif literal := _looked_up(node):
                sides = [key for key in literal.keys if key is not None]
            inner = [item for side in sides for item in (side, *getattr(side, "elts", ()))]
            found |= {(path, name) for name in texts(inner) if name in names}
    return found
