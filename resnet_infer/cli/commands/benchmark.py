"""Implement `resnet-infer benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_infer.cli.options import Compute, Device, Json, Runtime, introduce_default, output_option
from resnet_infer.cli.parsing import MOST, bounded_numbers, choice, number
from resnet_infer.cli.results import Forms, Found
from resnet_infer.utils.console import note
from resnet_infer.utils.files import suffix_of
from resnet_infer.utils.threads import MOST_THREADS

if TYPE_CHECKING:
    from resnet_infer.benchmarking.latency.measured import Benchmark

EXAMPLES = ("benchmark resnet50.onnx resnet50.int8.onnx --batch-size 1,8", "benchmark --scenario offline")
"""Command lines that the help ends with."""
FORMS = Forms("benchmark", (".json", ".html"), (("settings", "results"), ("scenario", "system")))
MOST_CLIENTS = 4096
"""Most clients of a closed loop. Each has a thread, which mostly waits."""
MOST_RATE = 1_000_000
"""Highest rate in requests per second, more than one machine can send."""


def benchmark(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Checkpoints, artifacts or names of models (torch:MODEL is run by torch), measured side by side; "
            "default: a built-in model.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        str, typer.Option("--batch-size", "-b", metavar="N,N,...", help="Images in one call of the runtime.")
    ] = "1",
    runtime: Runtime = "auto",
    device: Device = "auto",
    compute: Compute = "auto",
    threads: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Threads within a call of the runtime; default: all usable cores."),
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photographs to decode; default: synthetic JPEGs.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="How often each model has its turn; default: 20.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=MOST,
            callback=number,
            help="How long each stage (decoding, resizing, inference) is measured in a turn, in seconds; default: 0.2. "
            "With --scenario: length of the run, or least length of each run of a sweep; default: 5.",
        ),
    ] = None,
    null: Annotated[
        bool, typer.Option("--null", help="Also measure a runtime that computes nothing: the cost of measuring.")
    ] = False,
    remember: Annotated[
        bool,
        typer.Option(
            "--remember",
            help="Measure every installed runtime on the CPU, and write the times into the machine profile, by which "
            "auto chooses. Default of --threads: 1.",
        ),
    ] = False,
    as_json: Json = False,
    output: Annotated[Path | None, output_option(FORMS.suffixes)] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Also write a page with distributions and curves.")
    ] = None,
    errors: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="For the page: a JSON file of `evaluate`.")
    ] = None,
    include: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.json", help="For the page: JSON files of other runs; may be repeated."),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Measure one model under load: single-stream, multi-stream, server, offline, closed-loop, open-loop "
            "or sweep.",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="With --scenario: send requests to a running service.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DATA", help="With --scenario: images; for --accuracy, labelled ones.")
    ] = None,
    accuracy: Annotated[bool, typer.Option("--accuracy", help="For LoadGen: the accuracy mode.")] = False,
    official: Annotated[
        bool, typer.Option("--official", help="For LoadGen: the official settings, which take long.")
    ] = False,
    rate: Annotated[str | None, typer.Option(metavar="R,R,...", help="With --scenario: queries per second.")] = None,
    crops: Annotated[
        str | None, typer.Option(metavar="1|10", callback=choice("1", "10"), help="With --scenario: crops of an image.")
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, max=MOST_CLIENTS, help="For closed-loop: clients at the same time; default: 8.")
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(
            metavar="MS", min=0, max=MOST, callback=number, help="With --scenario: latency that is allowed, in ms."
        ),
    ] = None,
    logs: Annotated[Path | None, typer.Option(metavar="DIR", help="For LoadGen: keep its logs in this folder.")] = None,
) -> None:
    """Measure models side by side, or one under load. Exit with 1 if a measurement failed."""
    from resnet_infer.benchmarking.report.results_file import read, read_result
    from resnet_infer.errors import UsageError
    from resnet_infer.runtimes.registry import split_runtime

    others = [read_result(path) for path in include or ()]
    evaluated = read(errors) if errors else None
    page = report or (output if output and suffix_of(output) == ".html" else None)
    if page and (include or errors):  # before anything is measured
        from resnet_infer.benchmarking.report.page import require_drawable

        for path, item in zip(include or (), others, strict=True):
            require_drawable(path, [item])
    if (include or errors) and not page:
        raise UsageError("--errors and --include are for the page", hint="add --report FILE.html")
    own = {"--batch-size": batch_size != "1", "--rounds": rounds, "--photos": photos, "--null": null}
    own["--remember"] = remember
    load: dict[str, Any] = {
        "--url": url,
        "--data": data,
        "--accuracy": accuracy,
        "--official": official,
        "--rate": rate,
        "--crops": crops,
        "--clients": clients,
        "--bound": bound,
        "--logs": logs,
    }
    wrong = [name for name, value in (own if scenario else load).items() if value is not None and value is not False]
    if wrong:
        raise UsageError(
            f"{', '.join(wrong)} {'does not go' if len(wrong) == 1 else 'do not go'} "
            f"{'with' if scenario else 'without'} --scenario"
        )
    if remember and compute not in ("auto", "fp32"):
        raise UsageError(f"--remember is for what --runtime auto chooses from, which never computes in {compute}")
    named_models = [split_runtime(model)[1] for model in models or ()]
    _require_free(output, report, logs, [*(include or ()), errors, photos, data, *named_models])
    failed: list[str] = []
    if scenario:
        if len(models or ()) > 1:
            raise UsageError("a scenario is run on one model")
        from resnet_infer.benchmarking.environment import environment
        from resnet_infer.benchmarking.scenarios import Scenario, check_scenario, run_scenario

        counts = bounded_numbers("--threads", threads, int, MOST_THREADS) or (None,)
        if len(counts) > 1:
            raise UsageError("a scenario is run with one number of threads")
        named, model = split_runtime(models[0] if models else None)
        asked = Scenario(
            name=scenario,
            model=model,
            url=url,
            runtime=named or runtime,
            device=device,
            threads=counts[0],
            compute=compute,
            data=data,
            accuracy=accuracy,
            official=official,
            seconds=seconds,
            rates=bounded_numbers("--rate", rate, float, MOST_RATE),
            crops=int(crops or 1),
            clients=clients,
            bound_ms=bound,
            output=logs,
        )
        check_scenario(asked)
        if not url:
            introduce_default(model, "resnet-infer benchmark")
        machine = environment()
        problems = _warn(machine)
        outcome = run_scenario(asked)
        found = {**outcome.to_json(), "warnings": problems, "environment": machine}
        shown, failed = outcome.table(), [scenario] if outcome.valid is False else []
    else:
        measured = _measure(
            models, batch_size, runtime, device, threads, compute, photos, rounds, seconds, null, remember
        )
        from resnet_infer.benchmarking.latency.measured import tables

        found = measured.to_json()
        shown, failed = tables(found), [item.entry.name for item in measured.failed]

    def write_page(path: Path) -> None:
        """Write the page of this result, and of those of other runs."""
        from resnet_infer.benchmarking.report.page import write_report

        if errors:
            require_drawable(errors, [found, *others], evaluated)
        write_report([found, *others], path, evaluated)

    FORMS.give(Found(found, shown, page=write_page), output, as_json)
    if report:
        write_page(report)
        note(f"wrote {report}")
    if failed:
        raise typer.Exit(1)


def _measure(
    models: list[str] | None,
    batch_size: str,
    runtime: str,
    device: str,
    threads: str | None,
    compute: str,
    photos: Path | None,
    rounds: int | None,
    seconds: float | None,
    null: bool,
    remember: bool,
) -> Benchmark:
    """Measure the models side by side, and note times that did not become stable."""
    from resnet_infer.benchmarking.environment import environment
    from resnet_infer.benchmarking.latency.measured import Benchmark
    from resnet_infer.benchmarking.latency.paired_run import Settings, measure
    from resnet_infer.benchmarking.latency.subjects import entries, photographs, synthetic
    from resnet_infer.benchmarking.remember import remember_measured, spread_out
    from resnet_infer.runtimes.registry import split_runtime
    from resnet_infer.utils.progress import progress

    batches = bounded_numbers("--batch-size", batch_size, int, MOST)
    arguments: list[str | None] = [*models] if models else [None]
    rows = entries(
        arguments,
        batches,
        runtime=runtime,
        device=device,
        threads=bounded_numbers("--threads", threads, int, MOST_THREADS) or (1 if remember else None,),
        compute=compute,
        as_default=remember,
    )
    introduce_default(arguments[0], "resnet-infer benchmark")
    if remember:
        rows = spread_out(rows)
    if null:
        from resnet_infer import zoo

        model = split_runtime(arguments[0])[1] or zoo.default_model() or zoo.DEFAULT
        nothing: list[str | None] = [f"null:{model}"]
        rows += entries(nothing, batches)
    given = {"rounds": rounds, "seconds": seconds}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    machine = environment()
    problems = _warn(machine)
    pictures = photographs(photos) if photos else synthetic()
    with progress("benchmarking", settings.steps(len(rows)), "steps") as advance:
        measured = measure(rows, pictures, settings, advance=advance)
    for item in measured:
        if item.warm and not item.warm["warm_up"]["stable"]:
            problems.append(
                f"{item.entry.name}, batch {item.entry.batch}: the times of its calls did not become stable"
            )
            note(f"warning: {problems[-1]}")
    if remember:
        remember_measured(measured)
    return Benchmark(measured, pictures, settings.rounds, settings.seconds, machine, problems)


def _require_free(output: Path | None, report: Path | None, logs: Path | None, inputs: list[Path | str | None]) -> None:
    """Raise `UsageError` or `ResnetInferError`, before anything is measured, if an output cannot be written."""
    from resnet_infer.models.outputs import Output
    from resnet_infer.reporting.html import is_page

    outputs = [Output("--report", report, "page of ours", is_page)] if report else []
    outputs += [Output("--logs", logs / "mlperf_log_summary.txt", "log")] if logs else []
    FORMS.require_free(output, inputs, outputs)


def _warn(machine: dict[str, Any]) -> list[str]:
    """Report and return warnings about the machine's state."""
    from resnet_infer.benchmarking.environment import warnings

    lines = warnings(machine)
    for line in lines:
        note(f"warning: {line}")
    return lines
