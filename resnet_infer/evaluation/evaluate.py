"""Evaluate models on a labelled data set, and return what was found as an `Evaluation`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer._version import __version__
from resnet_infer.data.datasets import Dataset
from resnet_infer.data.datasets.classes import some
from resnet_infer.data.labelled import open_labelled
from resnet_infer.data.protocols import find_protocol
from resnet_infer.errors import DataError, PictureError, UsageError, reason_of
from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.evaluation.data_identity import belongs, identity
from resnet_infer.evaluation.journal import Journal, require_resumable
from resnet_infer.evaluation.paper import Figure, Table, published
from resnet_infer.evaluation.record import Record
from resnet_infer.evaluation.result import Answers, Evaluation, Result
from resnet_infer.evaluation.run_identity import require_same_pictures, run_identity
from resnet_infer.evaluation.runner import Predictor, Seconds, Unreadable, run
from resnet_infer.evaluation.sanity_checks import sanity_checks
from resnet_infer.evaluation.scorer import Scorer, as_bytes
from resnet_infer.evaluation.targets.local import OpenModel, Row, make_rows, open_model
from resnet_infer.evaluation.targets.names import distinct_models, distinct_protocols, is_model, shown_names
from resnet_infer.evaluation.targets.service import CONNECTIONS, open_service
from resnet_infer.models.spec import Measured
from resnet_infer.reporting.text import plural
from resnet_infer.utils.error_statistics import difference
from resnet_infer.utils.threads import require_threads


@dataclass(frozen=True)
class _Targets:
    """Hold all models that are open, and what is evaluated: the rows of the result, and their scorers."""

    models: list[OpenModel]
    scorers: list[Scorer]
    rows: list[Row]
    predictors: list[Predictor]


def evaluate(models: Sequence[str | None], data: Path, config: EvaluationConfig | None = None) -> Evaluation:
    """Measure the error of `models` on the labelled pictures of `data`. Each picture is decoded once for all models.

    A model is a path or a name, None the default model; `torch:MODEL` (or another runtime) overrides
    `config.runtime`. A model or protocol that is named twice is taken once, with a warning.

    Raises `UsageError`, `ModelError`, `DataError`, `PictureError` and `ServiceError`; and `KeyboardInterrupt`, whose
    message says what `config.answers` has.

    Example::

        found = evaluate(["resnet20-cifar10"], Path("cifar10/test"), EvaluationConfig(protocols=["native", "10-crop"]))
        print(found.results[0].top1.error)  # percent
    """
    config = config or EvaluationConfig()
    _require_max_drop(config)
    require_resumable(config.answers, config.resume)
    models, repeated_models = distinct_models(models, config.runtime)
    protocols, repeated_protocols = distinct_protocols(config.protocols)
    _require_models(models, config)
    dataset = _open_data(data, config.split, missing_ok=config.skip_unreadable)
    with ExitStack() as stack:
        targets = _open_targets(models, protocols, dataset, config, stack)
        record = Record(len(targets.rows), len(dataset.samples))
        journal = _open_journal(dataset, targets, record, config.answers, stack)
        resumed = int(record.answered.sum())
        seconds, unreadable = _answer(dataset, targets, record, journal, config)
        if not record.answered.any():
            raise DataError(
                f"no picture of {dataset.name} can be read; the first: {unreadable[0].error.message}",
                source=dataset.name,
                reason="empty",
            )
        results = _results(dataset, targets, record, seconds)
    duplicates = same_content(dataset, record.same_digest())
    warnings = [*repeated_models, *repeated_protocols, *_warnings(results, dataset, duplicates)]
    if journal and journal.damaged:
        lines = plural(journal.damaged, "line")
        warnings.append(f"{config.answers}: {lines} damaged and passed over; what they answered was answered again")
    if journal and resumed and journal.begun_by != __version__:
        warnings.append(
            f"{config.answers} was begun by resnet-infer {journal.begun_by}, and this is {__version__}: the answers of "
            "both are counted together"
        )
    return Evaluation(dataset, results, record, seconds, unreadable, duplicates, warnings, resumed, config.max_drop)


def _require_max_drop(config: EvaluationConfig) -> None:
    """Raise `UsageError` if `max_drop` has no reference or is not a finite number."""
    if config.max_drop is not None and config.reference is None:
        raise UsageError("--max-drop is the most that may be lost against a model", hint="name it with --reference")
    if config.max_drop is not None and not math.isfinite(config.max_drop):
        raise UsageError(f"--max-drop is a number of points of percent, not {config.max_drop}")


def _require_models(models: Sequence[str | None], config: EvaluationConfig) -> None:
    """Raise `UsageError` if there are too few models, or batch size, threads or workers are not possible."""
    if config.ensemble and len(models) + (config.url is not None) < 2:
        raise UsageError("an ensemble has at least two models")
    if not (models or config.url) or config.batch_size < 1:
        raise UsageError("there is at least one model, and the batch size is at least 1")
    require_threads(config.threads)
    require_threads(config.workers, "workers")


def _open_targets(
    models: Sequence[str | None],
    protocols: Sequence[str],
    dataset: Dataset,
    config: EvaluationConfig,
    stack: ExitStack,
) -> _Targets:
    """Open the reference, the models and the service until the end of `stack`, and lay out the rows of the result."""

    def opened(argument: str | None, name: str | None, compute: str) -> OpenModel:
        model = open_model(
            argument,
            dataset,
            config.class_order,
            name=name,
            runtime=config.runtime,
            device=config.device,
            threads=config.threads,
            compute=compute,
        )
        stack.callback(model.close)
        return model

    *names, own = shown_names([*models, config.reference])
    base = opened(config.reference, own, "auto") if config.reference is not None else None
    others: list[OpenModel] = [
        opened(argument, name, config.compute) for argument, name in zip(models, names, strict=True)
    ]
    if config.url is not None:
        others.append(open_service(config.url, dataset, config.class_order))
        stack.callback(others[-1].close)
    scorers, rows = make_rows(
        others, base, protocols, scales=config.scales, batch_size=config.batch_size, ensemble=config.ensemble
    )
    labels = np.array([sample.label for sample in dataset.samples], np.int64)
    predictors = [row.predictor(labels) for row in rows]
    return _Targets([base, *others] if base else others, scorers, rows, predictors)


def _open_journal(
    dataset: Dataset, targets: _Targets, record: Record, answers: Path | None, stack: ExitStack
) -> Journal | None:
    """Open the file `answers` until the end of `stack`, and put the answers that it has into `record`."""
    if answers is None:
        return None
    belongs_to = run_identity(dataset, targets.models, targets.rows, targets.scorers)
    journal = stack.enter_context(Journal(answers, belongs_to, record))
    require_same_pictures(dataset, record, answers)
    return journal


def _answer(
    dataset: Dataset, targets: _Targets, record: Record, journal: Journal | None, config: EvaluationConfig
) -> tuple[Seconds, list[Unreadable]]:
    """Put the answers to all pictures that `record` lacks into it and into the journal.

    Raises `KeyboardInterrupt` with a message that says how many the journal has.
    """
    try:
        return run(
            dataset,
            targets.scorers,
            targets.predictors,
            record,
            lanes=min(model.lanes for model in targets.models),
            batch_size=max(config.batch_size, *(scorer.rows for scorer in targets.scorers)),
            workers=config.workers or (CONNECTIONS if config.url else None),
            skip=config.skip_unreadable,
            keep=journal.append if journal else lambda index, digest, answers: None,
            advance=config.started(dataset, int(record.answered.sum())),
        )
    except KeyboardInterrupt:
        if journal is None:
            raise
        raise KeyboardInterrupt(
            f"{journal.kept:,} of {plural(len(dataset.samples), 'picture')} are answered in "
            f"{config.answers}; the same command with --resume goes on from there"
        ) from None


def _results(dataset: Dataset, targets: _Targets, record: Record, seconds: Seconds) -> list[Result]:
    """Return a result for every row, compared with the row of the reference, which stands before it."""
    results: list[Result] = []
    for number, (row, predictor) in enumerate(zip(targets.rows, targets.predictors, strict=True)):
        answered = Answers.of(record, number, predictor.labels)
        results.append(_result(row, dataset, answered, targets.scorers, seconds, results))
    return results


def _open_data(data: Path, split: str | None, *, missing_ok: bool) -> Dataset:
    """Open the data set. Raises `DataError`; `UsageError` if `data` is a model."""
    hint = "the last argument is the data: resnet-infer evaluate MODEL DATA"
    try:
        return open_labelled(data, split, missing_ok=missing_ok)
    except DataError as error:
        if not data.is_dir() and is_model(str(data)):
            raise UsageError(f"{data} is a model, not labelled pictures", hint=hint) from error
        if not data.exists():
            raise DataError(
                error.message, hint=error.hint or hint, source=error.source, reason=reason_of(error)
            ) from error
        raise


def same_content(dataset: Dataset, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return those parts of `groups` (numbers of pictures) whose pictures have the same bytes."""
    found = []
    for group in groups:
        contents: dict[bytes, list[int]] = {}
        for number in group:
            with suppress(PictureError):  # the file has vanished since
                content = as_bytes(dataset.samples[number].read())
                contents.setdefault(content, []).append(number)
        found += [part for part in contents.values() if len(part) > 1]
    return found


def _result(
    row: Row,
    dataset: Dataset,
    answered: Answers,
    scorers: Sequence[Scorer],
    seconds: Seconds,
    before: Sequence[Result],
) -> Result:
    """Return the result of one row; `before` are the results of the rows before it."""
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
    """Return runtime and device, as a runtime describes them."""
    return ", ".join(str(runtime[name]) for name in ("runtime", "device") if name in runtime)


def _published(row: Row, data: str | None) -> list[tuple[Table, Figure]]:
    """Return what was published for a single model.

    The paper's ensemble was measured on pictures with secret labels.
    """
    architecture = row.models[0].spec.architecture if len(row.models) == 1 else None
    return published(architecture, row.protocol, data) if architecture else []


def _recorded(row: Row, dataset: Dataset, data: str | None, pictures: int) -> Measured | None:
    """Return the error that a single model's spec states for the same pictures and views, None if it has none."""
    if len(row.models) > 1:
        return None
    alike = find_protocol(row.protocol).alike()
    for item in row.models[0].spec.measured:
        if item.protocol in alike and belongs(item, pictures, dataset.name, data):
            return item
    return None


def _warnings(results: Sequence[Result], dataset: Dataset, duplicates: Sequence[Sequence[int]]) -> list[str]:
    """Return a sentence for each thing that makes an error doubtful, or that was counted unexpectedly."""
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
