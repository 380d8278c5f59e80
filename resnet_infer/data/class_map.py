"""Which class of the model each class of the data is: told by WordNet id, name or number, never by position alone."""

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
"""`numbers`: the names of the data's classes are the model's class numbers, from 0. `string` and `natural`: they are
in the model's order when sorted so. A sequence: they are in the model's order there, which may name more classes."""


@dataclass(frozen=True)
class ClassMap:
    """`indices` (int64, classes of the data) are classes of the model, -1 for one without pictures that it lacks."""

    indices: NDArray[np.int64]
    by: str


def map_classes(dataset: Dataset, spec: ModelSpec, stated: StatedOrder | None = None) -> ClassMap:
    """The class of the model for every class of the data that has pictures.

    By WordNet ids where both have such. Else by names: spelled alike; or alike but for capitals, `_`, `-` and spaces;
    or with a synonym in common, these being parted by commas; numbers by their value. Where a manifest numbers its
    classes and names none, the numbers are the model's. `stated` is for data whose names say nothing to the model; if
    they do, it must not contradict them.

    Raises `DataError` where that leaves a class in doubt.
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
        )
    unknown = [label for label in used if found[label] == -1]
    if by == "name":
        _require_one_meaning(dataset, spec, unknown)
    if unknown:
        raise _unknown(dataset, spec, [_shown(dataset, label) for label in unknown])
    _require_one_to_one(dataset, spec, found, used)
    return ClassMap(found, by)


def same_classes(spec: ModelSpec, other: ModelSpec) -> NDArray[np.int64]:
    """The class of `other` for every class of `spec`. Raises `DataError` unless both know the same classes."""
    found = np.full(len(spec.classes), -1)
    if len(spec.classes) == len(other.classes):
        found, _ = _match(spec.class_ids, spec.classes, other)
    if sorted(found) != list(range(len(found))):
        raise DataError(
            f"{spec.name} and {other.name} do not know the same classes, so their answers cannot be averaged"
        )
    return found


def _match(ids: tuple[str, ...] | None, names: tuple[str, ...], spec: ModelSpec) -> tuple[NDArray[np.int64], str]:
    """The model's class for every id or name, -1 where there is none or more than one; and what told it."""
    ids, known = _ids(ids, names), _ids(spec.class_ids, spec.classes)
    if ids and known:
        return _places(ids, known, lambda label: [label]), "WordNet id"
    found = np.full(len(names), -1)
    for forms in _WAYS:
        found = np.where(found < 0, _places(names, spec.classes, forms), found)
    return found, "name"


def _ids(ids: tuple[str, ...] | None, names: tuple[str, ...]) -> tuple[str, ...] | None:
    return ids or (names if all(map(is_wnid, names)) else None)


def _places(wanted: Sequence[str], known: Sequence[str], forms: Callable[[str], Iterable[str]]) -> NDArray[np.int64]:
    """Where in `known` each of `wanted` is, by the one form that only the two of them share; else -1."""
    own: dict[str, set[int]] = {}
    for index, label in enumerate(known):
        for form in forms(label):
            own.setdefault(form, set()).add(index)
    hits = [set().union(*(own.get(form, set()) for form in forms(label))) for label in wanted]
    return np.array([next(iter(hit)) if len(hit) == 1 else -1 for hit in hits], np.int64)


def _plain(label: str) -> str:
    """Without capitals, underscores, hyphens and zeros in front of a number."""
    text = re.sub(r"[\s_-]+", " ", label).strip().casefold()
    return str(int(text)) if text.isdecimal() else text


def _synonyms(label: str) -> list[str]:
    return [_plain(part) for part in (label, *label.split(",")) if _plain(part)]


_WAYS: tuple[Callable[[str], list[str]], ...] = (lambda label: [label], lambda label: [_plain(label)], _synonyms)
"""The forms of a name by which it is looked for, one after the other."""


def _stated(dataset: Dataset, spec: ModelSpec, stated: StatedOrder, used: Sequence[int]) -> NDArray[np.int64]:
    names = dataset.class_ids or dataset.classes
    count = len(spec.classes)
    places: Mapping[str, int]
    if stated == "numbers":
        wrong = [names[label] for label in used if not names[label].isdecimal() or int(names[label]) >= count]
        if wrong:
            raise DataError(
                f"{dataset.name} has classes that are no number from 0 to {count - 1}: {some(wrong)}",
                hint=f"{spec.name} has {count} classes, numbered from 0",
            )
        places = {name: int(name) for name in names if name.isdecimal()}
    elif isinstance(stated, str):
        if len(names) != count:
            raise DataError(
                f"{dataset.name} has {len(names)} classes and {spec.name} {count}, so their places do not say which "
                "is which",
                hint=f"give --class-order FILE with the names of all {count}, in the model's order",
            )
        places = {
            name: index for index, name in enumerate(sorted(names) if stated == "string" else natural_sort(names))
        }
    else:
        require_distinct(stated, "the class order given")
        if len(stated) != count:
            raise DataError(f"the class order given names {len(stated)} classes; {spec.name} has {count}")
        places = {name: index for index, name in enumerate(stated)}
        names = tuple(name if name in places else other for name, other in zip(names, dataset.classes, strict=True))
        if missing := [names[label] for label in used if names[label] not in places]:
            raise DataError(f"the class order given lacks {some(missing)}, which {dataset.name} has")
    return np.array([places.get(name, -1) for name in names], np.int64)


def _require_one_meaning(dataset: Dataset, spec: ModelSpec, labels: Sequence[int]) -> None:
    """Raise `DataError` for the first of the data's classes whose name fits several classes of the model."""
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
                )


def _candidate(spec: ModelSpec, index: int) -> str:
    own = f", {spec.class_ids[index]}" if spec.class_ids else ""
    return f"{spec.classes[index]} (number {index}{own})"


def _unknown(dataset: Dataset, spec: ModelSpec, unknown: Sequence[str]) -> DataError:
    message = f"{dataset.name} has classes that {spec.name} does not know: {some(unknown)}"
    if all(name.isdecimal() for name in unknown):
        return DataError(
            f"{message}. They are numbers, and the model's classes have names. Sorted as text, as much training code "
            'does, "10" comes before "2"; which class of the model each is, nothing here says',
            hint="say it: --class-order numbers (they are the model's class numbers, from 0), string or natural (the "
            "model was trained on these folders, sorted so), or FILE (their names in the model's order, one per line)",
        )
    return DataError(
        message,
        hint=f"it knows {some(spec.classes)}; --class-order FILE gives the names that the data has for the model's "
        "classes, in the model's order, one per line",
    )


def _shown(dataset: Dataset, label: int) -> str:
    name, other = dataset.classes[label], (dataset.class_ids or dataset.classes)[label]
    return name if name == other else f"{name} ({other})"


def _require_one_to_one(dataset: Dataset, spec: ModelSpec, found: NDArray[np.int64], used: Sequence[int]) -> None:
    first: dict[int, int] = {}
    for label in used:
        other = first.setdefault(int(found[label]), label)
        if other != label:
            raise DataError(
                f"{dataset.classes[other]} and {dataset.classes[label]} of {dataset.name} are both "
                f"{_name(spec, found[label])} to {spec.name}",
                hint="put their pictures into one class, or name the classes as the model does",
            )


def _name(spec: ModelSpec, index: np.int64) -> str:
    return spec.classes[index] if 0 <= index < len(spec.classes) else "none of its classes"
