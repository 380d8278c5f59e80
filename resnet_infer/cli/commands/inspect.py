"""Implement `resnet-infer inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from resnet_infer.cli.options import Json, ModelArgument, output_option
from resnet_infer.cli.results import Forms, Found, two_columns
from resnet_infer.utils.console import pairs, size_text

if TYPE_CHECKING:
    from resnet_infer.models.spec import InputSpec, ModelSpec

EXAMPLES = ("inspect resnet50.onnx", "inspect resnet20-cifar10 --json")
"""Command lines that the help ends with."""
FORMS = Forms("inspect", (".json", ".md"), (("file", "bytes", "spec"),))


def inspect(
    model: ModelArgument = None,
    as_json: Json = False,
    output: Annotated[Path | None, output_option(FORMS.suffixes)] = None,
) -> None:
    """Show the spec of a checkpoint or an artifact, and check that the file fits it. No device is needed."""
    from resnet_infer import zoo
    from resnet_infer.runtimes.artifacts import check_contents, model_parts, read_details, read_spec

    FORMS.require_free(output, [model])
    path = zoo.find(model)
    spec = read_spec(path)
    check_contents(path)
    details = read_details(path)
    size = sum(part.stat().st_size for part in model_parts(path))
    about = {"file": str(path), "bytes": size, "spec": json.loads(spec.dumps())}
    rows = [("file", str(path)), ("size", size_text(size)), *spec_rows(spec)]
    if details:
        about[details.key] = details.values
        rows += details.rows
    FORMS.give(Found(about, pairs(rows), **two_columns(rows)), output, as_json)


def spec_rows(spec: ModelSpec) -> list[tuple[str, str]]:
    """Return a spec as names and values for a table."""
    from resnet_infer.models.architectures import count_multiply_adds, count_parameters
    from resnet_infer.models.families import BASE_WIDTH

    rows = [("name", spec.name)]
    if arch := spec.architecture:
        options = [f"shortcut option {arch.shortcut}" if arch.shortcut else "no shortcuts"]
        if arch.padding:
            options.append(f"zero channels: {arch.padding}")
        if arch.stride_in:
            options.append(f"stride in the {arch.stride_in}")
        if arch.family.cardinality > 1:
            options.append(f"cardinality {arch.family.cardinality}")
        if arch.family.width != BASE_WIDTH:
            options.append(f"width {arch.family.width}")
        work = count_multiply_adds(arch, spec.input.crop, spec.input.crop)
        rows += [
            ("architecture", f"{arch.name} ({', '.join(options)})"),
            ("parameters", f"{count_parameters(arch):,}"),
            ("multiply-adds", f"{work / 1e6:,.1f} million a picture of {spec.input.crop}x{spec.input.crop}"),
        ]
    names = ", ".join(spec.classes[:10]) + (", ..." if len(spec.classes) > 10 else "")
    rows += [
        ("precision", spec.precision),
        ("classes", f"{len(spec.classes)}: {names}"),
        ("input", _geometry(spec.input)),
    ]
    for item in spec.measured:
        top5 = f", top-5 {item.top5_error:g}%" if item.top5_error is not None else ""
        low, high = item.top1_interval
        by = f", by {item.runtime}" if item.runtime else ""
        on = f"{item.dataset}, {item.pictures:,} pictures, {item.protocol}{by}"
        rows.append(("error", f"top-1 {item.top1_error:g}% ({low:.2f}-{high:.2f}){top5} on {on}"))
    rows += [(key.replace("_", " "), text) for key, value in spec.provenance.items() if (text := _value(value))]
    return rows


def _geometry(spec: InputSpec) -> str:
    """Describe the preprocessing in three lines."""
    mean = "per pixel" if spec.per_pixel else ", ".join(f"{x:.4g}" for x in spec.mean)
    return (
        f"shorter side to {spec.resize} ({spec.interpolation}), centre crop {spec.crop}x{spec.crop}\n"
        f"mean {mean}; std {', '.join(f'{x:.4g}' for x in spec.std)}\n"
        f"EXIF orientation {'obeyed' if spec.exif else 'ignored'}"
    )


def _value(value: object) -> str:
    """Format a JSON value of the provenance as text, which is empty for None and for what holds nothing."""
    if value is None:
        return ""
    if isinstance(value, dict):
        parts = [(key.replace("_", " "), _value(item)) for key, item in value.items()]
        return "\n".join(f"{key}: {_indented(text)}" for key, text in parts if text)
    if isinstance(value, (list, tuple)):
        items = [_value(item).replace("\n", ", ") for item in value]
        return ("\n" if any(", " in item for item in items) else ", ").join(items)
    return str(value)


def _indented(text: str) -> str:
    """Return lines that belong to a key, below it if there are several."""
    return "".join(f"\n  {line}" for line in text.split("\n")) if "\n" in text else text
