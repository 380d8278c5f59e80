"""Names, numbers and values in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any


def plural(count: int, noun: str) -> str:
    """`1 picture`, `2,000 pictures`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def words(value: Any) -> str:
    """A dash for None; of a number the digits that count."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {words(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value))
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def pointed(figure: str) -> str:
    """The name of a figure with the point of its percentile: `p99_9_ms` is `p99.9_ms`."""
    return re.sub(r"^((?:early_stopping_)?p\d+)_(\d+)", r"\1.\2", figure)


def facts_table(facts: Mapping[str, str]) -> str:
    """Names, with _ for a space, and what they stand for."""
    rows = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{escape(value)}</td></tr>" for name, value in facts.items()
    )
    return f'<table class="facts">{rows}</table>'
