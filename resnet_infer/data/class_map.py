"""Map the classes of a data set to those of a model, by WordNet id, name or number, and never by position alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.datasets import Dataset
from resnet_infer.data.datasets.classes import natural_sort, require_distinct, some
from resnet_infer.data.datasets.wordnet import is_wnid
from resnet_infer.errors import DataError
from resnet_infer.models.spec import ModelSpec

StatedOrder = Literal["numbers", "string", "natural"] | Sequence[str]
"""The order of the classes of a data set, as the caller states it.

- `numbers`: the names of the data's classes are the model's class numbers, from 0.
- `string`, `natural`: the names are in the model's order when sorted as text, or by the numbers in them.
- A sequence: the names of the data's classes in the model's order. It may name more classes than the data has.
"""


@dataclass(frozen=True)
class ClassMap:
    """Hold the class of the model for each class of the data.

    `indices` is int64, (classes of the data,); -1 stands for a class without images that the model lacks. `by` says
    what decided: `WordNet id`, `name`, `number` or `stated`.
    """

    indices: NDArray[np.int64]
    by: str


def map_classes(dataset: Dataset, spec: ModelSpec, stated: StatedOrder | None = None) -> ClassMap:
    """Find the class of the model for every class of the data that has images.

    WordNet ids decide if both sides have them. Otherwise names decide, in this order: equal spelling; equal but for
    capitals, `_`, `-`, spaces and leading zeros; a synonym in common (synonyms are separated by commas). If a manifest
    numbers its classes without naming them, the numbers are the model's. `stated` is for data whose names mean nothing
    to the model. It must not contradict names that do.

    Raises `DataError` if a class stays in doubt, is unknown to the model, or shares its class of the model with
    another.

    >>> map_classes(dataset, spec).indices
    array([281, 207])
    """
    used = sorted({sample.label for sample in dataset.samples})
    found, by = _match(dataset.class_ids, dataset.classes, spec)
    if stated is not None:
        indices = _stated(dataset, spec, stated, used)
        for label in used:
            if found[label] not in (-1, indices[label]):
                raise DataError(
                    f"by the class order stated, {dataset.classes[label]} of {dataset.name} is class {indices[label]} "
                    f"of {spec.name}, which is {_name(spec, indices[label])}; by its label it is class {found[label]}",
                    hint="leave --class-order out: the labels say which is which",
                    source=dataset.name,
                    reason="mismatch",
                )
        return ClassMap(indices, "stated")
    numbered = dataset.class_order == "numbered"
    if numbered and all(found[label] == -1 for label in used) and used[-1] < len(spec.classes):
        return ClassMap(np.arange(len(dataset.classes)), "number")
    if numbered and used[-1] < len(spec.classes) and any(found[label] not in (-1, label) for label in used):
        raise DataError(
            f"{dataset.name} numbers its classes, and {spec.name} calls its classes by numbers, but in another order: "
            f"is {used[-1]} its class number {used[-1]}, or the class that it calls {used[-1]}?",
            hint="name the classes in a classes.txt beside the data, a line for each number from 0",
            source=dataset.name,
            reason="ambiguous",
        )
    unknown = [label for label in used if found[label] == -1]
    if by == "name":
        _require_one_meaning(dataset, spec, unknown)
    if unknown:
        raise _unknown(dataset, spec, [_shown(dataset, label) for label in unknown])
    _require_one_to_one(dataset, spec, found, used)
    return ClassMap(found, by)


def same_classes(spec: ModelSpec, other: ModelSpec) -> NDArray[np.int64]:
    """Return the class of `other` for every class of `spec`: int64, (classes,).

    Raises `DataError` unless both models know the same classes.
    """
    found = np.full(len(spec.classes), -1)
    if len(spec.classes) == len(other.classes):
        found, _ = _match(spec.class_ids, spec.classes, other)
    if sorted(found) != list(range(len(found))):
        raise DataError(
            f"{spec.name} and {other.name} do not know the same classes, so their answers cannot be averaged",
            source=spec.name,
            reason="mismatch",
        )
    return found


def _match(ids: tuple[str, ...] | None, names: tuple[str, ...], spec: ModelSpec) -> tuple[NDArray[np.int64], str]:
    """Return the model's class for every id or name, and what decided. -1 stands for none or more than one."""
    ids, known = _ids(ids, names), _ids(spec.class_ids, spec.classes)
    if ids and known:
        return _places(ids, known, lambda label: [label]), "WordNet id"
    found = np.full(len(names), -1)
    for forms in _WAYS:
        found = np.where(found < 0, _places(names, spec.classes, forms), found)
    return found, "name"


def _ids(ids: tuple[str, ...] | None, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the WordNet ids: `ids`, or `names` if all of them are WordNet ids."""
    return ids or (names if all(map(is_wnid, names)) else None)


def _places(wanted: Sequence[str], known: Sequence[str], forms: Callable[[str], Iterable[str]]) -> NDArray[np.int64]:
    """Return the position in `known` of each of `wanted`, by a form that exactly these two share; -1 without one."""
    own: dict[str, set[int]] = {}
    for index, label in enumerate(known):
        for form in forms(label):
            own.setdefault(form, set()).add(index)
    hits = [set().union(*(own.get(form, set()) for form in forms(label))) for label in wanted]
    return np.array([next(iter(hit)) if len(hit) == 1 else -1 for hit in hits], np.int64)


def _plain(label: str) -> str:
    """Normalise a name: no capitals, underscores, hyphens, or zeros in front of a number."""
    text = re.sub(r"[\s_-]+", " ", label).strip().casefold()
    return str(int(text)) if text.isdecimal() else text


def _synonyms(label: str) -> list[str]:
    """Return the normalised name, and its parts between commas."""
    return [_plain(part) for part in (label, *label.split(",")) if _plain(part)]


_WAYS: tuple[Callable[[str], list[str]], ...] = (lambda label: [label], lambda label: [_plain(label)], _synonyms)
"""Functions that return the forms of a name to match, tried one after the other."""


def _stated(dataset: Dataset, spec: ModelSpec, stated: StatedOrder, used: Sequence[int]) -> NDArray[np.int64]:
    """Return the model's class for every class of the data by the stated order, -1 where there is none."""
    names = dataset.class_ids or dataset.classes
    count = len(spec.classes)
    places: Mapping[str, int]
    if stated == "numbers":
        wrong = [names[label] for label in used if not names[label].isdecimal() or int(names[label]) >= count]
        if wrong:
            raise DataError(
                f"{dataset.name} has classes that are no number from 0 to {count - 1}: {some(wrong)}",
                hint=f"{spec.name} has {count} classes, numbered from 0",
                source=dataset.name,
                reason="mismatch",
            )
        places = {name: int(name) for name in names if name.isdecimal()}
    elif isinstance(stated, str):
        if len(names) != count:
            raise DataError(
                f"{dataset.name} has {len(names)} classes and {spec.name} {count}, so their places do not say which "
                "is which",
                hint=f"give --class-order FILE with the names of all {count}, in the model's order",
                source=dataset.name,
                reason="mismatch",
            )
        places = {
            name: index for index, name in enumerate(sorted(names) if stated == "string" else natural_sort(names))
        }
    else:
        require_distinct(stated, "the class order given")
        if len(stated) != count:
            raise DataError(
                f"the class order given names {len(stated)} classes; {spec.name} has {count}",
                source=dataset.name,
                reason="mismatch",
            )
        places = {name: index for index, name in enumerate(stated)}
        names = tuple(name if name in places else other for name, other in zip(names, dataset.classes, strict=True))
        if missing := [names[label] for label in used if names[label] not in places]:
            raise DataError(
                f"the class order given lacks {some(missing)}, which {dataset.name} has",
                source=dataset.name,
                reason="mismatch",
            )
    return np.array([places.get(name, -1) for name in names], np.int64)


def _require_one_meaning(dataset: Dataset, spec: ModelSpec, labels: Sequence[int]) -> None:
    """Raise `DataError` if the name of one of the classes `labels` fits several classes of the model."""
    for label in labels:
        name = dataset.classes[label]
        for forms in _WAYS:
            own = set(forms(name))
            places = [index for index, known in enumerate(spec.classes) if own.intersection(forms(known))]
            if len(places) > 1:
                raise DataError(
                    f"{name} of {dataset.name} could be several classes of {spec.name}: "
                    + some([_candidate(spec, index) for index in places]),
                    hint="name it by its WordNet id, where the model has such, or by one of the model's own names; or "
                    "say which is which with --class-order",
                    source=dataset.name,
                    reason="ambiguous",
                )


def _candidate(spec: ModelSpec, index: int) -> str:
    """Name a class of the model for a message."""
    own = f", {spec.class_ids[index]}" if spec.class_ids else ""
    return f"{spec.classes[index]} (number {index}{own})"


def _unknown(dataset: Dataset, spec: ModelSpec, unknown: Sequence[str]) -> DataError:
    """Return the error for classes of the data that the model does not know."""
    message = f"{dataset.name} has classes that {spec.name} does not know: {some(unknown)}"
    if all(name.isdecimal() for name in unknown):
        return DataError(
            f"{message}. They are numbers, and the model's classes have names. Sorted as text, as much training code "
            'does, "10" comes before "2"; which class of the model each is, nothing here says',
            hint="say it: --class-order numbers (they are the model's class numbers, from 0), string or natural (the "
            "model was trained on these folders, sorted so), or FILE (their names in the model's order, one per line)",
            source=dataset.name,
            reason="ambiguous",
        )
    return DataError(
        message,
        hint=f"it knows {some(spec.classes)}; --class-order FILE gives the names that the data has for the model's "
        "classes, in the model's order, one per line",
        source=dataset.name,
        reason="mismatch",
    )


def _shown(dataset: Dataset, label: int) -> str:
    """Name a class of the data for a message, with its id if it has one."""
    name, other = dataset.classes[label], (dataset.class_ids or dataset.classes)[label]
    return name if name == other else f"{name} ({other})"


def _require_one_to_one(dataset: Dataset, spec: ModelSpec, found: NDArray[np.int64], used: Sequence[int]) -> None:
    """Raise `DataError` if two classes of the data map to one class of the model."""
    first: dict[int, int] = {}
    for label in used:
        other = first.setdefault(int(found[label]), label)
        if other != label:
            raise DataError(
                f"{dataset.classes[other]} and {dataset.classes[label]} of {dataset.name} are both "
                f"{_name(spec, found[label])} to {spec.name}",
                hint="put their pictures into one class, or name the classes as the model does",
                source=dataset.name,
                reason="ambiguous",
            )


def _name(spec: ModelSpec, index: np.int64) -> str:
    """Return the name of a class of the model, for a message."""
    return spec.classes[index] if 0 <= index < len(spec.classes) else "none of its classes"
