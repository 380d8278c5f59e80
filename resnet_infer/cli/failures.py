"""Explain exceptions that any command may raise, and that are no errors of this package.

It is imported only after such an exception.
"""

from __future__ import annotations

from resnet_infer.errors import ModelError, ResnetInferError
from resnet_infer.utils.extras import explain
from resnet_infer.utils.files import REMEDIES
from resnet_infer.utils.host_memory import out_of_memory


def known(error: Exception) -> ResnetInferError | None:
    """Return a clear error for an exception, or None for one that nobody expects.

    Known are: memory or threads exhausted, a package that does not load, a file or the temporary folder that cannot be
    written, and protobuf's `EncodeError`, which is recognised by name so that protobuf need not be imported.
    """
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):  # raised by tempfile
        return ResnetInferError(
            "there is no temporary folder that can be written", hint="set TMPDIR to a folder that can be written"
        )
    if isinstance(error, OSError) and error.filename is not None and (todo := REMEDIES.get(error.errno or 0)):
        return ResnetInferError(f"{error.filename}: {(error.strerror or str(error)).lower()}", hint=todo)
    if type(error).__name__ == "EncodeError" and type(error).__module__.startswith("google.protobuf"):
        return ModelError(
            f"the ONNX graph cannot be written ({error})",
            hint="an ONNX file takes 2 GB at most, and only text in UTF-8",
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return ResnetInferError(
            "the system lets this process start no more threads",
            hint="raise the limit of processes (ulimit -u, Docker: --pids-limit), or take fewer --threads or --workers",
        )
    return out_of_memory(error) or (explain(error, "the command") if isinstance(error, ImportError) else None)
