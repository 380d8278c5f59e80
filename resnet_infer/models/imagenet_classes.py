"""List the 1000 classes of ImageNet (ILSVRC 2012), in the order of the logits of published weights."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names and the WordNet ids, 1000 of each.

    Names are distinct: if two classes share their first synonym, a word is added ("crane (bird)", "crane (machine)").
    WordNet ids ascend.
    """
    table = Path(__file__).with_name("imagenet_classes.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines()]
    return tuple(name for _, _, name in rows), tuple(wordnet_id for _, wordnet_id, _ in rows)
