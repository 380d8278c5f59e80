"""`resnet-infer evaluate`"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_infer.cli.options import Device, Json, Runtime, Threads, choice
from resnet_infer.console import note, table

if TYPE_CHECKING:
    from resnet_infer.data.datasets import Dataset
    from resnet_infer.evaluation.result import Evaluation, Rate, Result

SHOWN = 20
"""Most unreadable pictures that are named on stderr; `--json` has all."""


def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]... DATA",
            help="Checkpoints, artifacts or names (torch:MODEL: run by torch), and labelled pictures: CIFAR, ImageNet,"
            " Tiny ImageNet, a folder or archive of class folders, or a CSV. No MODEL: the default, or that of --url.",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            "-p",
            metavar="native|1-crop|10-crop|multi-scale",
            help="Views of a picture; may be repeated. Default: native where the crop is all of it, else 1-crop.",
        ),
    ] = None,
    scales: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Of multi-scale: shorter sides; default: the paper's.")
    ] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Also the model of the service there.")] = None,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Also the average of all models.")] = False,
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare with this model, with McNemar's test.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="X", help="Exit 1 if a top-1 error is more than X points above the reference's."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the data; default: test, else val, where it has several.")
    ] = None,
    class_order: Annotated[
        str | None,
        typer.Option(
            metavar="numbers|string|natural|FILE",
            help="Which class of the model is which, where the data's class names do not say it.",
        ),
    ] = None,
    runtime: Runtime = "auto",
    device: Device = "auto",
    batch: Annotated[int, typer.Option("--batch", "-b", min=1, help="Most views in one call of the runtime.")] = 32,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode beside a GPU; default: all cores.")
    ] = None,
    threads: Threads = None,
    on_error: Annotated[
        str,
        typer.Option(
            metavar="fail|skip",
            callback=choice("fail", "skip"),
            help="Pictures that cannot be read: an error, or not counted.",
        ),
    ] = "fail",
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep answers here as they come, and go on from them.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with curves, confusions and mistakes.")
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Only show the paper's tables of errors.")] = False,
    as_json: Json = False,
) -> None:
    from resnet_infer.errors import ParityError, UsageError

    if paper:
        _paper(as_json)
        return
    if not arguments:
        raise UsageError("say what to evaluate on", hint="resnet-infer evaluate MODEL DATA")
    from resnet_infer.evaluation.evaluate import evaluate as measure

    *models, data = arguments
    # As in `classify`: threads that decode hold the interpreter only briefly.
    sys.setswitchinterval(0.0005)
    with ExitStack() as stack:

        def started(dataset: Dataset, done: int) -> Callable[[int], None]:
            from resnet_infer.progress import progress

            if done:
                note(f"{done:,} of {len(dataset.samples):,} pictures are answered in {resume}")
            return stack.enter_context(progress("evaluating", len(dataset.samples), "pictures", done=done))

        found = measure(
            models or ([] if url else [None]),
            Path(data),
            protocols=protocol or (),
            scales=_scales(scales),
            url=url,
            ensemble=ensemble,
            reference=reference,
            max_drop=max_drop,
            split=split,
            class_order=_class_order(class_order),
            runtime=runtime,
            device=device,
            threads=threads,
            batch_size=batch,
            workers=workers,
            skip_unreadable=on_error == "skip",
            resume=resume,
            started=started,
        )
    for item in found.unreadable[:SHOWN]:
        note(f"skipped {item.error.message}")
    for warning in found.warnings:
        note(f"warning: {warning}")
    if report:
        from resnet_infer.evaluation.report import write_report

        write_report(found, report)
        note(f"wrote {report}")
    print(json.dumps(found.to_json(), indent=2) if as_json else _table(found))
    if too_much := found.too_much:
        raise ParityError(
            f"more than {max_drop:+g} points of top-1 error against {reference}: "
            + "; ".join(f"{item.name}, {item.protocol}: {item.difference}" for item in too_much)
        )


def _table(found: Evaluation) -> str:
    from resnet_infer.evaluation.paper import PAPER

    header = ["model", "runs on", "precision", "protocol", "top-1 error", "95%", "top-5 error", "95%"]
    columns: list[tuple[str, Callable[[Result], str]]] = [
        ("paper", lambda item: next((str(row) for source, row in item.published if source.source == PAPER), "")),
        (
            "others",
            lambda item: ", ".join(
                f"{row} ({source.source})" for source, row in item.published if source.source != PAPER
            ),
        ),
        ("recorded", lambda item: f"{item.recorded.top1_error:g}" if item.recorded else ""),
    ]
    columns = [(name, cell) for name, cell in columns if any(cell(item) for item in found.results)]
    rows = [
        [
            f"{item.name} (reference)" if item.is_reference else item.name,
            _where(item),
            item.spec.precision if len(item.members) == 1 else "",
            item.protocol,
            *_rate(item.top1),
            *(_rate(item.top5) if item.top5 else ("", "")),
            *(cell(item) for _, cell in columns),
        ]
        for item in found.results
    ]
    lines = [
        f"{found.dataset.name}: {found.pictures:,} pictures"
        + (f", {len(found.unreadable)} skipped" if found.unreadable else ""),
        "",
        table([*header, *(name for name, _ in columns)], rows),
    ]
    compared = [item for item in found.results if item.difference]
    if compared:
        reference = next(item for item in found.results if item.is_reference)
        lines += ["", f"against {reference.name}:"]
        lines += [f"  {item.name}, {item.protocol}: {item.difference}" for item in compared]
    return "\n".join([*lines, "", *_speed(found)])


def _where(item: Result) -> str:
    return f"{item.runtime['runtime']}, {item.runtime['device']}" if item.runtime else ""


def _rate(rate: Rate) -> tuple[str, str]:
    low, high = rate.interval
    return str(rate), f"{low:.2f}-{high:.2f}"


def _speed(found: Evaluation) -> list[str]:
    seconds = found.seconds
    if not seconds.pictures:
        return ["no picture was left to be answered"]

    def ms(value: float) -> str:
        return f"{1000 * value:.2f}"

    count = seconds.pictures
    lines = [f"{count / seconds.wall:,.1f} pictures/s ({count:,} in {seconds.wall:.1f} s)"]
    rows = [
        [item.name, item.protocol, ms(seconds.decode / count), ms(item.resize_seconds), ms(item.inference_seconds)]
        for item in found.results
        if item.resize_seconds is not None and item.inference_seconds is not None and len(item.members) == 1
    ]
    return [*lines, "", table(["ms a picture", "", "decode", "resize", "inference"], rows)]


def _paper(as_json: bool) -> None:
    from resnet_infer.evaluation.paper import TABLES

    if as_json:
        print(json.dumps([item.to_json() for item in TABLES], indent=2))
        return
    parts = []
    for item in TABLES:
        columns = [name for name in ("top1", "top5") if any(getattr(row, name) is not None for row in item.rows)]
        spread = ["over five runs"] if any(row.spread for row in item.rows) else []
        rows = [
            [
                row.label,
                *("-" if getattr(row, name) is None else f"{getattr(row, name):.2f}" for name in columns),
                *([row.spread] if spread else []),
            ]
            for row in item.rows
        ]
        heads = {"top1": "top-1", "top5": "top-5"}
        parts.append(
            f"{item.source}. {item.title}. {item.data}, {item.protocol}, error in %\n"
            + table(["network", *(heads[name] for name in columns), *spread], rows)
        )
    print("\n\n".join(parts))


def _scales(text: str | None) -> tuple[int, ...] | None:
    from resnet_infer.errors import UsageError

    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"the scales are numbers with commas between them, not {text!r}") from error


def _class_order(text: str | None) -> Any:
    """numbers, string, natural, or the lines of a file."""
    from resnet_infer.errors import UsageError

    if text in (None, "numbers", "string", "natural"):
        return text
    try:
        return tuple(line.strip() for line in Path(text or "").read_text("utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{text} is neither numbers, string, natural nor a file of class names ({error})") from error
