"""Implement `resnet-infer compare`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_infer.cli.options import RUNTIME_CHOICES, Json, output_option
from resnet_infer.cli.parsing import LARGEST_SEED, MOST, choice, device_name, number
from resnet_infer.cli.results import Forms, Found, two_columns
from resnet_infer.utils.console import pairs, table

if TYPE_CHECKING:
    from onnx import ModelProto

    from resnet_infer.data.feed import Feed
    from resnet_infer.verification.comparison import Comparison
    from resnet_infer.verification.layers import LayerReport
    from resnet_infer.verification.tolerances import Verdict

EXAMPLES = ("compare resnet50.onnx resnet50", "compare resnet50.int8.onnx resnet50.onnx photos/ --layers")
"""Command lines that the help ends with."""

FORMS = Forms("compare", (".json", ".md"), (("model", "reference", "passed"),))
MODEL_HELP = "A checkpoint (.safetensors), an artifact (.onnx, .xml, .engine) or the name of a model."
DEVICE_HELP = "The device that runs {}. Any but auto that cannot be used is an error."
HELD_OUT = ("val", "test")
"""Splits of a data set to use by default, in order of preference."""
SHOWN = 10
"""Most images with different answers that the table names."""


def compare(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REFERENCE",
            help="The model to compare with. The name of a built-in model stands for its checkpoint.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Argument(metavar="[DATA]", help="Images: a folder, archive or data set; default: synthetic images."),
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(
            metavar="|".join(RUNTIME_CHOICES),
            callback=choice(*RUNTIME_CHOICES),
            help="The library that runs MODEL; auto: by the suffix of its file.",
        ),
    ] = "auto",
    reference_runtime: Annotated[
        str,
        typer.Option(
            metavar="|".join(RUNTIME_CHOICES),
            callback=choice(*RUNTIME_CHOICES),
            help="The library that runs REFERENCE.",
        ),
    ] = "auto",
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda[:N]", callback=device_name, help=DEVICE_HELP.format("MODEL"))
    ] = "auto",
    reference_device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda[:N]", callback=device_name, help=DEVICE_HELP.format("REFERENCE"))
    ] = "auto",
    count: Annotated[
        int,
        typer.Option(
            "--pictures",
            "-n",
            min=2,
            max=MOST,
            help="Number of images, evenly spread over the data; all if there are fewer.",
        ),
    ] = 128,
    split: Annotated[
        str | None,
        typer.Option(metavar="train|val|test", help="Split of a data set; default: val, else test."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the synthetic images, or of the choice of images.")
    ] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MOST,
            callback=number,
            help="Largest difference of logits that passes, as a multiple of the standard deviation of the reference's "
            "logits; default: limits for the lower precision of the two.",
        ),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also compare two ONNX graphs layer by layer.")] = False,
    as_json: Json = False,
    output: Annotated[Path | None, output_option(FORMS.suffixes)] = None,
) -> None:
    """Compare the logits of two models. Exit with 1 if they differ by more than the limits."""
    from resnet_infer import zoo
    from resnet_infer.api.measuring import exact_reference, open_side
    from resnet_infer.data.feed import open_feed
    from resnet_infer.runtimes.registry import split_runtime
    from resnet_infer.utils.progress import progress
    from resnet_infer.verification import comparison as comparing
    from resnet_infer.verification.tolerances import Tolerance

    if split is not None and data is None:
        raise typer.BadParameter("--split needs DATA")
    FORMS.require_free(output, [split_runtime(model)[1], split_runtime(reference)[1], data])
    if reference in zoo.BUILT_IN:
        reference = str(zoo.checkpoint_file(reference))
    limits = None if tolerance is None else Tolerance(delta=tolerance)
    graphs = _graphs(model, reference) if layers else None
    with (
        open_side(model, runtime, device) as first,
        open_side(reference, reference_runtime, reference_device) as second,
    ):
        comparing.require_comparable(first.spec, second.spec)
        pictures = partial(open_feed, data, second.spec, seed=seed, split=split, prefer=HELD_OUT)
        feed = pictures(count=count)
        with progress("comparing", len(feed), "images") as advance:
            exact = exact_reference(reference) if comparing.lower_precision(first, second) == "fp32" else None
            verdict = comparing.compare(first, second, feed, limits=limits, exact=exact, advance=advance)
        precision = comparing.lower_precision(first, second)
        infos = [
            {"name": item.spec.name, "precision": comparing.precision_of(item)} | item.describe()
            for item in (first, second)
        ]
    parting = _layers(graphs, pictures, precision) if graphs else None
    result = {"model": infos[0], "reference": infos[1], "precision": precision, **verdict.to_json()}
    result["data"] = {"source": feed.source, "name": feed.name, "seed": seed}
    shown = [str(info["name"]) for info in infos]
    if shown[0] == shown[1]:  # then their paths tell them apart
        shown = [f"{name}, {argument}" for name, argument in zip(shown, (model, reference), strict=True)]
    form = "{} ({precision}, {runtime} on {device})"
    told = (form.format(label, **info) for label, info in zip(shown, infos, strict=True))
    rows = [*zip(("model", "reference"), told, strict=True), *_rows(verdict.measured, feed)]
    parts = [pairs(rows)]
    if parting:
        result["layers"] = parting.to_json()
        parts.append(_layer_table(parting))
    said = ["PASS" if verdict.passed else "FAIL", *(f"  {reason}" for reason in verdict.failures)]
    text = "\n\n".join([*parts, "\n".join(said)])
    rows.append(("verdict", "\n".join(map(str.strip, said))))
    FORMS.give(Found(result, text, **two_columns(rows)), output, as_json)
    if not verdict.passed:
        raise typer.Exit(1)


def _graphs(model: str, reference: str) -> tuple[ModelProto, ModelProto]:
    """Open the ONNX graphs of both models."""
    from resnet_infer import zoo
    from resnet_infer.verification.layers import open_graph

    return open_graph(zoo.find(model)), open_graph(zoo.find(reference))


def _layers(
    graphs: tuple[ModelProto, ModelProto], pictures: Callable[..., Feed], precision: str
) -> Verdict[LayerReport]:
    """Compare two graphs layer by layer."""
    from resnet_infer.utils.progress import progress
    from resnet_infer.verification.layers import PICTURES, compare_layers
    from resnet_infer.verification.tolerances import LAYER_LIMITS

    feed = pictures(count=PICTURES)
    with progress("comparing layers", len(feed), "images") as advance:
        return compare_layers(*graphs, feed=feed, limit=LAYER_LIMITS[precision], advance=advance)


def _rows(found: Comparison, feed: Feed) -> list[tuple[str, str]]:
    """Return the figures of a comparison as names and values."""
    from resnet_infer.verification.comparison import describe_limits

    rows = [
        ("pictures", f"{found.pictures:,} of {feed.name}"),
        ("logit delta", f"{found.relative_max:.1e} of the spread at most, {found.relative_mean:.1e} on average"),
        ("in absolute terms", f"{found.max_delta:.2e} at most, {found.mean_delta:.2e} on average"),
        ("logit error", f"{found.error:.2g} of the variance, {found.largest_error:.2g} on the worst picture"),
        ("top-1 agreement", f"{100 * found.agreement:.2f}%; {100 * found.clear_agreement:.2f}% of {found.clear} clear"),
        ("limits", describe_limits(found.limits)),
    ]
    if found.deviation:
        exact = found.deviation
        rows.insert(
            3,
            (
                "against float64",
                f"{exact.relative_delta:.1e} of the spread at most, the reference itself {exact.own_error:.1e} "
                f"({exact.exact_pictures} pictures in float64)",
            ),
        )
    if found.disagreements:
        lines = [
            f"{item.picture}: {item.model}, and by the reference {item.reference} (margin {item.margin:.2f})"
            for item in found.disagreements[:SHOWN]
        ]
        if len(found.disagreements) > SHOWN:
            lines.append(f"and {len(found.disagreements) - SHOWN} more")
        rows.append(("different answers", "\n".join(lines)))
    return rows


def _layer_table(verdict: Verdict[LayerReport]) -> str:
    """Format the differences of the layers as a table."""
    report = verdict.measured
    header = ("layer", "operator", "relative delta", "max |delta|", "cosine", "")
    rows = [
        (
            *(layer.name, layer.operator, f"{layer.relative:.2e}", f"{layer.max_delta:.2e}", f"{layer.cosine:.6f}"),
            f"<- the first over {report.limit:g}" if layer is report.first else "",
        )
        for layer in report.layers
    ]
    lines = [table(header, rows)]
    if report.unmatched:
        lines.append(f"{len(report.unmatched)} layers of the reference have no counterpart")
    if verdict.passed:
        lines.append(str(verdict))
    return "\n".join(lines)
