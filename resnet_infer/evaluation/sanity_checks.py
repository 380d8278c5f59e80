"""What makes a measured error doubtful: labels that belong to other pictures, or classes in another order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEWEST = 30
"""Pictures below which nothing is said."""
FEWEST_OF_A_CLASS = 5
SHARE = 0.3
"""Least share of a class's pictures that are answered with one other class, before it is taken for displaced."""

Classes = NDArray[np.int64]


def sanity_checks(labels: Classes, top1: Classes, names: Sequence[str]) -> list[str]:
    """Sentences, none if all looks well. `labels` and `top1` are classes by number, one of each for every picture."""
    if len(labels) < FEWEST:
        return []
    found = [_order(labels, top1, names), _chance(labels, top1)]
    return [sentence for sentence in found if sentence][:1]


def _chance(labels: Classes, top1: Classes) -> str | None:
    """Whether the answers have no more to do with the labels than if these were dealt out anew."""
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
    """Whether classes are mostly answered with one other class each, so that they changed places."""
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
