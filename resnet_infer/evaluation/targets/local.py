"""Open the models of this process that are evaluated, and lay out the rows of the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.classifier import Classifier
from resnet_infer.data.class_map import ClassMap, StatedOrder, map_classes, same_classes
from resnet_infer.data.datasets import Dataset
from resnet_infer.data.protocols import SIZED, default_protocol
from resnet_infer.errors import UsageError
from resnet_infer.evaluation.runner import Member, Predictor
from resnet_infer.evaluation.scorer import LocalScorer, Scorer
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.artifacts import digest
from resnet_infer.runtimes.registry import select_runtime, split_runtime


class OpenModel(Protocol):
    """Provide a model, in this process or behind a service (`remote`), whose classes are matched with the data's.

    `lanes` is as in `Classifier`.
    """

    @property
    def name(self) -> str:
        """Name in results."""

    @property
    def spec(self) -> ModelSpec:
        """Spec of the model."""

    @property
    def classes(self) -> ClassMap:
        """Class of the model for each class of the data."""

    @property
    def lanes(self) -> int:
        """Threads that infer side by side."""

    @property
    def remote(self) -> bool:
        """Whether a service runs it."""

    def describe(self) -> dict[str, Any]:
        """Return how its runtime describes itself."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what its answers depend on: weights and runtime."""

    def scorer(self, protocol: str, *, scales: Sequence[int] | None, batch_size: int) -> Scorer:
        """Return its scorer for a protocol. Raises `UsageError` for one that it cannot follow."""

    def close(self) -> None:
        """Release the model."""


@dataclass(frozen=True)
class LocalModel:
    """Hold an `OpenModel` in this process, which `argument` names (None: the default model)."""

    name: str
    argument: str | None
    classifier: Classifier
    classes: ClassMap
    remote: bool = False

    @property
    def spec(self) -> ModelSpec:
        """Spec of the model."""
        return self.classifier.spec

    @property
    def lanes(self) -> int:
        """Threads that infer side by side."""
        return self.classifier.lanes

    def describe(self) -> dict[str, Any]:
        """Return how its runtime describes itself."""
        return self.classifier.runtime.describe()

    def fingerprint(self) -> dict[str, Any]:
        """Return the SHA-256 of its weights, and how the runtime describes itself."""
        # Answers do not depend on the number of threads.
        settings = {key: value for key, value in self.describe().items() if key not in ("threads", "spin")}
        return {"sha256": digest(zoo.load_for(self.argument, self.classifier.runtime.name)), **settings}

    def scorer(self, protocol: str, *, scales: Sequence[int] | None, batch_size: int) -> LocalScorer:
        """Return its scorer for a protocol. Raises `UsageError` for one that it cannot follow."""
        return LocalScorer(self.classifier, protocol, scales=scales, batch_size=batch_size)

    def close(self) -> None:
        """Close the classifier."""
        self.classifier.close()


@dataclass(frozen=True)
class Row:
    """Describe a model, or an ensemble of several, under a protocol.

    `scorers` are numbers, one for each of `models`. `against` is the number of the row that this one is compared with.
    """

    name: str
    protocol: str
    models: tuple[OpenModel, ...]
    scorers: tuple[int, ...]
    against: int | None = None
    is_reference: bool = False

    def predictor(self, labels: NDArray[np.int64]) -> Predictor:
        """Return the predictor for pictures with these `labels`, by the numbers of the data.

        Raises `DataError` if the models of an ensemble have different classes.
        """
        first = self.models[0]
        members = []
        for scorer, model in zip(self.scorers, self.models, strict=True):
            order = None if model is first else same_classes(first.spec, model.spec)
            members.append(Member(scorer, order))
        return Predictor(tuple(members), first.classes.indices[labels])


def open_model(
    argument: str | None,
    dataset: Dataset,
    order: StatedOrder | None,
    *,
    name: str | None = None,
    runtime: str = "auto",
    **options: Any,
) -> LocalModel:
    """Open the model `argument`; its `RUNTIME:` prefix overrides `runtime`.

    The runtime `auto` is the default one of the file, never another that is faster on this machine: errors must not
    depend on the machine. `name` is its name in results, by default that of its spec. `options` are those of
    `Classifier`. Raises `ModelError`, and `DataError` if its classes do not match the data's.
    """
    named, argument = split_runtime(argument)
    chosen = named or runtime
    if chosen == "auto":
        chosen = select_runtime(zoo.file_for(argument)).name
    classifier = Classifier(argument, runtime=chosen, throughput=True, **options)
    try:
        classes = map_classes(dataset, classifier.spec, order)
        return LocalModel(name or classifier.spec.name, argument, classifier, classes)
    except BaseException:
        classifier.close()
        raise


def make_rows(
    models: Sequence[OpenModel],
    reference: OpenModel | None,
    protocols: Sequence[str],
    *,
    scales: Sequence[int] | None,
    batch_size: int,
    ensemble: bool,
) -> tuple[list[Scorer], list[Row]]:
    """Return scorers, and for every protocol a row for the reference, for every model and for their ensemble.

    Without protocols each model gets the one that fits it. Raises `UsageError` for a protocol that a model cannot
    follow.
    """
    scorers: list[Scorer] = []
    rows: list[Row] = []
    for protocol in protocols or (None,):
        start = len(rows)
        against = start if reference else None
        for model in (reference, *models) if reference else models:
            chosen = protocol or default_protocol(model.spec.input)
            own = model is reference
            rows.append(Row(model.name, chosen, (model,), (len(scorers),), None if own else against, own))
            scorers.append(model.scorer(chosen, scales=scales, batch_size=batch_size))
        if ensemble:
            parts = [row for row in rows[start:] if not row.is_reference]
            chosen = " + ".join(dict.fromkeys(row.protocol for row in parts))
            numbers = tuple(row.scorers[0] for row in parts)
            rows.append(Row(f"ensemble of {len(models)}", chosen, tuple(models), numbers, against))
    if scales is not None and not any(scorer.scales for scorer in scorers):
        raise UsageError(f"scales belong to the protocol {' or '.join(SIZED)}", hint=f"add --protocol {SIZED[0]}")
    return scorers, rows
