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
"""Words that `ResnetInferError.reason` may be. `reasons.REASONS` says what each means."""
_BY_NUMBER: Mapping[int, Reason] = MappingProxyType(
    {errno.ENOENT: "missing", errno.ENOTDIR: "missing", errno.EFBIG: "too_large", errno.ENOMEM: "memory"}
)
"""Number of an `OSError` -> reason. All others are "unreadable"."""


class ResnetInferError(Exception):
    """Report a failure that the user can act on.

    - `message`: what went wrong.
    - `hint`: what to do about it, or None.
    - `source`: what the error is about, as text: a path, a name or an address; None if it is about no single thing.
    - `reason`: a word of `reasons.REASONS` for programs, or None.

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
    """Report a command or call that makes no sense: an unknown name, a contradiction, a value out of range.

    >>> from resnet_infer import Classifier, UsageError
    >>> try:
    ...     Classifier("resnet20-cifar10", threads=-1)
    ... except UsageError as error:
    ...     print(error.reason)
    invalid
    """

    exit_code = 2
    default_reason = "invalid"


class ModelError(ResnetInferError):
    """Report a checkpoint or artifact that is missing, damaged, foreign, or of another version.

    >>> from resnet_infer import Classifier, ModelError
    >>> try:
    ...     Classifier("resnet20-cifar100")
    ... except ModelError as error:
    ...     print(error.message)
    there is no file and no model called resnet20-cifar100; did you mean resnet20-cifar10?
    """


class UnwritableError(ModelError):
    """Report a cache that cannot be written or that has no place.

    >>> from resnet_infer import ModelError, UnwritableError
    >>> issubclass(UnwritableError, ModelError), UnwritableError("no space").reason
    (True, 'unwritable')
    """

    default_reason = "unwritable"


class PictureError(ResnetInferError):
    """Report an image that cannot be read. The message names the file.

    >>> from resnet_infer import Classifier, PictureError
    >>> with Classifier("resnet20-cifar10") as classifier:
    ...     try:
    ...         classifier.classify("absent.jpg")
    ...     except PictureError as error:
    ...         print(error.source, error.reason)
    absent.jpg missing
    """


class UnsupportedPictureError(PictureError):
    """Report an image file that may be intact, but is of a kind that is not supported. The message names the kind.

    >>> from resnet_infer import Classifier, UnsupportedPictureError
    >>> with Classifier("resnet20-cifar10") as classifier:
    ...     try:
    ...         classifier.classify(b"%PDF-1.7")
    ...     except UnsupportedPictureError as error:
    ...         print(error.reason)
    unsupported
    """

    default_reason = "unsupported"


class AnswerError(ResnetInferError):
    """Report logits that are not finite (NaN or infinite). The message names the image.

    >>> from resnet_infer import AnswerError
    >>> AnswerError("cat.jpg: the logits are not finite", source="cat.jpg").reason
    'not_finite'
    """

    default_reason = "not_finite"

    def __init__(self, message: str, *, source: str | os.PathLike[str] | None = None) -> None:
        super().__init__(
            message,
            source=source,
            hint="the model's file is damaged, its training diverged, or FP16 is too narrow for it; resnet-infer "
            "compare with the checkpoint that it was made of shows which",
        )


class DataError(ResnetInferError):
    """Report a data set that is missing, incomplete or inconsistent.

    >>> from resnet_infer import DataError, evaluate
    >>> try:
    ...     evaluate("resnet20-cifar10", "absent")
    ... except DataError as error:
    ...     print(error.source, error.reason)
    absent missing
    """


class SplitError(DataError):
    """Report a split that the data set does not have, or a choice between several splits that was not made.

    >>> from resnet_infer import SplitError, evaluate
    >>> try:
    ...     evaluate("resnet20-cifar10", "vehicles", split="test")
    ... except SplitError as error:
    ...     print(error.reason)
    missing
    """


class RuntimeUnavailableError(ResnetInferError):
    """Report a runtime or device that was requested by name and cannot be used on this machine.

    >>> from resnet_infer import RuntimeUnavailableError, open_runtime
    >>> try:
    ...     open_runtime("resnet20-cifar10", device="cuda:99")
    ... except RuntimeUnavailableError as error:
    ...     print(error.reason)
    unavailable
    """

    default_reason: Reason | None = "unavailable"


class MissingExtraError(ResnetInferError):
    """Report an optional dependency that is not installed. The hint is the exact command that installs it.

    >>> from resnet_infer import MissingExtraError
    >>> MissingExtraError("training needs the package torch, which is not installed", source="torch").reason
    'extra_missing'
    """

    default_reason: Reason | None = "extra_missing"


class BrokenPackageError(MissingExtraError):
    """Report a package that is installed and cannot be imported.

    The message has the cause, the hint a command that may help.

    >>> from resnet_infer import BrokenPackageError, MissingExtraError
    >>> issubclass(BrokenPackageError, MissingExtraError), BrokenPackageError("torch does not load").reason
    (True, 'broken_package')
    """

    default_reason = "broken_package"


class OutOfMemoryError(ResnetInferError):
    """Report that the memory of the machine, or of this process's control group, does not suffice.

    >>> from resnet_infer import OutOfMemoryError
    >>> OutOfMemoryError("memory ran out").reason
    'memory'
    """

    default_reason = "memory"


class ServiceError(ResnetInferError):
    """Report a service that does not answer, or whose answer is not a classification.

    `status` is the HTTP status, None without a response.

    >>> from resnet_infer import Client, ServiceError
    >>> with Client("http://127.0.0.1:9", timeout=5) as client:
    ...     try:
    ...         client.classify("cat.jpg")
    ...     except ServiceError as error:
    ...         print(error.source, error.reason, error.status)
    http://127.0.0.1:9 unreachable None
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
    """Report an artifact whose logits or predictions differ from those of its source.

    >>> from resnet_infer import ParityError, export
    >>> try:
    ...     export(
    ...         "resnet20-cifar10",
    ...         "strict.onnx",
    ...         precision="int8",
    ...         calibration_data="vehicles",
    ...         check_data="vehicles",
    ...         max_drop=-100,
    ...     )
    ... except ParityError as error:
    ...     print(error.reason)
    mismatch
    """

    default_reason = "mismatch"


class TrainingError(ResnetInferError):
    """Report that training cannot start or continue. The progress up to there is saved.

    >>> from resnet_infer import TrainingError, train
    >>> try:
    ...     train("vehicles", "diverged", iterations=9, batch_size=4, validation=0, peak_rate=1e30, device="cpu")
    ... except TrainingError as error:
    ...     print(error.reason)
    diverged
    """
