"""Compare what two checkouts of the project answer: logits, exported files, and the JSON of every command.

    python -m tools.compare_trees BASE . --photos photos

Both run with this Python, one after the other, in a folder of their own. Logits and files are compared byte by byte;
of JSON what differs from run to run (times, rates, paths, and what tells the version of the code) is masked. Prints a
line for each comparison and ends with 1 where one differs. For a change that is to move code and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODELS = ("resnet20-cifar10", "resnet18-tinyimagenet")
LOGITS = """
import hashlib, sys
from pathlib import Path
from resnet_infer import Classifier, Picture
digest = hashlib.sha256()
with Classifier(sys.argv[1]) as classifier:
    for path in sorted(Path(sys.argv[2]).rglob("*")):
        if path.is_file():
            views = classifier.views(Picture(path.name, path))
            failed = isinstance(views, Exception)
            digest.update(f"{path.name} {views}".encode() if failed else classifier.runtime(views))
print(digest.hexdigest())
"""
MASKED = re.compile(
    r"(.*_ms|.*_s|.*seconds?|latency.*|throughput.*|rate|.*per_second|times?|timings?|timestamp|date|pid|free.*|"
    r"available.*|load_average)"
)
"""Names of values that differ from run to run."""


def commands(photos: str) -> dict[str, list[str]]:
    """Name -> arguments of the command; files are made in the order given, in the folder where the command runs."""
    small, large = MODELS
    return {
        "classify": ["classify", photos, "--format", "json", "--model", large],
        "classify 10 crops": ["classify", photos, "--format", "jsonl", "--model", small, "--crops", "10"],
        "classify csv": ["classify", photos, "--format", "csv", "--model", large],
        "models": ["models", "--json"],
        "cache": ["cache", "list", "--json"],
        "env": ["env", "--json"],
        "inspect": ["inspect", small, "--json"],
        "export fp32": ["export", small, "--output", "fp32.onnx", "--json"],
        "export fp16": ["export", small, "--precision", "fp16", "--output", "fp16.onnx", "--json"],
        "export int8": [
            *("export", small, "--precision", "int8", "--calibration-data", photos),
            *("--output", "int8.onnx", "--json"),
        ],
        "inspect int8": ["inspect", "int8.onnx", "--json"],
        "compare": ["compare", "int8.onnx", "fp32.onnx", photos, "--json"],
        "compare layers": ["compare", "fp16.onnx", "fp32.onnx", photos, "--layers", "--json"],
        "benchmark": ["benchmark", "fp32.onnx", "--json", "--rounds", "2"],
        "mistake": ["export", "nothing-like-this", "--json"],
        "mistaken option": ["classify", photos, "--format", "xml"],
        "help": ["--help"],
        **{
            f"help {name}": [name, "--help"] for name in ("classify", "export", "train", "serve", "evaluate", "compare")
        },
    }


def masked(value: Any, folder: str, tree: str) -> Any:
    """`value` without what differs from run to run."""
    if isinstance(value, dict):
        return {
            name: "..." if MASKED.fullmatch(name) and not isinstance(part, dict) else masked(part, folder, tree)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [masked(part, folder, tree) for part in value]
    if isinstance(value, str):
        return value.replace(sys.prefix, "PREFIX").replace(folder, "FOLDER").replace(tree, "TREE")
    return value


def read(text: str, folder: str, tree: str) -> Any:
    """JSON, or the lines of what is none."""
    try:
        return masked(json.loads(text), folder, tree)
    except ValueError:
        return masked(re.sub(r"\d+(\.\d+)? ?(ms|s|pictures/s|it/s)\b", "...", text).splitlines(), folder, tree)


def shape(value: Any) -> Any:
    """`value` with the type of every number in its place."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value[:1]]
    return type(value).__name__ if isinstance(value, int | float) else value


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = list(dict.fromkeys([*one, *other]))
        missing = [f"{place}.{name}: only in one" for name in names if (name in one) != (name in other)]
        both = [name for name in names if name in one and name in other]
        return missing + [text for name in both for text in differences(one[name], other[name], f"{place}.{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [text for number, pair in pairs for text in differences(*pair, f"{place}[{number}]")]
    return [] if one == other else [f"{place}: {one!r:.90} -> {other!r:.90}"]


def answers(tree: Path, photos: Path, folder: Path) -> dict[str, Any]:
    """What a checkout answers."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "100", "NO_COLOR": "1"}
    found: dict[str, Any] = {}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)

    for model in MODELS:
        found[f"logits {model}"] = run("-c", LOGITS, model, str(photos)).stdout
    for name, arguments in commands(str(photos)).items():
        done = run("-m", "resnet_infer", *arguments)
        out, said = (read(text, str(folder), str(tree)) for text in (done.stdout, done.stderr))
        if name == "benchmark":  # all of it are measurements: what is compared is what there is
            out = shape(out)
        found[name] = {"exit": done.returncode, "out": out, "said": said}
    for path in sorted(folder.glob("*.onnx")):
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("trees", type=Path, nargs=2, metavar="TREE", help="checkouts; the first is the reference")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    given = parser.parse_args()
    found = []
    for tree in given.trees:
        with tempfile.TemporaryDirectory() as folder:
            found.append(answers(tree.resolve(), given.photos.resolve(), Path(folder).resolve()))
    base, new = found
    differ = 0
    for name in base:
        texts = differences(base[name], new[name])
        differ += bool(texts)
        ended = f" (exit {base[name]['exit']})" if isinstance(base[name], dict) else ""
        print(f"{'DIFFERS' if texts else 'same':8}{name}{ended}", *texts[:12], sep="\n        ")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
