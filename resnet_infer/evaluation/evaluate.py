"""`evaluate`: models, a data set and protocols in, an `Evaluation` out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer.data.class_map import StatedOrder
from resnet_infer.data.datasets import Dataset
from resnet_infer.data.datasets.classes import some
from resnet_infer.errors import DataError, PictureError, UsageError
from resnet_infer.evaluation.data_identity import belongs, identity
from resnet_infer.evaluation.journal import Journal
from resnet_infer.evaluation.paper import Figure, Table, published
from resnet_infer.evaluation.protocols import Scorer, as_bytes
from resnet_infer.evaluation.record import Record
from resnet_infer.evaluation.result import Answered, Evaluation, Result
from resnet_infer.evaluation.run_identity import bound_to, require_same_pictures
from resnet_infer.evaluation.runner import Seconds, run
from resnet_infer.evaluation.sanity_checks import sanity_checks
from resnet_infer.evaluation.targets.local import OpenModel, Row, make_rows, open_labelled, open_model
from resnet_infer.evaluation.targets.names import distinct_models, distinct_protocols, is_model, shown_names
from resnet_infer.evaluation.targets.service import CONNECTIONS, open_service
from resnet_infer.models.spec import Measured
from resnet_infer.reporting.text import plural
from resnet_infer.utils.metrics import difference
from resnet_infer.utils.threads import require_threads


def evaluate(
    models: Sequence[str | None],
    data: Path,
    *,
    protocols: Sequence[str] = (),
    scales: Sequence[int] | None = None,
    ensemble: bool = False,
    url: str | None = None,
    reference: str | None = None,
    max_drop: float | None = None,
    split: str | None = None,
    class_order: StatedOrder | None = None,
    runtime: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    skip_unreadable: bool = False,
    resume: Path | None = None,
    started: Callable[[Dataset, int], Callable[[int], None]] = lambda dataset, done: lambda count: None,
) -> Evaluation:
    """The error of `models` on the labelled pictures of `data`, each decoded once for all of them.

    A model is a path or a name; `torch:MODEL` (or another runtime) says what runs it, where that is not `runtime`.
    `protocols` are of `protocols.PROTOCOLS`, by default the one that fits each model; `scales` belong to multi-scale.
    `url` adds the model of a running service. `ensemble` adds the mean of all models, and `reference` another model,
    which the others are compared with.
    `class_order` is for data whose class names say nothing to the models, see `map_classes`. Pictures that cannot be
    read, or that a CSV lists and that are not there, are an error, or left out of the count. In the file `resume`
    answers are kept as they come; where it has some, of the same models, pictures and protocols, the run goes on from
    there. `started` is called with the data set and the number of pictures that are answered already, and what it
    returns with every further picture. A model or protocol that is named twice is taken once, with a warning.

    Raises `UsageError`, `ModelError`, `DataError`, `PictureError` and `ServiceError`; and `KeyboardInterrupt`, which
    says what `resume` has.
    """
    if max_drop is not None and reference is None:
        raise UsageError("--max-drop is the most that may be lost against a model", hint="name it with --reference")
    if max_drop is not None and not math.isfinite(max_drop):
        raise UsageError(f"--max-drop is a number of points of percent, not {max_drop}")
    models, repeated = distinct_models(models, runtime)
    protocols, more = distinct_protocols(protocols)
    repeated += more
    if ensemble and len(models) + (url is not None) < 2:
        raise UsageError("an ensemble has at least two models")
    if not (models or url) or batch_size < 1:
        raise UsageError("there is at least one model, and the batch size is at least 1")
    require_threads(threads)
    require_threads(workers, "workers")
    dataset = _open_data(data, split, missing_ok=skip_unreadable)
    with ExitStack() as stack:

        def opened(argument: str | None, name: str | None) -> OpenModel:
            model = open_model(
                argument, dataset, class_order, name=name, runtime=runtime, device=device, threads=threads
            )
            stack.callback(model.close)
            return model

        *names, own = shown_names([*models, reference])
        base = opened(reference, own) if reference is not None else None
        others: list[OpenModel] = [opened(argument, name) for argument, name in zip(models, names, strict=True)]
        if url is not None:
            others.append(open_service(url, dataset, class_order))
            stack.callback(others[-1].close)
        everyone = [base, *others] if base else others
        scorers, rows = make_rows(others, base, protocols, scales=scales, batch_size=batch_size, ensemble=ensemble)
        labels = np.array([sample.label for sample in dataset.samples], np.int64)
        entrants = [row.entrant(labels) for row in rows]
        record = Record(len(rows), len(dataset.samples))
        journal: Journal | None = None
        if resume is not None:
            journal = stack.enter_context(Journal(resume, bound_to(dataset, everyone, rows, scorers), record))
            require_same_pictures(dataset, record, resume)
        resumed = int(record.answered.sum())
        try:
            seconds, unreadable = run(
                dataset,
                scorers,
                entrants,
                record,
                lanes=min(model.lanes for model in everyone),
                batch_size=max(batch_size, *(scorer.rows for scorer in scorers)),
                workers=workers or (CONNECTIONS if url else None),
                skip=skip_unreadable,
                keep=journal.append if journal else lambda index, digest, answers: None,
                advance=started(dataset, resumed),
            )
        except KeyboardInterrupt:
            if journal is None:
                raise
            raise KeyboardInterrupt(
                f"{journal.kept:,} of {plural(len(dataset.samples), 'picture')} are answered in {resume}; the same "
                "command goes on from there"
            ) from None
        if not record.answered.any():
            raise DataError(f"no picture of {dataset.name} can be read; the first: {unreadable[0].error.message}")
        results: list[Result] = []
        for number, (row, entrant) in enumerate(zip(rows, entrants, strict=True)):
            answered = Answered.of(record, number, entrant.labels)
            results.append(_result(row, dataset, answered, scorers, seconds, results))
    duplicates = same_content(dataset, record.alike())
    warnings = [*repeated, *_warnings(results, dataset, duplicates)]
    if journal and journal.damaged:
        lines = plural(journal.damaged, "line")
        warnings.append(f"{resume}: {lines} damaged and passed over; what they answered was answered again")
    return Evaluation(dataset, results, record, seconds, unreadable, duplicates, warnings, resumed, max_drop)


def _open_data(data: Path, split: str | None, *, missing_ok: bool) -> Dataset:
    hint = "the last argument is the data: resnet-infer evaluate MODEL DATA"
    try:
        return open_labelled(data, split, missing_ok=missing_ok)
    except DataError as error:
        if not data.is_dir() and is_model(str(data)):
            raise UsageError(f"{data} is a model, not labelled pictures", hint=hint) from error
        if not data.exists():
            raise DataError(error.message, hint=error.hint or hint) from error
        raise


def same_content(dataset: Dataset, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Those parts of `groups` whose pictures, by their numbers, have the same content to the byte."""
    found = []
    for group in groups:
        contents: dict[bytes, list[int]] = {}
        for number in group:
            with suppress(PictureError):  # it has gone since
                content = as_bytes(dataset.samples[number].read())
                contents.setdefault(content, []).append(number)
        found += [part for part in contents.values() if len(part) > 1]
    return found


def _result(
    row: Row,
    dataset: Dataset,
    answered: Answered,
    scorers: Sequence[Scorer],
    seconds: Seconds,
    before: Sequence[Result],
) -> Result:
    first, count = row.models[0], seconds.pictures
    compared = None
    if row.against is not None:
        other = before[row.against]
        classes = min(len(other.spec.classes), len(first.spec.classes))
        compared = difference(other.answered.ranks, answered.ranks, classes)

    def spent(stage: Sequence[float]) -> float | None:
        known = count and not any(model.remote for model in row.models)
        return sum(stage[number] for number in row.scorers) / count if known else None

    data = identity(first.spec, answered.labels, dataset.name)
    return Result(
        name=row.name,
        protocol=row.protocol,
        scales=scorers[row.scorers[0]].scales,
        members=tuple(model.name for model in row.models),
        spec=first.spec,
        runtime=first.describe() if len(row.models) == 1 else {},
        matched_by=first.classes.by,
        answered=answered,
        resize_seconds=spent(seconds.resize),
        inference_seconds=spent(seconds.inference),
        published=_published(row, data),
        recorded=_recorded(row, dataset, data, len(answered.labels)),
        data=data,
        runs_on=" + ".join(dict.fromkeys(_runs_on(model.describe()) for model in row.models)),
        is_reference=row.is_reference,
        difference=compared,
    )


def _runs_on(runtime: Mapping[str, Any]) -> str:
    return ", ".join(str(runtime[name]) for name in ("runtime", "device") if name in runtime)


def _published(row: Row, data: str | None) -> list[tuple[Table, Figure]]:
    """Of a single model; the paper's ensemble was measured on pictures whose labels are secret."""
    architecture = row.models[0].spec.architecture if len(row.models) == 1 else None
    return published(architecture, row.protocol, data) if architecture else []


def _recorded(row: Row, dataset: Dataset, data: str | None, pictures: int) -> Measured | None:
    if len(row.models) > 1:
        return None
    alike = ("native", "1-crop") if row.protocol in ("native", "1-crop") else (row.protocol,)
    for item in row.models[0].spec.measured:
        if item.protocol in alike and belongs(item, pictures, dataset.name, data):
            return item
    return None


def _warnings(results: Sequence[Result], dataset: Dataset, duplicates: Sequence[Sequence[int]]) -> list[str]:
    found = []
    for result in results:
        answered, where = result.answered, f"{result.name}, {result.protocol}"
        if missing := int((answered.top1 < 0).sum()):
            found.append(f"{where}: {plural(missing, 'answer')} with numbers that are not finite, counted as wrong")
        found += [f"{where}: {doubt}" for doubt in sanity_checks(answered.labels, answered.top1, result.spec.classes)]
    for result in {item.spec.name: item for item in results if item.matched_by == "number"}.values():
        found.append(f"the data numbers its classes: 0 is taken for {result.spec.name}'s {result.spec.classes[0]}")
    if beside := dataset.unlabelled:
        found.append(f"{plural(len(beside), 'picture')} beside the class folders, not counted: {some(beside, 1)}")
    if torn := [group for group in duplicates if len({dataset.samples[number].label for number in group}) > 1]:
        alike = [" = ".join(dataset.samples[number].name for number in group[:3]) for group in torn]
        found.append(
            f"{plural(len(torn), 'picture')} under more than one label, of which one is wrong: {some(alike, 3)}"
        )
    if duplicates:
        alike = [" = ".join(dataset.samples[number].name for number in group[:3]) for group in duplicates]
        more = sum(map(len, duplicates)) - len(duplicates)
        times = "once" if more == 1 else f"{more:,} times"
        found.append(f"the same picture is counted again {times}: {some(alike, 3)}")
    return found
