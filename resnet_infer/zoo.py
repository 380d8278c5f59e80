"""Any MODEL argument -> the file that answers it: a path, or the name of a built-in model."""

from __future__ import annotations

import hashlib
import os
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from resnet_infer import __version__
from resnet_infer.console import note
from resnet_infer.errors import ModelError
from resnet_infer.models.checkpoint import SUFFIX as CHECKPOINT
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.models.download import cache_folder
from resnet_infer.runtimes.registry import RUNTIMES

BUILT_IN = ("resnet20-cifar10",)
DEFAULT = BUILT_IN[0]
VARIABLE = "RESNET_INFER_MODEL"


def default_model() -> str | None:
    """The model of $RESNET_INFER_MODEL, if it is set."""
    return os.environ.get(VARIABLE) or None


def find(model: str | Path | None) -> Path:
    """The checkpoint or artifact that `model` names; a built-in gives its artifact, None the default.

    Raises `ModelError` if there is no such file or name.
    """
    name = str(model) if model is not None else default_model() or DEFAULT
    if name in BUILT_IN:
        return built_in(name, ".onnx")
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix not in (*RUNTIMES, CHECKPOINT):
            raise ModelError(
                f"{name} is no checkpoint ({CHECKPOINT}) and no artifact ({', '.join(RUNTIMES)})",
                hint=f"if it holds a ResNet's weights: resnet-infer import {name} --arch resnet50 -o model{CHECKPOINT}",
            )
        return path
    close = get_close_matches(name, BUILT_IN, n=1)
    raise ModelError(
        f"there is no file and no model called {name}" + (f"; did you mean {close[0]}?" if close else ""),
        hint=f"built in: {', '.join(BUILT_IN)}",
    )


def built_in(name: str, suffix: str) -> Path:
    """The file of a built-in model with that suffix."""
    return Path(str(files("resnet_infer.models") / "builtin" / f"{name}{suffix}"))


def checkpoint(model: str | Path | None) -> Checkpoint:
    """The checkpoint that `model` names. Raises `ModelError` for an artifact, which has none."""
    path = built_in(str(model or DEFAULT), CHECKPOINT) if model is None or str(model) in BUILT_IN else find(model)
    if path.suffix != CHECKPOINT:
        raise ModelError(f"{path} is an artifact already", hint=f"give the checkpoint it was made from ({CHECKPOINT})")
    return load_checkpoint(path)


def artifact(model: str | Path | None) -> Path:
    """The artifact that answers for `model`. A checkpoint is exported, and proven, once; then it lies in the cache."""
    path = find(model)
    if path.suffix != CHECKPOINT:
        return path
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
    target = cache_folder() / "artifacts" / f"{path.stem}-{digest.hexdigest()[:16]}-{__version__}.onnx"
    if not target.exists():
        from resnet_infer.converters.export import export_onnx

        note(f"exporting {path} once to {target}")
        note(str(export_onnx(load_checkpoint(path), target)))
    return target
