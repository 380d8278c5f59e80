"""Implement `resnet-infer evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_infer.cli.options import Compute, Device, Json, Runtime, Threads, introduce_default, output_option
from resnet_infer.cli.parsing import MOST, choice, number, numbers
from resnet_infer.cli.parsing import class_order as parse_order
from resnet_infer.cli.results import Forms, Found
from resnet_infer.data.protocols import DEFAULTS, NAMES, SIZED
from resnet_infer.models.format_version import document
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import note, show
from resnet_infer.utils.threads import MOST_THREADS

if TYPE_CHECKING:
    from resnet_infer.data.datasets import Dataset

EXAMPLES = ("evaluate resnet50.onnx flowers/", "evaluate resnet50.onnx flowers/ --output errors.html")
"""Command lines that the help ends with."""
FORMS = Forms(
    "evaluate",
    (".json", ".jsonl", ".csv", ".md", ".html"),
    (("data", "results", "speed"),),
    (
        *("model", "protocol", "precision", "runs_on", "is_reference", "pictures", "top1_error", "top1_low"),
        *("top1_high", "top5_error", "top5_low", "top5_high"),
    ),
)
SHOWN = 20
"""Most unreadable images that are named on stderr; `--json` lists all."""


def evaluate(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]... DATA",
            help="Models (checkpoints, artifacts or names; torch:MODEL is run by torch), and labelled images: CIFAR,"
            " ImageNet, Tiny ImageNet, a folder or archive with a folder of images for each class, or a CSV with the"
            " columns path and label. Without MODEL: the default model, or that of --url.",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            metavar="|".join(NAMES),
            help="Crops of an image that are averaged; may be repeated. Default: "
            f"{DEFAULTS['whole']} for models that take the whole image, else {DEFAULTS['centre']}.",
        ),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help=f"For {', '.join(SIZED)}: shorter sides in pixels; default: the paper's."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Also evaluate the model of a running service.")
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Also evaluate the mean of all models' probabilities.")
    ] = False,
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare the models with this one (McNemar's test).")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=-100,
            max=100,
            callback=number,
            help="Exit with 1 if a top-1 error is more than X points of percent above that of --reference.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of the data; default: test, else val.")
    ] = None,
    class_order: Annotated[
        str | None,
        typer.Option(
            metavar="numbers|string|natural|FILE",
            help="Order of the data's classes, if their names do not tell which class of the model each is.",
        ),
    ] = None,
    runtime: Runtime = "auto",
    device: Device = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, max=MOST, help="Crops in one call of the runtime at most.")
    ] = 32,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_THREADS,
            help="Threads that decode images for a GPU or a service; default: all usable cores.",
        ),
    ] = None,
    threads: Threads = None,
    compute: Compute = "auto",
    on_error: Annotated[
        str,
        typer.Option(
            metavar="fail|skip",
            callback=choice("fail", "skip"),
            help="Images that cannot be read or that do not exist: fail ends the command, skip does not count them.",
        ),
    ] = "fail",
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the answers in this file as they come.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the answers in --answers; begin where there are none.")
    ] = False,
    output: Annotated[Path | None, output_option(FORMS.suffixes)] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Also write a page with curves, confusions and mistakes.")
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Only print the paper's tables of errors.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the errors of models. Raise `ParityError` if one exceeds the reference's by more than `--max-drop`."""
    from resnet_infer.errors import AnswerError, ParityError, UsageError

    if paper:
        _show_paper(context, as_json)
        return
    if not arguments:
        raise UsageError("say what to evaluate on", hint="resnet-infer evaluate MODEL DATA")
    from resnet_infer.evaluation.config import EvaluationConfig
    from resnet_infer.evaluation.evaluate import evaluate as measure

    *models, data = arguments
    _require_free(output, report, answers, [*models, data, reference, class_order])
    # As in `classify`: decoding threads need the interpreter only briefly.
    sys.setswitchinterval(0.0005)
    try:
        with ExitStack() as stack:

            def started(dataset: Dataset, done: int) -> Callable[[int], None]:
                """Show a progress bar from the first unanswered image on."""
                from resnet_infer.utils.progress import progress

                if not url:  # after all refusals
                    introduce_default(models[0] if models else None, "resnet-infer evaluate")
                if done:
                    note(f"{done:,} of {len(dataset.samples):,} pictures are answered in {answers}")
                return stack.enter_context(progress("evaluating", len(dataset.samples), "pictures", done=done))

            found = measure(
                models or ([] if url else [None]),
                Path(data),
                EvaluationConfig(
                    protocols=protocol or (),
                    scales=numbers(scales, int, "the scales are numbers with commas between them, not {text}"),
                    url=url,
                    ensemble=ensemble,
                    reference=reference,
                    max_drop=max_drop,
                    split=split,
                    class_order=parse_order(class_order, "numbers", "string", "natural"),
                    runtime=runtime,
                    device=device,
                    threads=threads,
                    compute=compute,
                    batch_size=batch_size,
                    workers=workers,
                    skip_unreadable=on_error == "skip",
                    answers=answers,
                    resume=resume,
                    started=started,
                ),
            )
    except KeyboardInterrupt as stop:
        if stop.args:
            note(str(stop))
        raise
    for item in found.unreadable[:SHOWN]:
        note(f"skipped {item.error.message}")
    for warning in found.warnings:
        note(f"warning: {warning}")
    from resnet_infer.cli.tables import evaluation_cells, evaluation_rows, evaluation_table
    from resnet_infer.evaluation.report import write_report

    header, cells = evaluation_cells(found)
    rows = evaluation_rows(found)
    page = partial(write_report, found)
    FORMS.give(Found(found.to_json(), evaluation_table(found), rows, header, cells, page), output, as_json)
    if report:
        page(report)
        note(f"wrote {report}")
    if missing := sum(int((item.answered.top1 < 0).sum()) for item in found.results):
        raise AnswerError(f"{missing:,} of the answers are not finite numbers; their pictures count as wrong above")
    if over_max_drop := found.over_max_drop:
        raise ParityError(
            f"more than {max_drop:+g} points of top-1 error against {reference}: "
            + "; ".join(f"{item.name}, {item.protocol}: {item.difference}" for item in over_max_drop)
        )


def _show_paper(context: typer.Context, as_json: bool) -> None:
    """Show the paper's tables. Raises `UsageError` if other arguments are given."""
    from resnet_infer.errors import UsageError

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        typed = source is not None and source.name == "COMMANDLINE" and parameter.expose_value
        if typed and parameter.name not in ("paper", "as_json"):
            raise UsageError(
                f"--paper shows the paper's tables and evaluates nothing, so {parameter.opts[0]} does not go with it",
                hint="give it alone, or with --json",
            )
    if as_json:
        from resnet_infer.evaluation.paper import TABLES

        print(strict_json.dumps(document({"tables": [item.to_json() for item in TABLES]}), indent=2))
    else:
        from resnet_infer.cli.tables import paper_tables

        show(paper_tables())


def _require_free(output: Path | None, report: Path | None, answers: Path | None, inputs: list[str | None]) -> None:
    """Raise `UsageError` or `ResnetInferError`, before anything is evaluated, if an output cannot be written."""
    from resnet_infer.evaluation import journal
    from resnet_infer.evaluation import report as page
    from resnet_infer.models.outputs import Output
    from resnet_infer.reporting.html import is_page
    from resnet_infer.runtimes.registry import split_runtime

    outputs = [Output(page.OPTION, report, "page of ours", is_page)] if report else []
    if answers:
        outputs.append(Output(journal.OPTION, answers, "file of answers", journal.is_journal))
    read = [split_runtime(argument)[1] for argument in inputs if argument]
    FORMS.require_free(output, read, outputs)
