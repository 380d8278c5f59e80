"""Turn arguments into the entries of a benchmark, and read the pictures that they are timed with.

The process that times a model imports this module for `Subject`, and its start is timed too. What only the functions
below need is therefore imported inside them.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from resnet_infer import zoo
from resnet_infer.data.image import read_image
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import DataError, UsageError
from resnet_infer.runtimes.base import parse_device
from resnet_infer.runtimes.registry import split_runtime
from resnet_infer.utils.console import note
from resnet_infer.utils.threads import require_threads

PHOTOS = 32
"""Most photographs that are read; they are spread over all that are there."""
SYNTHETIC = 8
"""Number of synthetic pictures."""
SIDES = 375, 500
"""Height and width of synthetic pictures in pixels: those of an average photograph of ImageNet."""
QUALITY = 90
"""JPEG quality of synthetic pictures."""


@dataclass(frozen=True)
class Subject:
    """Hold an artifact and how it is to be run.

    `model` is its path; `runtime`, `device`, `threads`, `compute` and `options` are arguments of `open_runtime`.
    """

    model: Path
    runtime: str = "auto"
    device: str = "auto"
    threads: int | None = None
    compute: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, with paths as text."""
        options = {name: str(value) if isinstance(value, Path) else value for name, value in self.options.items()}
        return {**vars(self), "model": str(self.model), "options": options}


@dataclass(frozen=True)
class Entry:
    """Hold a row of the result: an artifact, how it is run, and how many pictures it is given in a call.

    `name` tells the artifact, and the runtime where it was named, from the others of its run. Raises `UsageError` for
    a `batch` below 1.
    """

    name: str
    subject: Subject
    batch: int

    def __post_init__(self) -> None:
        _require_batch(self.batch)

    def to_json(self) -> dict[str, Any]:
        """Return the row's name, the path of the artifact, how it is run, and the batch size."""
        subject = self.subject.to_json()
        return {"model": self.name, "artifact": subject.pop("model"), **subject, "batch": self.batch}


def entries(
    models: Sequence[str | None],
    batches: Sequence[int],
    *,
    runtime: str = "auto",
    device: str = "auto",
    threads: Sequence[int | None] = (None,),
    compute: str = "auto",
    as_default: bool = False,
) -> list[Entry]:
    """Return an entry for every model, number of threads and batch size, in this order; None is the default model.

    A prefix `RUNTIME:MODEL` takes precedence over `runtime`. Files are named by their file names, with as many parent
    folders as tell them apart. A model that is named twice gets a number from the second time on. Checkpoints and
    published weights are exported first, once. The runtime `auto` is the one that a service would take on this machine
    (`selection`); with `as_default`, or where `compute` is named, it is the first for the file. Raises `UsageError` for
    numbers or a device that cannot be, `ModelError` for a model that does not exist, and what `require_compute` raises.

        entries(["resnet50.v1", "openvino:model.onnx"], [1, 8], device="cpu")
    """
    from resnet_infer.evaluation.targets.names import shown_names

    if not models or not batches or not threads:
        raise UsageError("at least one model, batch size and number of threads is needed")
    for number in batches:
        _require_batch(number)
    for count in threads:
        require_threads(count)
    parse_device(device)
    found = []
    missing: set[str] = set()
    arguments = [argument or zoo.default_model() or zoo.DEFAULT for argument in models]
    seen: Counter[str] = Counter()
    for argument, shown in zip(arguments, shown_names(arguments), strict=True):
        named, model = split_runtime(argument)
        chosen = named or runtime
        path = zoo.file_for(model, chosen).resolve()
        if compute != "auto":
            from resnet_infer.selection.bf16_guard import require_compute

            require_compute(path, compute, runtime=chosen, device=device)
        name = shown or argument
        seen[name] += 1
        if seen[name] > 1:
            name += f" #{seen[name]}"
        select = chosen == compute == "auto" and not as_default
        taken = {batch: _selected(path, batch, device, missing) if select else chosen for batch in batches}
        for count in threads:
            found += [Entry(name, Subject(path, taken[batch], device, count, compute), batch) for batch in batches]
    return found


def _selected(path: Path, batch: int, device: str, missing: set[str]) -> str:
    """Return the runtime that `auto` stands for: another one by its name, the default as `auto`.

    What would be faster if it were installed is noted, unless it is among `missing`, to which it is added.
    """
    from resnet_infer.selection.select import Work, choose

    choice = choose(path, Work("service", batch=batch, device=device))
    if choice.missing and choice.missing not in missing:
        missing.add(choice.missing)
        note(choice.missing)
    return "auto" if choice.is_default else choice.runtime


def _require_batch(number: int) -> None:
    if number < 1:
        raise UsageError(f"a batch is at least 1, not {number}")


@dataclass(frozen=True)
class Pictures:
    """Hold encoded pictures, and where they come from."""

    source: str
    contents: tuple[bytes, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the source, the number of pictures, and their mean size in kilobytes."""
        total = sum(map(len, self.contents))
        return {
            "source": self.source,
            "count": len(self.contents),
            "mean_kb": round(total / len(self.contents) / 1e3, 1),
        }


def photographs(folder: Path) -> Pictures:
    """Read at most `PHOTOS` pictures of a folder or archive. Raises `DataError` or `PictureError`."""
    from resnet_infer.data.datasets.archive import open_tree
    from resnet_infer.data.datasets.tree import pictures
    from resnet_infer.data.feed import spread

    tree = open_tree(folder)
    names = list(pictures(tree))
    if not names:
        raise DataError(f"{folder} has no pictures", source=folder, reason="empty")
    contents = []
    for index in spread(len(names), PHOTOS, seed=0):
        content = tree.reader(names[index])()
        read_image(content, f"{folder}: {names[index]}")
        contents.append(content)
    return Pictures(str(folder), tuple(contents))


def synthetic() -> Pictures:
    """Make `SYNTHETIC` JPEGs of natural noise."""
    contents = []
    for pixels in natural_noise(SYNTHETIC, *SIDES):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
        contents.append(file.getvalue())
    return Pictures(f"synthetic JPEGs, {SIDES[1]}x{SIDES[0]}", tuple(contents))
