"""Write names, numbers and values as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: `1 picture`, `2,000 pictures`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def words(value: Any) -> str:
    """Return a value as text: a dash for None, four significant digits of a float, commas between parts."""
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
    """Return the name of a figure with the point of its percentile: `p99_9_ms` becomes `p99.9_ms`."""
    return re.sub(r"^((?:early_stopping_)?p\d+)_(\d+)", r"\1.\2", figure)


def facts_table(facts: Mapping[str, str]) -> str:
    """Return a table of names and values as HTML; spaces replace the underscores of names."""
    rows = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{escape(value)}</td></tr>" for name, value in facts.items()
    )
    return f'<table class="facts">{rows}</table>'
