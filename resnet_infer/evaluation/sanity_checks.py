"""Check whether a measured error is plausible: labels may belong to other pictures, and classes may be reordered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEWEST = 30
"""Fewest pictures for any check."""
FEWEST_OF_A_CLASS = 5
"""Fewest answers to a class's pictures for it to be checked."""
SHARE = 0.3
"""Least share of a class's pictures that are answered with one other class, for it to count as displaced."""

Classes = NDArray[np.int64]
"""Classes by number, (pictures,)."""


def sanity_checks(labels: Classes, top1: Classes, names: Sequence[str]) -> list[str]:
    """Return a warning, or none. `labels` and `top1` are the right and the answered class of every picture."""
    if len(labels) < FEWEST:
        return []
    found = [_order(labels, top1, names), _chance(labels, top1)]
    return [sentence for sentence in found if sentence][:1]


def _chance(labels: Classes, top1: Classes) -> str | None:
    """Warn if the answers are no better than if the labels were shuffled."""
    shares = np.bincount(labels) / len(labels)
    answered = np.bincount(top1[top1 >= 0], minlength=len(shares))[: len(shares)] / len(labels)
    right, lucky = float((labels == top1).mean()), float((shares * answered).sum())
    if (shares > 0).sum() < 2 or right > lucky + 4 * np.sqrt(max(lucky, 1 / len(labels)) / len(labels)):
        return None
    return (
        f"the answers are no better than guessing: {100 * right:.1f}% are right, and {100 * lucky:.1f}% would be if "
        "the labels were dealt out at random. Are these the labels of these pictures, and is the model trained?"
    )


def _order(labels: Classes, top1: Classes, names: Sequence[str]) -> str | None:
    """Warn if several classes are each mostly answered with one other class, as if they had changed places."""
    displaced: dict[int, tuple[int, float]] = {}
    for label in np.unique(labels):
        answers = top1[(labels == label) & (top1 >= 0)]
        if len(answers) < FEWEST_OF_A_CLASS:
            continue
        counts = np.bincount(answers, minlength=len(names))
        first = int(counts.argmax())
        share = float(counts[first] / len(answers))
        if first != label and share >= SHARE and counts[label] <= counts[first] / 4:
            displaced[int(label)] = first, share
    targets = {first for first, _ in displaced.values()}
    exchanged = targets == set(displaced) or len(displaced) > len(np.unique(labels)) / 2
    if len(displaced) < 2 or len(targets) < len(displaced) or not exchanged:
        return None
    shown = ", ".join(
        f"{names[label]} is answered with {names[first]} ({100 * share:.0f}%)"
        for label, (first, share) in list(displaced.items())[:3]
    )
    return (
        f"{len(displaced)} classes seem to have changed places: {shown}. Compare the order of the model's classes "
        "with the one that it was trained with"
    )
