"""Implement `resnet-infer export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from resnet_infer.cli.options import Json, ModelArgument, introduce_default
from resnet_infer.cli.parsing import MOST, choice, names, number
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import note, show


def _format(value: str) -> str:
    """Check the name of a format, and correct a common misspelling."""
    from resnet_infer.converters.formats import FORMATS, MISSPELT

    if value in MISSPELT:
        note(f"{value}: taken as {MISSPELT[value]}")
        return MISSPELT[value]
    return choice(*FORMATS)(value) or value


def export(
    model: ModelArgument = None,
    format: Annotated[
        str, typer.Option("--format", "-f", metavar="onnx|tensorrt", callback=_format, help="What to make.")
    ] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            "-p",
            metavar="fp32|fp16|int8",
            callback=choice("fp32", "fp16", "int8"),
            help="Default: fp32; with --target auto, whatever is fastest.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|tensorrt|auto",
            callback=choice("cpu", "tensorrt", "auto"),
            help="What an ONNX file is to run on: places INT8 as that wants it. auto: measure here, keep the fastest.",
        ),
    ] = None,
    calibration_data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="For INT8: pictures like those it will see, or a saved calibration (.json)."),
    ] = None,
    calibration_method: Annotated[
        str,
        typer.Option(
            metavar="mse|minmax|entropy|percentile",
            callback=choice("mse", "minmax", "entropy", "percentile"),
            help="How ranges follow from what was measured.",
        ),
    ] = "mse",
    calibration_pictures: Annotated[int, typer.Option(min=1, max=MOST, help="How many of them are used.")] = 512,
    check_data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Pictures to measure the cost on; default: those not used to calibrate."),
    ] = None,
    check_pictures: Annotated[int, typer.Option(min=2, max=MOST, help="How many of them are used at most.")] = 1000,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=-100,
            max=100,
            callback=number,
            help="Fail if top-1 error rises by more points than this on --check-data.",
        ),
    ] = None,
    weight_bits: Annotated[
        int | None, typer.Option(metavar="8|7", min=7, max=8, help="Of INT8 on a CPU; default: what this one needs.")
    ] = None,
    float_layers: Annotated[
        str | None, typer.Option(metavar="LAYER,LAYER", help="Layers that INT8 leaves in float.")
    ] = None,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Leave height and width open, for multi-scale testing.")
    ] = False,
    min_batch: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Of an engine: the smallest batch; default 1.")
    ] = None,
    opt_batch: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="The batch that an engine, or --target auto, is best at; default 8."),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Of an engine: the largest batch; default 64.")
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(metavar="MB", min=1, max=MOST, help="Of an engine: memory for a layer.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Of an engine: 0 is built soonest, 5 runs fastest.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="The engine runs on newer versions of TensorRT too.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="The engine runs on every GPU from Ampere on.")
    ] = False,
    timing_cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of an engine: keeps what kernels took, for the next build.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cuda[:N]", help="The GPU that an engine is built on.")] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: model, precision and format.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a checkpoint to an artifact, or lower the precision of an artifact."""
    from resnet_infer import zoo
    from resnet_infer.converters.formats import check_options, get_format
    from resnet_infer.errors import ModelError, UsageError

    chosen = get_format(format)
    given: dict[str, Any] = {
        "dynamic_size": dynamic_size,
        "min_batch": min_batch,
        "opt_batch": opt_batch,
        "max_batch": max_batch,
        "workspace": workspace,
        "optimization_level": optimization_level,
        "version_compatible": version_compatible,
        "hardware_compatible": hardware_compatible,
        "timing_cache": timing_cache,
    }
    given = {name: value for name, value in given.items() if value not in (None, False)}
    check_options(chosen, given.keys() - ({"opt_batch"} if target == "auto" else set()))
    target = target or chosen.targets[0]
    # What is fastest is found by trying ONNX files; the library's `export` makes one file and knows no "auto".
    if target not in chosen.targets and (format, target) != ("onnx", "auto"):
        raise UsageError(f"--format {format} is for the target {', '.join(chosen.targets)}, not {target}")
    if output and output.suffix != chosen.suffix:
        raise UsageError(
            f"a file of the format {format} ends in {chosen.suffix}, not {output.suffix or 'nothing'}: {output}"
        )
    if output:  # checked before a model is loaded or downloaded
        _require_free(output, [model, calibration_data, check_data])
    from resnet_infer.converters.export import ExportConfig, Pictures, export

    introduce_default(model, "resnet-infer export")
    source = zoo.source(model)
    tried = None if precision is None else (precision,)
    precision = precision or "fp32"
    if isinstance(source, Path) and (chosen.suffix, precision) == (source.suffix, "fp32") and target != "auto":
        raise ModelError(
            f"{source} is an artifact already",
            hint="lower its precision with --precision int8 or fp16, or give the checkpoint it was made from",
        )
    stem = source.stem if isinstance(source, Path) else source.spec.name
    name = stem + ("" if precision == "fp32" else f".{precision}") + chosen.suffix
    path = output or Path(f"{stem}.auto.onnx" if target == "auto" else name)
    _require_free(path, [model, calibration_data, check_data])
    config = ExportConfig(
        precision=precision,  # type: ignore[arg-type]
        target="cpu" if target == "auto" else target,  # type: ignore[arg-type]
        method=calibration_method,  # type: ignore[arg-type]
        weight_bits=weight_bits,
        float_layers=names(float_layers),
        max_drop=max_drop,
        dynamic_size=dynamic_size,
        pictures=Pictures(calibration_data, calibration_pictures, check_data, check_pictures),
        engine=_build_options(given) if format == "tensorrt" else None,
        device=device,
    )
    if target == "auto":
        from resnet_infer.benchmarking.autotune import export_fastest

        made = export_fastest(source, path, config, opt_batch or 8, tried)  # type: ignore[arg-type]
    else:
        made = export(source, path, config)
    if as_json:
        print(strict_json.dumps({"format": format, **made.to_json()}))
    else:
        show(f"{made.path}  {made.path.stat().st_size / 1e6:.1f} MB")


def _require_free(path: Path, inputs: list[str | Path | None]) -> None:
    """Raise `UsageError` if `path` is an input or a file that is not an artifact."""
    from resnet_infer.models.outputs import Output, has_spec, require_free

    ours = {"ours": has_spec} if path.suffix == ".onnx" else {}
    require_free([Output("-o", path, "artifact", **ours)], inputs)


def _build_options(given: dict[str, Any]) -> Any:
    """Return the options of an engine, with batch sizes that fit together and the workspace in bytes."""
    from resnet_infer.converters.tensorrt.export import BuildOptions

    least, best, most = (given.get(f"{name}_batch") for name in ("min", "opt", "max"))
    given["max_batch"] = most or max(64, best or 0, least or 0)
    given["opt_batch"] = best or min(given["max_batch"], max(8, least or 0))
    given["min_batch"] = least or 1
    if "workspace" in given:
        given["workspace"] *= 2**20
    return BuildOptions(**given)
