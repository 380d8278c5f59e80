"""What a test may be skipped for: where `RESNET_INFER_REQUIRE` is set, nothing that could be installed is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import Any

import pytest

REQUIRE = "RESNET_INFER_REQUIRE"
"""A variable that CI sets: a test that would be skipped for lack of a program, a package or a file fails instead."""
MAY_SKIP = re.compile(r"CUDA|GPU|NVIDIA driver|root|processor|Python|one core|control groups|machine has no address")
"""Reasons of skips that no installation ends: the devices, the user, the processor, the interpreter, the kernel."""


def refuses(reason: str) -> bool:
    """Return whether a test that is skipped for this reason has to fail."""
    return bool(os.environ.get(REQUIRE)) and MAY_SKIP.search(reason) is None


def required(report: Any) -> Any:
    """Return the report of a test or module, failed if it was skipped for lack of what has to be there."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if refuses(reason):
            report.outcome = "failed"
            report.longrepr = f"{REQUIRE} is set, so this is not skipped: {reason.removeprefix('Skipped: ')}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    return required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    return required((yield))
