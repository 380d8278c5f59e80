"""Define the options that several commands share, so that names and checks are the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from resnet_infer.cli.parsing import choice, device_name
from resnet_infer.runtimes.registry import COMPUTES, NAMES
from resnet_infer.utils.console import note
from resnet_infer.utils.threads import MOST_THREADS


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


def output_option(suffixes: Iterable[str]) -> Any:
    """Return the option `-o` of a command whose results have the forms of these suffixes."""
    known = ", ".join(suffixes)
    return typer.Option(
        "--output", "-o", metavar="FILE", help=f"Write the result to this file. Its suffix chooses the form: {known}."
    )


MODEL_HELP = (
    "A checkpoint (.safetensors), an artifact (.onnx, .xml, .engine) or the name of a model; default: "
    "$RESNET_INFER_MODEL, or else the model that comes with the package."
)
RUNTIME_CHOICES = ("auto", *NAMES)
"""Values of `--runtime`."""
Model = Annotated[str | None, typer.Option("--model", "-m", metavar="MODEL", help=MODEL_HELP)]
ModelArgument = Annotated[str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP)]
Runtime = Annotated[
    str,
    typer.Option(
        metavar="|".join(RUNTIME_CHOICES),
        callback=choice(*RUNTIME_CHOICES),
        help="The library that runs the model; auto: by the suffix of its file, and for many images the fastest.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda[:N]",
        callback=device_name,
        help="The device that runs the model. auto: a GPU if one can be used; any other that cannot be used is an "
        "error.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_THREADS,
        help="Threads within a call of the runtime; default: all usable cores, or one if many images are classified.",
    ),
]
Compute = Annotated[
    str,
    typer.Option(
        metavar="|".join(COMPUTES),
        callback=choice(*COMPUTES),
        help="What the layers of an FP32 model compute in; auto: FP32. bf16 is faster and less exact.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
