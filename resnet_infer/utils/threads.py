"""Bound the number of threads or processes that a caller may request."""

from __future__ import annotations

from resnet_infer.errors import UsageError
from resnet_infer.utils.cpu import machine_cores

MOST_THREADS = max(256, machine_cores())
"""Most threads or processes. Threads that wait for work by spinning take each other's cores: a runtime with 256 threads
opens in seconds, one with 4,096 not in minutes.
"""


def require_threads(number: object, what: str = "threads", *, least: int = 1) -> None:
    """Raise `UsageError` unless `number` is None or a whole number from `least` to `MOST_THREADS`.

    `what` names the things that are counted, for the message.
    """
    if number is None:
        return
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= MOST_THREADS:
        raise UsageError(f"the number of {what} is a whole one from {least} to {MOST_THREADS}, not {number!r:.40}")
