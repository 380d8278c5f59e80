"""Complete command lines in a shell: names of commands, values of options, and models by name.

It is imported only when a shell asks. `resnet-infer --install-completion` sets the shell up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any


def items(context: Any, known: Mapping[str, str], incomplete: str) -> list[Any]:
    """Return the completions of a word among `known`, which has what the shell shows beside each.

    `context` is click's, which typer may bring along under another name.
    """
    package = next(kind.__module__ for kind in type(context).__mro__ if kind.__name__ == "Context").rpartition(".")[0]
    item = import_module(f"{package}.shell_completion").CompletionItem
    return [item(name, help=text) for name, text in known.items() if name.startswith(incomplete)]


def complete_values(context: Any, command: Any) -> None:
    """Let the parameters of a command complete their values: what they choose from, or the names of models."""
    for parameter in command.params:
        values = _values(parameter)
        if values is not None:
            parameter.shell_complete = partial(_complete, values)


def _complete(values: Callable[[str], Iterable[str]], context: Any, incomplete: str) -> list[Any]:
    return items(context, dict.fromkeys(values(incomplete), ""), incomplete)


def _values(parameter: Any) -> Callable[[str], Iterable[str]] | None:
    """Return a function from a word that is begun to the values of a parameter, or None if they are files or numbers.

    The values are those in the parameter's metavar, such as `auto|cpu|cuda[:N]`.
    """
    shown = str(parameter.metavar or "")
    if parameter.param_type_name == "argument" and "MODEL]..." in shown:
        return _models_and_data
    if parameter.name in _NAMED:
        return _NAMED[parameter.name]
    if shown == "[NAME]" or ("MODEL" in shown and not shown.endswith(".onnx")):
        return _models
    parts = [re.sub(r"\[.*", "", part) for part in shown.strip("[]").split("|")]
    chosen = [part for part in parts if re.fullmatch(r"[a-z0-9][a-z0-9-]*|[ABC]", part)]
    return (lambda incomplete: chosen) if len(parts) > 1 and chosen else None


def _models(incomplete: str) -> list[str]:
    """Return the names of models, and the paths of models whose beginning is typed."""
    from resnet_infer import zoo
    from resnet_infer.models.weights.published import PUBLISHED
    from resnet_infer.runtimes.registry import SUFFIXES
    from resnet_infer.utils.files import suffix_of

    names = [*zoo.BUILT_IN, *dict.fromkeys(name for row in PUBLISHED for name in (row.arch, row.name))]
    return [*names, *(path for path in _paths(incomplete) if path[-1] == "/" or suffix_of(Path(path)) in SUFFIXES)]


def _models_and_data(incomplete: str) -> list[str]:
    """Return what `_models` returns, and all other files."""
    return list(dict.fromkeys([*_models(incomplete), *_paths(incomplete)]))


def _paths(incomplete: str) -> list[str]:
    """Return the files and folders whose beginning is typed. A folder ends in a slash.

    What a single folder holds is returned too: the shell would otherwise end the word behind its slash.
    """
    folder, _, begun = incomplete.rpartition("/")
    folder += "/" * ("/" in incomplete)
    try:
        found = sorted(path for path in Path(folder or ".").iterdir() if path.name.startswith(begun))
    except OSError:
        return []
    shown = [f"{folder}{path.name}{'/' * path.is_dir()}" for path in found if begun or not path.name.startswith(".")]
    return [*shown, *_paths(shown[0])] if len(shown) == 1 and shown[0][-1] == "/" else shown


def join_words(environment: MutableMapping[str, str] = os.environ) -> None:
    """Take out the = between an option and its value, which bash makes a word of its own, from what bash hands over."""
    words, current = environment.get("COMP_WORDS", "").split("\n"), int(environment.get("COMP_CWORD") or 0)
    kept = [
        word for place, word in enumerate(words[: current + 1]) if word != "=" or not words[place - 1].startswith("--")
    ]
    if len(kept) <= current < len(words):
        at_value = words[current] == "="
        environment["COMP_WORDS"], environment["COMP_CWORD"] = "\n".join(kept), str(len(kept) - (not at_value))


def _architectures(incomplete: str) -> Iterable[str]:
    from resnet_infer.models.families import published_names

    return published_names()


def _recipes(incomplete: str) -> Iterable[str]:
    from resnet_infer.training.recipes import RECIPES

    return RECIPES


def _scenarios(incomplete: str) -> Iterable[str]:
    from resnet_infer.benchmarking.scenarios import SCENARIOS

    return SCENARIOS


_NAMED: Mapping[str, Callable[[str], Iterable[str]]] = {
    "arch": _architectures,
    "reference": _models,
    "start": _models,
    "recipe": _recipes,
    "scenario": _scenarios,
}
"""Name of a parameter -> function that returns its values."""
