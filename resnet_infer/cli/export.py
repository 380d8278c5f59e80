"""`resnet-infer export`"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli.options import Json, ModelArgument, choice
from resnet_infer.console import note


def export(
    model: ModelArgument = None,
    format: Annotated[
        str, typer.Option("--format", "-f", metavar="onnx", callback=choice("onnx"), help="What to make.")
    ] = "onnx",
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Leave height and width open, for multi-scale testing.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: the model's name with .onnx.")
    ] = None,
    as_json: Json = False,
) -> None:
    from resnet_infer import zoo
    from resnet_infer.converters.export import export_onnx
    from resnet_infer.errors import UsageError

    checkpoint = zoo.checkpoint(model)
    target = output or Path(f"{checkpoint.spec.name}.onnx")
    if target.suffix != ".onnx":
        raise UsageError(f"an ONNX file ends in .onnx, not {target.suffix or 'nothing'}: {target}")
    parity = export_onnx(checkpoint, target, dynamic_size=dynamic_size)
    note(str(parity))
    size = target.stat().st_size
    if as_json:
        result = {"format": format, "artifact": str(target), "bytes": size}
        print(json.dumps({**result, "parity": {**asdict(parity), "passed": parity.passed}}))
    else:
        print(f"{target}  {size / 1e6:.1f} MB")
