"""Arguments -> an open data set, open models, and the rows of the table that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.classifier import Classifier
from resnet_infer.data.class_map import ClassMap, StatedOrder, map_classes, same_classes
from resnet_infer.data.datasets import ClassOrder, Dataset, open_dataset
from resnet_infer.errors import DataError, SplitError, UsageError
from resnet_infer.evaluation.protocols import LocalScorer, Scorer
from resnet_infer.evaluation.runner import Entrant, Member
from resnet_infer.models.checkpoint import model_digest
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.registry import split_runtime

DEFAULT_SPLITS = ("test", "val")
"""Where a data set has several, the first of these that it has is taken unasked."""


class OpenModel(Protocol):
    """A model, in this process or behind a URL, and which of its classes each class of the data is.

    `remote` says which. `lanes` is as in `Classifier`.
    """

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def classes(self) -> ClassMap: ...

    @property
    def lanes(self) -> int: ...

    @property
    def remote(self) -> bool: ...

    def describe(self) -> dict[str, Any]:
        """What its runtime says of itself."""

    def fingerprint(self) -> dict[str, Any]:
        """What decides its answers."""

    def scorer(self, protocol: str, *, scales: Sequence[int] | None, batch_size: int) -> Scorer:
        """It, under that protocol. Raises `UsageError` for one that it cannot follow."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class LocalModel:
    """An `OpenModel` in this process, opened by `argument` (None: by default)."""

    name: str
    argument: str | None
    classifier: Classifier
    classes: ClassMap
    remote: bool = False

    @property
    def spec(self) -> ModelSpec:
        return self.classifier.spec

    @property
    def lanes(self) -> int:
        return self.classifier.lanes

    def describe(self) -> dict[str, Any]:
        return self.classifier.runtime.describe()

    def fingerprint(self) -> dict[str, Any]:
        """Its weights, and what the runtime says of itself."""
        if self.classifier.runtime.name == "torch":
            digest = model_digest(zoo.checkpoint(self.argument))
        else:
            digest = model_digest(zoo.artifact(self.argument))
        # How many threads compute is of no matter to the answers.
        settings = {key: value for key, value in self.describe().items() if key not in ("threads", "spin")}
        return {"sha256": digest, **settings}

    def scorer(self, protocol: str, *, scales: Sequence[int] | None, batch_size: int) -> LocalScorer:
        return LocalScorer(self.classifier, protocol, scales=scales, batch_size=batch_size)

    def close(self) -> None:
        self.classifier.close()


@dataclass(frozen=True)
class Row:
    """A model, or an ensemble of several, under a protocol. `scorers` are numbers, one for each of `models`.

    `against` is the number of the row that it is compared with.
    """

    name: str
    protocol: str
    models: tuple[OpenModel, ...]
    scorers: tuple[int, ...]
    against: int | None = None
    is_reference: bool = False

    def entrant(self, labels: NDArray[np.int64]) -> Entrant:
        """For pictures with these labels, by the numbers of the data. Raises `DataError` for unlike models."""
        first = self.models[0]
        members = []
        for scorer, model in zip(self.scorers, self.models, strict=True):
            order = None if model is first else same_classes(first.spec, model.spec)
            members.append(Member(scorer, order))
        return Entrant(tuple(members), first.classes.indices[labels])


def open_labelled(data: Path, split: str | None, *, missing_ok: bool = False) -> Dataset:
    """The data set, and of several splits the one named or the first of `DEFAULT_SPLITS`.

    `missing_ok` is as in `open_dataset`. Raises `DataError`.
    """
    absent: SplitError | None = None
    # Classes are told by their labels, so that any order will do where the data leaves it open.
    orders: tuple[ClassOrder | None, ...] = (None, "string")
    for name in (split,) if split else (None, *DEFAULT_SPLITS):
        reason: DataError | None = None
        for order in orders:
            try:
                return open_dataset(data, name, class_order=order, missing_ok=missing_ok)
            except UsageError:  # the format has an order of its own
                continue
            except SplitError as error:
                absent = absent or error
                break
            except DataError as error:
                reason = error
        if reason:
            raise reason
    assert absent is not None
    raise absent


def open_model(
    argument: str | None,
    dataset: Dataset,
    order: StatedOrder | None,
    *,
    name: str | None = None,
    runtime: str = "auto",
    **options: Any,
) -> LocalModel:
    """`name` is what results call it, by default as its spec does. `RUNTIME:MODEL` goes before `runtime`.

    Raises `ModelError`, and `DataError` where classes do not match.
    """
    named, argument = split_runtime(argument)
    classifier = Classifier(argument, runtime=named or runtime, throughput=True, **options)
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
    """For every protocol the reference, every model, and their ensemble. No protocol: the one that fits each model.

    Raises `UsageError` for a protocol that a model cannot follow.
    """
    scorers: list[Scorer] = []
    rows: list[Row] = []
    for protocol in protocols or (None,):
        start = len(rows)
        against = start if reference else None
        for model in (reference, *models) if reference else models:
            chosen = protocol or model.spec.input.protocol
            own = model is reference
            rows.append(Row(model.name, chosen, (model,), (len(scorers),), None if own else against, own))
            scorers.append(model.scorer(chosen, scales=scales, batch_size=batch_size))
        if ensemble:
            parts = [row for row in rows[start:] if not row.is_reference]
            chosen = " + ".join(dict.fromkeys(row.protocol for row in parts))
            numbers = tuple(row.scorers[0] for row in parts)
            rows.append(Row(f"ensemble of {len(models)}", chosen, tuple(models), numbers, against))
    if scales is not None and not any(scorer.scales for scorer in scorers):
        raise UsageError("scales belong to the protocol multi-scale", hint="add --protocol multi-scale")
    return scorers, rows
