"""Define the exceptions of the package: the message, a hint that says what to do, and the command's exit code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Error = TypeVar("Error", bound=BaseException)


class ResnetInferError(Exception):
    """Report a failure that the user can act on.

    `message` says what went wrong, `hint` what to do about it. The command line ends with `exit_code`.

    >>> error = ResnetInferError("there is no model.onnx", hint="export one: resnet-infer export model.safetensors")
    >>> print(error)
    there is no model.onnx
      hint: export one: resnet-infer export model.safetensors
    """

    exit_code = 1
    """Exit code of the command that ends with this error."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


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


class ModelError(ResnetInferError):
    """Report a checkpoint or artifact that is missing, damaged, foreign, or of another version."""


class UnwritableError(ModelError):
    """Report a cache that cannot be written or that has no place."""


class PictureError(ResnetInferError):
    """Report an image that cannot be read. The message names the file."""


class UnsupportedPictureError(PictureError):
    """Report an image file that may be intact, but is of a kind that is not supported. The message names the kind."""


class AnswerError(ResnetInferError):
    """Report logits that are not finite (NaN or infinite). The message names the image."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="the model's file is damaged, its training diverged, or FP16 is too narrow for it; resnet-infer "
            "compare with the checkpoint that it was made of shows which",
        )


class DataError(ResnetInferError):
    """Report a data set that is missing, incomplete or inconsistent."""


class SplitError(DataError):
    """Report a split that the data set does not have, or a choice between several splits that was not made."""


class RuntimeUnavailableError(ResnetInferError):
    """Report a runtime or device that was requested by name and cannot be used on this machine."""


class MissingExtraError(ResnetInferError):
    """Report an optional dependency that is not installed. The hint is the exact command that installs it."""


class BrokenPackageError(MissingExtraError):
    """Report a package that is installed and cannot be imported.

    The message has the cause, the hint a command that may help.
    """


class OutOfMemoryError(ResnetInferError):
    """Report that the memory of the machine, or of this process's control group, does not suffice."""


class ParityError(ResnetInferError):
    """Report an artifact whose logits or predictions differ from those of its source."""


class TrainingError(ResnetInferError):
    """Report that training cannot start or continue. The progress up to there is saved."""
