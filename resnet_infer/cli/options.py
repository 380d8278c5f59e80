"""Define the options that several commands share, so that names and checks are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.utils.console import note
from resnet_infer.utils.threads import MOST_THREADS


def choice(*values: str) -> Callable[[str | None], str | None]:
    """A callback that takes one of `values` and says "did you mean" to everything else (exit code 2)."""

    def check(value: str | None) -> str | None:
        if value is None or value in values:
            return value
        from difflib import get_close_matches

        close = get_close_matches(value, values, n=1)
        raise typer.BadParameter(
            (f"did you mean {close[0]}? " if close else "") + f"{value!r} is not one of {', '.join(values)}"
        )

    return check


MOST = 10**9
"""Of a batch, of pictures, of repetitions: more than any machine has room or time for."""
LARGEST_SEED = 2**63 - 1
"""That every generator takes."""


def number(value: float | None) -> float | None:
    """A callback that refuses NaN, which lies within any bounds."""
    if value is not None and value != value:
        raise typer.BadParameter("it is not a number (NaN)")
    return value


def introduce_default(model: str | None, instead: str) -> None:
    """Note which classes the built-in model knows, if no model is named.

    `instead` is the part of a command line that names a model, such as `-m`.
    """
    from importlib.util import find_spec

    from resnet_infer import zoo
    from resnet_infer.utils.extras import install_command

    if not model and zoo.default_model() is None:
        # Published weights are exported on first use, which needs onnx.
        first = "" if find_spec("onnx") else f"{install_command('export')}, then "
        note(
            f"{zoo.DEFAULT}, which is built in, knows {zoo.BUILT_IN[zoo.DEFAULT]}. "
            f"For all of them: {first}{instead} resnet50 (downloads 102 MB)."
        )


MODEL_HELP = (
    "A checkpoint (.safetensors), an artifact (.onnx) or a model's name; default: $RESNET_INFER_MODEL, or the one that "
    "comes with the package."
)
Model = Annotated[str | None, typer.Option("--model", "-m", metavar="MODEL", help=MODEL_HELP)]
ModelArgument = Annotated[str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP)]
Runtime = Annotated[
    str,
    typer.Option(
        metavar="auto|onnxruntime|openvino|tensorrt|torch",
        callback=choice("auto", "onnxruntime", "openvino", "tensorrt", "torch"),
        help="What runs the model.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda[:N]", help="Where it runs. A device that is named is used, or the command fails."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_THREADS,
        help="Threads inside the runtime; default: all usable cores, and one for each of many pictures.",
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the result to this file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
