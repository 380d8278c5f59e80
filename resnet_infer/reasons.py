"""Say what the reasons of errors mean. Programs compare with these words; messages are for people and may change."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from resnet_infer.errors import Reason

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
"""What each word of `ResnetInferError.reason` means, in alphabetical order."""
