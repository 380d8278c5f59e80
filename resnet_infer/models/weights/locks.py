"""Lock files, so that one process makes a file and the others wait for it."""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from resnet_infer.utils.console import logger, printable

PATIENCE = 1800.0
"""Seconds after which the other process counts as hanging. The system frees the lock of a process that has died."""
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
"""Error numbers of file systems without locks."""
_LOG = logger(__name__)


def locked(target: Path, doing: str, *, patience: float = PATIENCE) -> AbstractContextManager[object]:
    """Wait for the lock beside `target`, and return it as a context manager that releases it.

    `doing` says what another process is doing, e.g. "making x.onnx". If the file system has no locks, or after
    `patience` seconds, the work is done without a lock: a file is still whole or absent, and at worst is made twice.
    Raises `OSError` if nothing can be written beside `target`.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            _LOG.warning("another process is %s: waiting for it", printable(doing))
            return lock.acquire(timeout=patience)
    except Timeout:
        _LOG.warning("another process has been %s for %.0f s: waiting no longer", printable(doing), patience)
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    return nullcontext()
