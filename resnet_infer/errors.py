"""Define the exceptions of the package: message, hint, source and reason, and the command's exit code."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeVar

Error = TypeVar("Error", bound=BaseException)

Reason = Literal[
    "ambiguous", "broken_package", "changed", "closed", "damaged", "diverged", "empty", "extra_missing", "failed",
    "full", "incomplete", "invalid", "late", "memory", "mismatch", "missing", "newer_format", "no_spec", "not_finite",
    "stopped", "too_large", "unavailable", "unreachable", "unreadable", "unready", "unsafe", "unsupported",
    "unwritable",
]  # fmt: skip
"""Words that `ResnetInferError.reason` may be."""
REASONS: Mapping[Reason, str] = MappingProxyType(
    {
        "ambiguous": "several things are meant or possible, and none was chosen",
        "broken_package": "a package is installed and cannot be imported",
        "changed": "a file is not the one that was opened or measured before",
        "closed": "what is used was closed, or the program is ending",
        "damaged": "the content is damaged, cut off or contradicts itself",
        "diverged": "training diverged",
        "empty": "there is nothing in it that could be used",
        "extra_missing": "an optional package is not installed",
        "failed": "another library or program failed",
        "full": "the queue is full",
        "incomplete": "a part that belongs to it is missing",
        "invalid": "an argument or a setting has a value that makes no sense",
        "late": "it would not be, or was not, done in time",
        "memory": "memory does not suffice",
        "mismatch": "two things do not fit together: weights and network, data and model, model and reference",
        "missing": "there is no such file, name or address",
        "newer_format": "a newer version of this package wrote the file",
        "no_spec": "the file has no model spec",
        "not_finite": "there are NaN or infinity where numbers are needed",
        "stopped": "a signal stopped the work",
        "too_large": "it is larger than the limit",
        "unavailable": "a runtime or device cannot be used on this machine",
        "unreachable": "no answer came over the network, or one that is none",
        "unreadable": "the system does not let it be read",
        "unready": "the service has no model open yet",
        "unsafe": "the file could run code or write elsewhere, and was refused",
        "unsupported": "it may be intact, and is of a kind that is not supported",
        "unwritable": "it cannot be written",
    }
)
"""What each word of `ResnetInferError.reason` means. Programs may compare with them; messages are for people."""
_BY_NUMBER: Mapping[int, Reason] = MappingProxyType(
    {errno.ENOENT: "missing", errno.ENOTDIR: "missing", errno.EFBIG: "too_large", errno.ENOMEM: "memory"}
)
"""Number of an `OSError` -> reason. All others are "unreadable"."""


class ResnetInferError(Exception):
    """Report a failure that the user can act on.

    - `message`: what went wrong.
    - `hint`: what to do about it, or None.
    - `source`: what the error is about, as text: a path, a name or an address; None if it is about no single thing.
    - `reason`: a word of `REASONS` for programs, or None.

    The command line ends with `exit_code`. All fields survive `pickle` and `copy`.

    >>> from resnet_infer import ResnetInferError, read_spec
    >>> try:
    ...     read_spec("absent.onnx")
    ... except ResnetInferError as error:
    ...     print(error.message, error.source, error.reason, sep="; ")
    absent.onnx does not exist; absent.onnx; missing
    """

    exit_code = 1
    """Exit code of the command that ends with this error."""
    default_reason: Reason | None = None
    """Reason of an error that is raised without one."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        source: str | os.PathLike[str] | None = None,
        reason: Reason | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.source = None if source is None else str(source)
        self.reason: Reason | None = reason or self.default_reason

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[ResnetInferError], arguments: tuple[Any, ...], fields: dict[str, Any]) -> ResnetInferError:
    """Return the error that was pickled or copied. Its class may have a constructor with other arguments."""
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(fields)
    return error


def reason_of(error: BaseException) -> Reason:
    """Return the reason that stands for an error of the system: "missing", "too_large", "memory" or "unreadable".

    It is "damaged" for text that cannot be decoded, and the `reason` of an error of this package.

    >>> reason_of(FileNotFoundError(2, "No such file or directory"))
    'missing'
    """
    if isinstance(error, ResnetInferError):
        return error.reason or "unreadable"
    if isinstance(error, UnicodeError):
        return "damaged"
    if isinstance(error, MemoryError):
        return "memory"
    return _BY_NUMBER.get(error.errno or 0, "unreadable") if isinstance(error, OSError) else "unreadable"


@contextlib.contextmanager
def about(source: str | os.PathLike[str], reason: Reason | None = None) -> Iterator[None]:
    """Set `source` and `reason` of errors of this package that are raised inside the block without them."""
    try:
        yield
    except ResnetInferError as error:
        error.source, error.reason = error.source or str(source), error.reason or reason
        raise


def bare(error: Error) -> Error:
    """Return `error` without its traceback, cause and context.

    An error that is kept would otherwise keep the frames of its traceback alive, and the image data in them.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def first_line(error: Exception) -> str:
    """Return the first line of another library's error, at most 300 characters; the name of its type if it is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?" for the known name most like `name`, or nothing.

    It completes the message about an unknown name.
    """
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


class UsageError(ResnetInferError):
    """Report a command or call that makes no sense: an unknown name, a contradiction, a value out of range."""

    exit_code = 2
    default_reason = "invalid"


class ModelError(ResnetInferError):
    """Report a checkpoint or artifact that is missing, damaged, foreign, or of another version."""


class UnwritableError(ModelError):
    """Report a cache that cannot be written or that has no place."""

    default_reason = "unwritable"


class PictureError(ResnetInferError):
    """Report an image that cannot be read. The message names the file."""


class UnsupportedPictureError(PictureError):
    """Report an image file that may be intact, but is of a kind that is not supported. The message names the kind."""

    default_reason = "unsupported"


class AnswerError(ResnetInferError):
    """Report logits that are not finite (NaN or infinite). The message names the image."""

    default_reason = "not_finite"

    def __init__(self, message: str, *, source: str | os.PathLike[str] | None = None) -> None:
        super().__init__(
            message,
            source=source,
            hint="the model's file is damaged, its training diverged, or FP16 is too narrow for it; resnet-infer "
            "compare with the checkpoint that it was made of shows which",
        )


class DataError(ResnetInferError):
    """Report a data set that is missing, incomplete or inconsistent."""


class SplitError(DataError):
    """Report a split that the data set does not have, or a choice between several splits that was not made."""


class RuntimeUnavailableError(ResnetInferError):
    """Report a runtime or device that was requested by name and cannot be used on this machine."""

    default_reason = "unavailable"


class MissingExtraError(ResnetInferError):
    """Report an optional dependency that is not installed. The hint is the exact command that installs it."""

    default_reason: Reason | None = "extra_missing"


class BrokenPackageError(MissingExtraError):
    """Report a package that is installed and cannot be imported.

    The message has the cause, the hint a command that may help.
    """

    default_reason = "broken_package"


class OutOfMemoryError(ResnetInferError):
    """Report that the memory of the machine, or of this process's control group, does not suffice."""

    default_reason = "memory"


class ServiceError(ResnetInferError):
    """Report a service that does not answer, or whose answer is not a classification.

    `status` is the HTTP status, None without a response.
    """

    default_reason = "unreachable"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        hint: str | None = None,
        source: str | os.PathLike[str] | None = None,
        reason: Reason | None = None,
    ) -> None:
        super().__init__(message, hint=hint, source=source, reason=reason)
        self.status = status


class ParityError(ResnetInferError):
    """Report an artifact whose logits or predictions differ from those of its source."""

    default_reason = "mismatch"


class TrainingError(ResnetInferError):
    """Report that training cannot start or continue. The progress up to there is saved."""
