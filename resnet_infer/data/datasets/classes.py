"""Order the classes of a data set."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Literal

from resnet_infer.errors import DataError, UsageError

ClassOrder = Literal["string", "natural"] | Sequence[str]
"""`string` sorts names as text ("10" before "2"), `natural` by the numbers in them. A sequence is the order itself."""


def order_classes(names: Sequence[str], class_order: ClassOrder | None, where: str) -> tuple[tuple[str, ...], str]:
    """Return the class names in order, and what decided the order (`Dataset.class_order`).

    `where` is the data, for messages. None sorts the names as strings, and requires that the natural order is the same.
    Raises `DataError` if it is not, or if a given order does not hold exactly these names. Raises `UsageError` for an
    unknown order.

    >>> order_classes(["b", "a"], None, "data")
    (('a', 'b'), 'string')
    """
    if class_order is not None and not isinstance(class_order, str):
        return _given(names, class_order, where), "given"
    if class_order not in (None, "string", "natural"):
        raise UsageError(f"the class order is string, natural or a list of names, not {class_order!r}")
    string, natural = tuple(sorted(names)), tuple(natural_sort(names))
    if class_order is None and string != natural:
        start = next(i for i, pair in enumerate(zip(string, natural, strict=True)) if pair[0] != pair[1])
        window = slice(max(start - 1, 0), start + 3)
        raise DataError(
            f"{where}: the order of the classes is not clear. Sorted as text, as most training code does, their names"
            f" run {', '.join(string[window])}; sorted by their numbers {', '.join(natural[window])}."
            " A model that was trained with one order answers wrongly under the other",
            hint="say which: --class-order string, --class-order natural, or --class-order FILE with a name per line",
            source=where,
            reason="ambiguous",
        )
    return (natural, "natural") if class_order == "natural" else (string, "string")


def natural_sort(names: Sequence[str]) -> list[str]:
    """Sort names as text, but compare runs of digits by their value.

    >>> natural_sort(["n10", "n2"])
    ['n2', 'n10']
    """
    width = max((len(run) for name in names for run in re.findall("[0-9]+", name)), default=0)
    return sorted(names, key=lambda name: (re.sub("[0-9]+", lambda run: run[0].zfill(width), name), name))


def require_order(class_order: ClassOrder | None, own: str, where: str) -> None:
    """Raise `UsageError` if the caller asks for another order than the data set's `own`."""
    if class_order not in (None, own):
        raise UsageError(f"{where}: the order of its classes is fixed ({own})", hint="leave --class-order away")


def require_distinct(names: Sequence[str], where: str) -> None:
    """Raise `DataError`, naming the names that occur more than once."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{where}: more than once there: {some(twice)}", source=where, reason="ambiguous")


def some(names: Sequence[str], count: int = 5) -> str:
    """Join the first `count` names for a message, and state how many more there are."""
    shown = ", ".join(islice(names, count))
    return f"{shown} and {len(names) - count} more" if len(names) > count else shown


def told_apart(name: str, names: Sequence[str]) -> str:
    """Return a name, with its code points if one of `names` looks the same."""
    same = [own for own in names if unicodedata.normalize("NFC", own) == unicodedata.normalize("NFC", name)]
    return f"{name} (written {name!a}, where the others have {same[0]!a})" if same else name


def _given(names: Sequence[str], order: Sequence[str], where: str) -> tuple[str, ...]:
    """Check an order that the caller gave, and return it. Raises `DataError` unless it holds exactly `names`."""
    require_distinct(order, f"the class order given for {where}")
    missing, extra = sorted(set(names) - set(order)), sorted(set(order) - set(names))
    problems = [f"lacks {some(missing)}"] if missing else []
    problems += [f"has {some(extra)}, which the data has not"] if extra else []
    if problems:
        raise DataError(
            f"the class order given for {where} {' and '.join(problems)}",
            hint="it must hold every class of the data once, spelled in the same way",
            source=where,
            reason="mismatch",
        )
    return tuple(order)
