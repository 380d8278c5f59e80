"""TensorRT itself: imported only where there is a GPU for it, and what it says while it works."""

from __future__ import annotations

import logging
from typing import Any

from resnet_infer.errors import RuntimeUnavailableError, first_line
from resnet_infer.runtimes.tensorrt.cuda import Gpu
from resnet_infer.runtimes.tensorrt.versions import version_numbers
from resnet_infer.utils.extras import needs

OLDEST = (8, 6)
_LOG = logging.getLogger(__name__)


def load_tensorrt(gpu: Gpu) -> Any:
    """The module `tensorrt`. Asking for the GPU first is what keeps TensorRT from ending the process without one.

    Raises `MissingExtraError` if it is not installed and `RuntimeUnavailableError` if it does not load or is too old.
    """
    with needs("gpu", f"TensorRT on {gpu.name}"):
        try:
            import tensorrt
        except (ImportError, OSError, RuntimeError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt":
                raise
            raise RuntimeUnavailableError(
                f"the package tensorrt is installed but does not load ({first_line(error)})",
                hint='its libraries come with: pip install --force-reinstall "resnet-infer[gpu]"',
            ) from error
    version = str(getattr(tensorrt, "__version__", ""))
    if version_numbers(version) < OLDEST:
        raise RuntimeUnavailableError(
            f"TensorRT {version or 'of unknown version'} is too old: it takes 8.6 or newer",
            hint="pip install --upgrade tensorrt",
        )
    return tensorrt


def major_version(tensorrt: Any) -> int:
    """8, 10, 11 ..."""
    return version_numbers(tensorrt.__version__)[0]


def make_logger(tensorrt: Any) -> Any:
    """A logger for TensorRT that keeps its errors, in `errors`, and passes all else to Python's logging."""

    class Logger(tensorrt.ILogger):  # type: ignore[misc]  # a class of a module that is known only at run time
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.Severity.ERROR, tensorrt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message.strip())
            _LOG.debug("%s", message)

        def reason(self) -> str:
            """The first error since the last call, which the others follow from; and start anew."""
            found, self.errors = self.errors, []
            return found[0] if found else "it does not say why"

    return Logger()
