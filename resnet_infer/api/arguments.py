"""Check the arguments of the public functions, and turn them into what the packages take."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from resnet_infer.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from typing import TypeAlias

    from resnet_infer.models.checkpoint import Checkpoint

    Model: TypeAlias = str | PathLike[str] | Checkpoint | None
    """A model's name, the path of a checkpoint or artifact, a loaded checkpoint; None is the default model."""

PathText = str | PathLike[str]
"""A path, or the name of something that may be none."""
_MODEL = "a model's name, a path or a loaded checkpoint"
RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "from": "start",
        "protocol": "protocols",
        "on_error": "skip_unreadable",
        "rate": "rates",
        "bound": "bound_ms",
        "logs": "output",
    }
)
"""Option of the command, with underscores -> the keyword argument here, where they differ."""
_UNIONS = (Union, type(int | str))


def check_options(function: str, given: Mapping[str, Any], table: type, others: Collection[str] = ()) -> None:
    """Check keyword options against the `TypedDict` that declares them. `others` are further names.

    Raises `UsageError` for an unknown option, and for a value of another type.
    """
    kinds = _kinds(table)
    for name, value in given.items():
        if name not in kinds and name not in others:
            meant = RENAMED.get(name)
            known = [*kinds, *others, *(["start"] if function == "train" else [])]
            similar = f"; it is {meant} here" if meant in known else did_you_mean(name, known)
            raise UsageError(f"{function} has no option {name!r}{similar}", hint=f"it has {', '.join(kinds)}")
        if name in kinds:
            check_value(name, value, kinds[name])


@cache
def _kinds(table: type) -> dict[str, Any]:
    """Return the types of the options that a `TypedDict` declares."""
    return get_type_hints(table)


def check_value(name: str, value: object, kind: Any) -> None:
    """Raise `UsageError` unless `value` is of the type `kind`, such as `int | None` or `Literal["a", "b"]`."""
    if not _fits(value, kind):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise UsageError(f"{name} is {_spoken(kind)}, not {shown}", source=name)


def _fits(value: object, kind: Any) -> bool:
    """Return whether a value is of a type. True and False are no numbers, and text is no sequence."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in _UNIONS:
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, (str, int)) and not isinstance(value, bool) and value in parts
    if origin is tuple:
        return _fits_each(value, parts)
    if origin is Sequence:
        return (
            isinstance(value, Sequence)
            and not isinstance(value, (str, bytes))
            and all(_fits(item, parts[0]) for item in value)
        )
    if origin is Callable:
        return callable(value)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


def _fits_each(value: object, kinds: Sequence[Any]) -> bool:
    """Return whether a tuple or list has an item of each of the types."""
    return (
        isinstance(value, (tuple, list))
        and len(value) == len(kinds)
        and all(_fits(item, kind) for item, kind in zip(value, kinds, strict=True))
    )


def _spoken(kind: Any) -> str:
    """Return a type in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in _UNIONS:
        words = list(dict.fromkeys(_spoken(part) for part in parts))
        return " or ".join(words)
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple:
        return f"{len(parts)} values"
    if origin is Sequence:
        return f"a list, each item {_spoken(parts[0])}"
    if origin is Callable:
        return "a function"
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "text", type(None): "None"}
    return names.get(kind, "a path" if origin is PathLike else getattr(kind, "__name__", str(kind)))


def path_of(name: str, given: PathText) -> Path:
    """Return the path that an argument called `name` stands for, with ~ resolved. Raises `UsageError`."""
    check_value(name, given, PathText)
    text = os.fspath(given)
    if not isinstance(text, str) or not text:
        raise UsageError(f"{name} is a path as text, not {text!r:.60}", source=name)
    return Path(os.path.expanduser(text))


def optional_path(name: str, given: PathText | None) -> Path | None:
    """Return the path that an argument stands for, None for None. Raises `UsageError`."""
    return None if given is None else path_of(name, given)


def name_of(model: Any) -> str | None:
    """Return the text that stands for a model, None for the default one.

    Raises `UsageError` for a value that is neither a name nor a path; content of a file is not shown in the message.
    """
    if model is None:
        return None
    text = os.fspath(model) if isinstance(model, PathLike) else model
    if not isinstance(text, str):
        kind = f"{len(text):,} bytes" if isinstance(text, (bytes, bytearray)) else f"a {type(text).__name__}"
        raise UsageError(f"{_MODEL} is needed, not {kind}", hint="write bytes to a file that ends in .onnx first")
    if not text:
        raise UsageError(f"{_MODEL} is needed, not an empty text", hint="None is the default model")
    return text


@contextmanager
def named(*models: Model) -> Iterator[list[str | None]]:
    """Give the names or paths of models. A loaded checkpoint is a temporary file during the `with` block."""
    from contextlib import ExitStack
    from tempfile import TemporaryDirectory

    from resnet_infer.models.checkpoint import SUFFIX, Checkpoint, save_checkpoint

    with ExitStack() as stack:
        found: list[str | None] = []
        for number, model in enumerate(models):
            if isinstance(model, Checkpoint):
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="resnet-infer-")))
                stem = "".join(char if char.isalnum() or char in "-_." else "-" for char in model.spec.name) or "model"
                path = folder / f"{number}" / f"{stem[:100]}{SUFFIX}"
                path.parent.mkdir()
                save_checkpoint(model, path)
                found.append(str(path))
            else:
                found.append(name_of(model))
        yield found
