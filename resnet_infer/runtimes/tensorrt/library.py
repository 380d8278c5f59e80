"""Import TensorRT, only where there is a GPU, and collect its log messages."""

from __future__ import annotations

from typing import Any

from resnet_infer.errors import RuntimeUnavailableError, first_line
from resnet_infer.runtimes.tensorrt.cuda import Gpu
from resnet_infer.runtimes.tensorrt.versions import version_numbers
from resnet_infer.utils.console import logger
from resnet_infer.utils.extras import needs

OLDEST = (8, 6)
"""Oldest supported version of TensorRT."""
ERRORS = 20
"""Most errors of TensorRT that are kept; the first is the cause."""
_LOG = logger(__name__)
_LOGGERS: dict[Any, Any] = {}
"""Module `tensorrt` -> the logger of this process."""


def load_tensorrt(gpu: Gpu) -> Any:
    """Import and return the module `tensorrt`.

    The argument proves that there is a GPU: without one, TensorRT ends the process.
    Raises `MissingExtraError` if TensorRT is not installed, and `RuntimeUnavailableError` if it does not load or is
    older than `OLDEST`.
    """
    with needs("tensorrt", f"TensorRT on {gpu.name}"):
        try:
            import tensorrt
        except (ImportError, OSError, RuntimeError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt":
                raise
            raise RuntimeUnavailableError(
                f"the package tensorrt is installed but does not load ({first_line(error)})",
                hint='its libraries come with: pip install --force-reinstall "resnet-infer[tensorrt]"',
                source="tensorrt",
            ) from error
    version = str(getattr(tensorrt, "__version__", ""))
    if version_numbers(version) < OLDEST:
        raise RuntimeUnavailableError(
            f"TensorRT {version or 'of unknown version'} is too old: it takes 8.6 or newer",
            hint="pip install --upgrade tensorrt",
            source="tensorrt",
        )
    return tensorrt


def major_version(tensorrt: Any) -> int:
    """Return the major version of the module `tensorrt`: 8, 10 or 11."""
    return version_numbers(tensorrt.__version__)[0]


def process_logger(tensorrt: Any) -> Any:
    """Return the `ILogger` of this process, whose errors are those since the last `begin`.

    TensorRT keeps a pointer to the first logger that it is given, for all later builders and runtimes
    (NVIDIA/TensorRT issue 1475), so there is one, which lives as long as the module `tensorrt`. Every message goes to
    `logging` at level DEBUG.
    """
    if tensorrt not in _LOGGERS:
        _LOGGERS[tensorrt] = _make_logger(tensorrt)
    return _LOGGERS[tensorrt]


def _make_logger(tensorrt: Any) -> Any:
    """Create the `ILogger`."""

    class Logger(tensorrt.ILogger):  # type: ignore[misc]  # the base class is known only at run time
        """Collect the messages of TensorRT."""

        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Take a message; called by TensorRT, from any thread."""
            wrong = severity in (tensorrt.ILogger.Severity.ERROR, tensorrt.ILogger.Severity.INTERNAL_ERROR)
            if wrong and len(self.errors) < ERRORS:
                self.errors.append(message.strip())
            _LOG.debug("%s", message)

        def begin(self) -> None:
            """Forget the errors of earlier work, whose reason nobody asked for."""
            self.errors = []

        def reason(self) -> str:
            """Return the first error since the last call of this or `begin`, the cause of the others."""
            found, self.errors = self.errors, []
            return found[0] if found else "it does not say why"

    return Logger()
