"""Name models in results, as briefly as tells them apart, and drop what was named twice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from resnet_infer import zoo
from resnet_infer.runtimes.registry import SUFFIXES, split_runtime
from resnet_infer.utils.files import suffix_of


def shown_names(arguments: Sequence[str | None]) -> list[str | None]:
    """Return a name for every argument: its file, with as many parent folders as tell it from other files.

    A runtime before the model stays. None, the default model, stays None and is named by its spec.
    """
    named = [split_runtime(argument) for argument in arguments]
    models = [model for _, model in named]
    parts = [Path(model).parts if model and os.path.isfile(_path(model)) else (model or "",) for model in models]
    depths = [1] * len(parts)
    places = {number: _identity(model) for number, model in enumerate(models) if model}

    def tail(number: int) -> str:
        return str(Path(*parts[number][-depths[number] :]))

    while True:
        alike: dict[str, set[int]] = {}
        for number in places:
            alike.setdefault(tail(number), set()).add(number)
        unclear = [group for group in alike.values() if len({places[number] for number in group}) > 1]
        deeper = [number for group in unclear for number in group if depths[number] < len(parts[number])]
        if not deeper:
            break
        for number in deeper:
            depths[number] += 1
    return [
        f"{runtime}:{tail(number)}" if runtime else tail(number) if models[number] else None
        for number, (runtime, _) in enumerate(named)
    ]


def distinct_models(models: Sequence[str | None], runtime: str) -> tuple[list[str | None], list[str]]:
    """Drop models that are named again, with the same runtime.

    Returns the others, and a sentence about each dropped one.
    """
    kept: dict[tuple[str, str], str | None] = {}
    dropped = []
    for argument in models:
        named, model = split_runtime(argument)
        key = named or runtime, _identity(model or zoo.default_model() or zoo.DEFAULT)
        if key in kept:
            dropped.append(f"the model {argument or key[1]} is named twice; it is evaluated once")
        kept.setdefault(key, argument)
    return list(kept.values()), dropped


def distinct_protocols(protocols: Sequence[str]) -> tuple[list[str], list[str]]:
    """Drop protocols that are named again. Returns the others, and a sentence about each dropped one."""
    kept = list(dict.fromkeys(protocols))
    twice = [protocol for protocol in kept if protocols.count(protocol) > 1]
    return kept, [f"the protocol {protocol} is named twice; it is followed once" for protocol in twice]


def is_model(argument: str) -> bool:
    """Return whether `argument` looks like a model: a runtime prefix, a model's suffix, or a known name."""
    from resnet_infer.models.weights.published import find_published

    runtime, model = split_runtime(argument)
    suffixes = (*SUFFIXES, ".pt", ".pth")
    known = model in zoo.BUILT_IN or bool(model and find_published(model))
    return bool(runtime) or known or suffix_of(Path(argument)) in suffixes


def _path(model: str) -> str:
    """Return the absolute path of a model's file."""
    return os.path.abspath(os.path.expanduser(model))


def _identity(model: str) -> str:
    """Return the path of a model's file, or the name of a model that is none."""
    return _path(model) if os.path.isfile(_path(model)) else model
