"""Find the file for a MODEL argument: a path, a built-in model, or published weights by name.

Downloads, conversions and exports happen once; the results are kept in the cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_infer._version import __version__
from resnet_infer.errors import ModelError, UnwritableError, UsageError, did_you_mean
from resnet_infer.models.checkpoint import SUFFIX as CHECKPOINT
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.models.weights.builtin import file_of, require_whole
from resnet_infer.runtimes.registry import ARTIFACTS, SUFFIXES, get_runtime
from resnet_infer.utils.console import note, warn
from resnet_infer.utils.extras import needs
from resnet_infer.utils.files import suffix_of

if TYPE_CHECKING:
    from resnet_infer.models.weights.published import PublishedWeights

DEFAULT, SMALL = "resnet18-tinyimagenet", "resnet20-cifar10"
"""Names of the built-in models: the default one, and a small one for tests and demos."""
BUILT_IN = {DEFAULT: "200 of ImageNet's 1,000 classes", SMALL: "CIFAR-10's ten classes"}
"""Built-in models, each with the classes that it knows."""
VARIABLE = "RESNET_INFER_MODEL"
"""Environment variable with the model that is used where none is named."""


def default_model() -> str | None:
    """Return the model of $RESNET_INFER_MODEL, or None if it is not set."""
    return os.environ.get(VARIABLE) or None


def find(model: str | os.PathLike[str] | None) -> Path:
    """Return the path of the checkpoint or artifact that `model` names.

    A built-in model gives its artifact, and None the default model. Published weights give their checkpoint, and are
    downloaded the first time. A file takes precedence over a name. Raises `ModelError` if there is no such file or
    name, or if a download fails.
    """
    name = _name(model)
    path = _existing(name)
    if path:
        return path
    if name in BUILT_IN:
        return _whole(name, ".onnx")
    weights = _published(name)
    if weights:
        return _fetch(weights)
    raise unknown_model(name)


def built_in(name: str, suffix: str) -> Path:
    """Return the path of a built-in model's file with this suffix."""
    return file_of(f"{name}{suffix}")


def _whole(name: str, suffix: str) -> Path:
    """Return the path of a built-in model's file. Raises `ModelError` if it is damaged."""
    path = built_in(name, suffix)
    require_whole(path)
    return path


def checkpoint(model: str | os.PathLike[str] | None) -> Checkpoint:
    """Return the checkpoint that `model` names. Raises `ModelError` for an artifact, which contains none."""
    return load_checkpoint(checkpoint_file(model))


def checkpoint_file(model: str | os.PathLike[str] | None) -> Path:
    """Return the path of the checkpoint that `model` names. Raises `ModelError` as `checkpoint` does."""
    name = _name(model)
    path = _whole(name, CHECKPOINT) if name in BUILT_IN and not _existing(name) else find(name)
    if suffix_of(path) != CHECKPOINT:
        raise ModelError(
            f"{path} is an artifact already",
            hint=f"give the checkpoint it was made from ({CHECKPOINT})",
            source=path,
            reason="unsupported",
        )
    return path


def source(model: str | os.PathLike[str] | None) -> Checkpoint | Path:
    """Return what an export can start from: the checkpoint that `model` names, or the path of an ONNX artifact.

    Raises `ModelError` for an artifact of another format.
    """
    path = _existing(_name(model))
    return path if path is not None and suffix_of(path) == ".onnx" else checkpoint(model)


def artifact(model: str | os.PathLike[str] | None) -> Path:
    """Return the path of an artifact that runs `model`.

    A checkpoint is exported to ONNX and verified once; the artifact stays in the cache. Where the cache cannot be
    written, the checkpoint is exported to a temporary folder of this process. Raises `ModelError`, and
    `UnwritableError` where neither can be written.

    >>> artifact("resnet50").suffix  # downloads and exports the published weights the first time
    '.onnx'
    """
    name = _name(model)
    path = _existing(name)
    weights = None if path or name in BUILT_IN else _published(name)
    if weights:
        return _kept(cached_artifact(weights), lambda target: _make_artifact(name, weights, target))
    path = path or find(name)
    if suffix_of(path) != CHECKPOINT:
        return path
    from resnet_infer.models.weights.download import cache_folder, scratch_folder
    from resnet_infer.utils.files import sha256

    name = f"{path.stem}-{sha256(path)[:16]}-{__version__}.onnx"
    try:
        return _kept(cache_folder() / "artifacts" / name, lambda target: _export(path, target))
    except UnwritableError as error:
        folder = scratch_folder()
        if folder is None:
            raise
        warn(f"note: {error.message}; so the artifact is made for this run alone ({error.hint})")
        _export(path, folder / name)
        return folder / name


def file_for(model: str | os.PathLike[str] | None, runtime: str = "auto") -> Path:
    """Return the path of the file with which `runtime` runs `model`.

    That is the checkpoint for a runtime that opens checkpoints, and the artifact for any other and for `auto`. A path
    of a file that the runtime opens is returned as it is. Raises as `checkpoint` and `artifact` do, and `UsageError`
    for an unknown runtime.

    >>> [file_for("resnet20-cifar10", runtime).suffix for runtime in ("auto", "torch")]
    ['.onnx', '.safetensors']
    """
    suffixes = (get_runtime(runtime).suffixes if runtime != "auto" else None) or ()
    path = _existing(_name(model))
    if path and suffix_of(path) in suffixes:
        return path
    return checkpoint_file(model) if CHECKPOINT in suffixes else artifact(model)


def load_for(model: str | os.PathLike[str] | None, runtime: str = "auto") -> Checkpoint | Path:
    """Return what `open_runtime` opens for `model`: the path of `file_for`, or the loaded checkpoint that is there."""
    path = file_for(model, runtime)
    return load_checkpoint(path) if suffix_of(path) == CHECKPOINT else path


def cached_file(weights: PublishedWeights) -> Path:
    """Return the path of a published file after its download."""
    from resnet_infer.models.weights.download import cache_folder

    return cache_folder() / "downloads" / weights.filename


def cached_checkpoint(weights: PublishedWeights) -> Path:
    """Return the path in the cache of the checkpoint made from published weights."""
    return _derived("checkpoints", weights, CHECKPOINT)


def cached_artifact(weights: PublishedWeights) -> Path:
    """Return the path in the cache of the artifact made from published weights."""
    return _derived("artifacts", weights, ".onnx")


def unknown_model(name: str) -> ModelError:
    """Return the error for a name that no file and no model has."""
    from resnet_infer.models.weights.published import PUBLISHED

    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):
        inside = _models_in(folder)
        return ModelError(
            f"{name} is a folder, not a model",
            hint=f"name the file: {inside[0]}" if inside else f"a model is a file that ends in {' or '.join(SUFFIXES)}",
            source=name,
            reason="unsupported",
        )
    names = [*BUILT_IN, *dict.fromkeys(name for row in PUBLISHED for name in (row.arch, row.name))]
    return ModelError(
        f"there is no file and no model called {name}" + did_you_mean(name.lower(), names),
        hint=f"built in: {', '.join(BUILT_IN)}; to download: {', '.join(names[len(BUILT_IN) :])}",
        source=name,
        reason="missing",
    )


def _models_in(folder: Path) -> list[Path]:
    """Return the models in a folder, first the best checkpoint of a training run."""
    try:
        found = sorted(path for path in folder.iterdir() if suffix_of(path) in SUFFIXES and path.is_file())
    except OSError:
        return []
    return sorted(found, key=lambda path: path.name != "best.safetensors")


def _derived(folder: str, weights: PublishedWeights, suffix: str) -> Path:
    """Return the path in the cache of a file made from published weights by this version of the package."""
    from resnet_infer.models.weights.download import cache_folder

    return cache_folder() / folder / f"{weights.name}-{weights.sha256_prefix}-{__version__}{suffix}"


def _name(model: object) -> str:
    """Return the name or path that `model` stands for; None stands for the default.

    Raises `UsageError` for what is neither.
    """
    if model is None:
        return default_model() or DEFAULT
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
    if not isinstance(name, str):
        size = f" of {len(model):,} bytes" if isinstance(model, (bytes, bytearray)) else ""
        raise UsageError(
            f"a model is a path or a name, not {type(model).__name__}{size}",
            hint="write the content of a model to a file, with the suffix of its format" if size else None,
        )
    return name


def _existing(name: str) -> Path | None:
    """Return the file at the path `name`, or None if there is none. Raises `ModelError` if it is not a model."""
    path = Path(os.path.expanduser(name))
    if not os.path.isfile(path):
        return None
    if suffix_of(path) not in SUFFIXES:
        raise ModelError(
            f"{name} is no checkpoint ({CHECKPOINT}) and no artifact ({', '.join(ARTIFACTS)})",
            hint=f"if it holds a ResNet's weights: resnet-infer import {name} --arch resnet50 -o model{CHECKPOINT}",
            source=name,
            reason="unsupported",
        )
    return path


def _published(name: str) -> PublishedWeights | None:
    """Return the published weights of this name, or None."""
    from resnet_infer.models.weights.published import find_published

    return find_published(name)


def _fetch(weights: PublishedWeights) -> Path:
    """Return the checkpoint of published weights, from the cache or made from a download."""
    return _kept(cached_checkpoint(weights), lambda target: _make_checkpoint(weights, target))


def _kept(target: Path, make: Callable[[Path], None]) -> Path:
    """Return a file of the cache after comparing its digest; make it where it is missing or damaged."""
    from resnet_infer.models.weights.cache import kept

    return kept(target, lambda: make(target))


def _make_checkpoint(weights: PublishedWeights, target: Path) -> None:
    """Download published weights and convert them to a checkpoint at `target`."""
    from resnet_infer.converters.importers.weights import import_weights
    from resnet_infer.models.checkpoint import save_checkpoint
    from resnet_infer.models.weights.download import download

    source = cached_file(weights)
    if not os.path.exists(source):
        note(f"downloading {weights.name} ({weights.licence}) from {weights.url}")
    download(weights.url, source, sha256_prefix=weights.sha256_prefix, title=weights.name)
    save_checkpoint(import_weights(source).checkpoint, target)


def _make_artifact(name: str, weights: PublishedWeights, target: Path) -> None:
    """Export published weights to an ONNX artifact at `target`."""
    # Check for missing packages before the download.
    with needs("cpu", f"making {name} ready to run"):
        from resnet_infer.runtimes import ort_session  # noqa: F401
    with needs("export", f"making {name} ready to run"):
        import onnx  # noqa: F401
    _export(_fetch(weights), target)


def _export(path: Path, target: Path) -> None:
    """Export the checkpoint at `path` to an ONNX artifact at `target`, and verify it."""
    from resnet_infer.converters.source import export_onnx

    checkpoint = load_checkpoint(path)
    note(f"exporting {path} once to {target}")
    note(str(export_onnx(checkpoint, target)))
