"""Implement `resnet-infer export`."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from resnet_infer.cli.options import Json, ModelArgument, introduce_default
from resnet_infer.cli.parsing import MOST, choice, device_name, names, number
from resnet_infer.converters.formats import (
    FORMATS,
    ROWS,
    SPELLINGS,
    Option,
    check_options,
    format_of,
    get_format,
    known_options,
    known_precisions,
    known_targets,
)
from resnet_infer.models.format_version import document
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import note, show, size_text
from resnet_infer.utils.files import other_suffix, suffix_of

EXAMPLES = ("export resnet50", "export resnet50 --precision int8 --calibration-data photos/")
"""Command lines that the help ends with."""
AUTO = "auto"
"""Value of `--target` that tries every precision and keeps what is fastest."""


def _format(context: typer.Context, value: str | None) -> str | None:
    """Check the name of a format, and translate other spellings."""
    if value is None:
        return None
    small = value.lower()
    meant = SPELLINGS.get(small, small)
    if meant != small and not context.resilient_parsing:
        note(f"{value}: taken as {meant}")
    return meant if meant in FORMATS else choice(*FORMATS)(value) or value


def export(
    model: ModelArgument = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="|".join(FORMATS),
            callback=_format,
            help=f"Format of the file to write; default: as the suffix of -o says, else {ROWS[0].name}.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            "-p",
            metavar="|".join(known_precisions()),
            callback=choice(*known_precisions()),
            help="Precision of the weights and activations; default: fp32, or with --target auto the fastest.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="|".join((*known_targets(), AUTO)),
            callback=choice(*known_targets(), AUTO),
            help="Hardware that INT8 is quantized for. auto: measure candidates on this machine, keep the fastest.",
        ),
    ] = None,
    allow: Annotated[
        str | None,
        typer.Option(
            metavar="bf16",
            callback=choice("bf16"),
            help="For --target auto: also measure FP32 computed in bf16, which `--compute bf16` then runs.",
        ),
    ] = None,
    calibration_data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="For INT8: images like those that will be classified, or a saved calibration (.json)."
        ),
    ] = None,
    calibration_method: Annotated[
        str,
        typer.Option(
            metavar="mse|minmax|entropy|percentile",
            callback=choice("mse", "minmax", "entropy", "percentile"),
            help="For INT8: how ranges are chosen from the measured activations.",
        ),
    ] = "mse",
    calibration_pictures: Annotated[
        int, typer.Option(min=1, max=MOST, help="Images of --calibration-data to use.")
    ] = 512,
    check_data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Images to measure the loss of accuracy with; default: those not used for the calibration.",
        ),
    ] = None,
    check_pictures: Annotated[int, typer.Option(min=2, max=MOST, help="Images of --check-data to use at most.")] = 1000,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=-100,
            max=100,
            callback=number,
            help="Fail if the top-1 error on --check-data rises by more than this, in points of percent.",
        ),
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(
            metavar="8|7",
            min=7,
            max=8,
            help="For INT8 on a CPU: bits of the weights; default: what this CPU computes without overflow.",
        ),
    ] = None,
    float_layers: Annotated[
        str | None, typer.Option(metavar="LAYER,LAYER", help="For INT8: layers that stay in floating point.")
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cuda[:N]", callback=device_name, help="For TensorRT: the GPU that the engine is built on."
        ),
    ] = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write; default: named by model, precision and format."
        ),
    ] = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Export a checkpoint to an artifact, or lower the precision of an artifact."""
    from resnet_infer import zoo
    from resnet_infer.errors import ModelError, UsageError

    if allow and target != AUTO:
        raise UsageError(
            f"--allow {allow} is for --target auto",
            hint="an FP32 artifact is computed in bf16 with the option --compute bf16 of classify and serve",
        )
    chosen = get_format(format) if format else format_of(output) if output else ROWS[0]
    given = {name: value for name, value in options.items() if value not in (None, False)}
    opt_batch = given.pop("opt_batch", None) if target == AUTO else None
    check_options(chosen, given)
    target = target or chosen.targets[0]
    # What is fastest is found by trying the default format; the library's `export` makes one file and knows no "auto".
    if target not in chosen.targets and not (target == AUTO and chosen is ROWS[0]):
        raise UsageError(f"--format {chosen.name} is for the target {', '.join(chosen.targets)}, not {target}")
    if output and suffix_of(output) != chosen.suffix:
        raise UsageError(f"a file of the format {chosen.name} ends in {chosen.suffix}, {other_suffix(output)}")
    if output:  # checked before a model is loaded or downloaded
        chosen.require_free(output, [model, calibration_data, check_data], "-o")
    from resnet_infer.converters.config import ExportConfig, Pictures
    from resnet_infer.converters.export import check, export

    tried = None if precision is None else (precision,)
    precision = precision or "fp32"
    config = ExportConfig(
        precision=precision,  # type: ignore[arg-type]
        target=None if target == AUTO else target,  # type: ignore[arg-type]
        method=calibration_method,  # type: ignore[arg-type]
        weight_bits=weight_bits,
        float_layers=names(float_layers),
        max_drop=max_drop,
        pictures=Pictures(calibration_data, calibration_pictures, check_data, check_pictures),
        options=given,
        device=device,
    )
    if tried or target != AUTO:
        check(chosen, config)
    source = zoo.source(model)
    if isinstance(source, Path) and (chosen.suffix, precision) == (suffix_of(source), "fp32") and target != AUTO:
        raise ModelError(
            f"{source} is an artifact already",
            hint="lower its precision with --precision int8 or fp16, or give the checkpoint it was made from",
        )
    stem = source.stem if isinstance(source, Path) else source.spec.name
    name = stem + ("" if precision == "fp32" else f".{precision}") + chosen.suffix
    path = output or Path(f"{stem}.auto{chosen.suffix}" if target == AUTO else name)
    chosen.require_free(path, [model, calibration_data, check_data], "-o")
    introduce_default(model, "resnet-infer export")
    if target == AUTO:
        from resnet_infer.benchmarking.autotune import export_fastest

        allowed = (allow,) if allow else ()
        made = export_fastest(source, path, config, opt_batch or 8, tried, allowed)  # type: ignore[arg-type]
    else:
        made = export(source, path, config)
    if as_json:
        print(strict_json.dumps(document({"file_format": chosen.name, **made.to_json()})))
    else:
        show(f"{' and '.join(map(str, made.files))}  {size_text(made.size)}")


def _with_options(function: Callable[..., None]) -> None:
    """Declare the options of all formats, before `--device`, in place of the function's `**options`."""
    parameters = [
        item for item in signature(function, eval_str=True).parameters.values() if item.kind != item.VAR_KEYWORD
    ]
    place = next(number for number, item in enumerate(parameters) if item.name == "device")
    parameters[place:place] = [_parameter(option) for option in known_options()]
    setattr(function, "__signature__", Signature([item.replace(kind=item.KEYWORD_ONLY) for item in parameters]))  # noqa: B010


def _parameter(option: Option) -> Parameter:
    """Return the parameter of an option of a format."""
    name = f"--{option.name.replace('_', '-')}"
    kinds: dict[str, Any] = {"flag": bool, "int": int | None, "path": Path | None}
    most = option.most or MOST if option.kind == "int" else None
    declared = typer.Option(name, metavar=option.metavar, min=option.least, max=most, help=option.help)
    default = False if option.kind == "flag" else None
    return Parameter(
        option.name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kinds[option.kind], declared]
    )


_with_options(export)
