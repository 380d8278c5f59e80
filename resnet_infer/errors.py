"""One family of exceptions: what went wrong, what to do about it, and the exit code of the command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Error = TypeVar("Error", bound=BaseException)


class ResnetInferError(Exception):
    """Something failed that the user can act on. `hint` says how; the command line exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


def bare(error: Error) -> Error:
    """`error` without its traceback, cause and context, for one that is kept: their frames hold what was being read."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def first_line(error: Exception) -> str:
    """The message of another library's exception, cut to a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one it is most like, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


class UsageError(ResnetInferError):
    """The command or call itself makes no sense: an unknown name, a contradiction, a value out of range."""

    exit_code = 2


class ModelError(ResnetInferError):
    """A checkpoint or artifact that is missing, damaged, foreign, or of another version."""


class UnwritableError(ModelError):
    """The cache cannot be written, or there is no place for it."""


class PictureError(ResnetInferError):
    """A picture that cannot be read. The message names the file."""


class UnsupportedPictureError(PictureError):
    """A file that may be whole, but of a form that is not read. The message says which form it is."""


class AnswerError(ResnetInferError):
    """A network whose answer to a picture is not finite (NaN or infinite). The message names the picture."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="the model's file is damaged, its training diverged, or FP16 is too narrow for it; resnet-infer "
            "compare with the checkpoint that it was made of shows which",
        )


class DataError(ResnetInferError):
    """A data set that is missing, incomplete or inconsistent."""


class SplitError(DataError):
    """A split that a data set does not have, or one of several that was not named."""


class RuntimeUnavailableError(ResnetInferError):
    """A runtime or device that was asked for by name cannot be used here."""


class MissingExtraError(ResnetInferError):
    """An optional dependency is not installed. The hint is the exact command that installs it."""


class BrokenPackageError(MissingExtraError):
    """A package is installed and cannot be imported. The message has the cause, the hint a command that may help."""


class OutOfMemoryError(ResnetInferError):
    """The memory of this machine, or what this process may have of it, does not suffice."""


class ServiceError(ResnetInferError):
    """A service that does not answer, or not with classes. `status` is its HTTP status, None without an answer."""

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class ParityError(ResnetInferError):
    """An artifact does not give its source's answers."""


class TrainingError(ResnetInferError):
    """Training cannot start or go on; what was reached is saved."""
