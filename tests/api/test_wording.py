"""Errors of public functions name keyword arguments, where those of the command name its options."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import resnet_infer
from resnet_infer import ResnetInferError, benchmark, evaluate, export, train, zoo
from resnet_infer.api.wording import known, reworded
from tests.conftest import Outcome

PACKAGE = Path(str(resnet_infer.__file__)).parent
COMMANDS_OWN = ("cli", "serving", "benchmarking/report", "api")
"""Packages whose errors reach no caller of a public function."""


def texts() -> Iterator[str]:
    """Yield the texts in the code that is under the public functions, without docstrings."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if str(path.relative_to(PACKAGE)).startswith(COMMANDS_OWN):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        pieces = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose | pieces:
                yield node.value


def test_no_text_keeps_an_option_that_is_a_keyword_argument() -> None:
    named = [text for text in texts() if re.search(r"(?<![\w-])--[a-z]", text)]
    assert len(named) > 50
    for text in named:
        own = re.sub(r"(resnet-infer [a-z]|pip |docker |Docker: |nvidia-smi|start it with )[^;)]*", "", reworded(text))
        left = {option.replace("-", "_") for option in re.findall(r"(?<![\w-])--([a-z-]+)", own)}
        assert not left & known(), text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("give a share, as in --warmup 0.1, or", "give a share, as in warmup=0.1, or"),
        ("shares: --milestones 0.5,0.75", "shares: milestones=[0.5, 0.75]"),
        ("fewer --workers bring them back", "fewer workers= bring them back"),
        ("say so: --class-order FILE, with a name per line", "say so: class_order=[...], with a name per line"),
        ("name it with --from, e.g. --from resnet50", "name it with start=, e.g. start='resnet50'"),
        ("first: resnet-infer export --precision fp16", "first: resnet-infer export --precision fp16"),
        ("outside with -o, for example -o a/b", "outside with output=, for example output='a/b'"),
        ("start it with --gpus all", "start it with --gpus all"),
        ("lower --nproc-per-node", "lower --nproc-per-node"),
    ],
)
def test_options_become_keyword_arguments(text: str, meant: str) -> None:
    assert reworded(text) == meant


def calls(folder: Path) -> list[tuple[Callable[[], Any], str, str]]:
    """Return calls that fail, with what the error says and what it says not."""
    return [
        (lambda: export(zoo.SMALL, folder / "a.onnx", precision="int8"), "calibration_data=", "--"),
        (lambda: evaluate(zoo.SMALL, folder, max_drop=1.0), "max_drop= is .*\n.*reference=", "--"),
        (lambda: evaluate(zoo.SMALL, folder, resume=True), "resume=True continues.*\n.*answers=", "--"),
        (lambda: benchmark(zoo.SMALL, scenario="open-loop"), "rates=; or look for it: scenario='sweep'", "--"),
        (lambda: train(folder, "run", milestones=[0.5], schedule="plateau"), "take schedule='step'", "--"),
    ]


@pytest.mark.parametrize("number", range(5))
def test_public_functions_raise_errors_for_programs(number: int, tmp_path: Path) -> None:
    call, said, unsaid = calls(tmp_path)[number]
    with pytest.raises(ResnetInferError, match=said) as raised:
        call()
    assert unsaid not in str(raised.value)
    assert str(raised.value).startswith(str(raised.value.args[0]))


def test_the_command_says_its_options(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    assert "--calibration-data" in cli("export", zoo.SMALL, "-o", tmp_path / "a.onnx", "-p", "int8").err


@pytest.mark.parametrize(
    ("function", "given", "meant"),
    [
        (evaluate, {"on_error": "skip"}, "skip_unreadable"),
        (evaluate, {"protocol": "1-crop"}, "protocols"),
        (benchmark, {"scenario": "open-loop", "rate": 1}, "rates"),
        (benchmark, {"scenario": "open-loop", "bound": 1}, "bound_ms"),
    ],
)
def test_an_option_of_the_command_is_answered_with_the_argument(function: Any, given: Any, meant: str) -> None:
    arguments = (zoo.SMALL, "x") if function is evaluate else (zoo.SMALL,)
    with pytest.raises(ResnetInferError, match=f"has no option .*; it is {meant} here"):
        function(*arguments, **given)


def test_from_of_the_command_is_start() -> None:
    with pytest.raises(ResnetInferError, match="train has no option 'from'; it is start here"):
        train("x", "y", **{"from": "resnet50"})  # type: ignore[arg-type]
