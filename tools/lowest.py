"""Print pip constraints that pin every direct dependency of the package to the lowest version that it allows.

    python -m tools.lowest > lowest.txt
    pip install --constraint lowest.txt --editable ".[cpu,export]"

The extras whose names begin with `test` keep their ranges, because users do not install them. What constraints.txt pins
keeps that version: other versions of torch bring gigabytes of CUDA libraries, so torch's floor is not tested.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,.-]+\])?\s*(?P<versions>[^;]*)(?P<marker>;.*)?")
_FLOOR = re.compile(r">=\s*([\w.]+)")


def requirements(project: dict[str, Any]) -> list[str]:
    """Return the requirements of a `[project]` table and of its extras, without those that only tests use."""
    extras = project.get("optional-dependencies", {})
    return [
        *project["dependencies"],
        *(line for name, lines in extras.items() if not name.startswith("test") for line in lines),
    ]


def pin(requirement: str) -> tuple[str, str]:
    """Return name and constraint for the lowest version that a requirement allows. Raises `ValueError` without one.

    >>> pin("typer>=0.15,<0.29")
    ('typer', 'typer==0.15')
    """
    found = _REQUIREMENT.fullmatch(requirement.strip())
    floor = found and _FLOOR.search(found["versions"])
    if not found or not floor:
        raise ValueError(f"{requirement} has no lowest version (>=)")
    return found["name"], f"{found['name']}=={floor[1]}" + (found["marker"] or "")


def lowest(root: Path = ROOT) -> list[str]:
    """Return the constraints: those of constraints.txt, and a pin for every other direct dependency."""
    with open(root / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.strip() and not line.startswith("#")]
    fixed = {re.split(r"[=<>! ]", line, maxsplit=1)[0] for line in kept}
    return kept + [line for name, line in map(pin, requirements(project)) if name not in fixed]


def main() -> None:
    """Print the constraints."""
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    print("\n".join(lowest()))


if __name__ == "__main__":
    main()
