"""`resnet-infer classify`"""

from __future__ import annotations

import csv
import glob
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO, TypeVar, cast

import typer

from resnet_infer.cli.options import Device, Model, Output, Runtime, Threads, choice
from resnet_infer.console import bar, fail, note
from resnet_infer.errors import PictureError

if TYPE_CHECKING:
    from resnet_infer.classifier import Answer, Picture

Item = TypeVar("Item")
FORMATS = ("table", "json", "jsonl", "csv")


def classify(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files, directories, globs, or - for a picture on stdin.")
    ],
    model: Model = None,
    crops: Annotated[
        str, typer.Option(metavar="1|10", callback=choice("1", "10"), help="Views of a picture: the centre, or ten.")
    ] = "1",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes to show.")] = 5,
    runtime: Runtime = "auto",
    device: Device = "auto",
    batch: Annotated[int, typer.Option("--batch", "-b", min=1, help="Most crops in one call of the runtime.")] = 32,
    threads: Threads = None,
    format: Annotated[
        str, typer.Option("--format", "-f", metavar="table|json|jsonl|csv", callback=choice(*FORMATS), help="The form.")
    ] = "table",
    output: Output = None,
    on_error: Annotated[
        str,
        typer.Option(
            metavar="fail|skip", callback=choice("fail", "skip"), help="Exit code after unreadable pictures: 1, or 0."
        ),
    ] = "fail",
) -> None:
    from resnet_infer import zoo
    from resnet_infer.classifier import Classifier

    classifier = Classifier(model, runtime=runtime, device=device, threads=threads)
    if model is None and zoo.default_model() is None:
        names = classifier.spec.classes
        shown = ", ".join(names) if len(names) <= 10 else f"{len(names)} classes"
        note(f"{classifier.spec.name} knows: {shown}. Choose another model with -m.")
    failed = 0

    def good(items: Iterable[Item | PictureError]) -> Iterator[Item]:
        nonlocal failed
        for item in items:
            if isinstance(item, PictureError):
                failed += 1
                fail(item.message, item.hint)
            else:
                yield item

    views = cast(Literal[1, 10], int(crops))
    answers = classifier.stream(good(_pictures(inputs)), crops=views, top_k=top_k, batch_size=max(batch, views))
    with ExitStack() as stack, classifier:
        if output:
            from resnet_infer.files import atomic_path

            # Errors are told on stderr; what was read is worth keeping.
            stream: TextIO = stack.enter_context(open(stack.enter_context(atomic_path(output)), "w", encoding="utf-8"))
        else:
            stream = sys.stdout
        WRITERS[format](good(answer.error or answer for answer in answers), stream)
        stream.flush()
    if failed and on_error == "fail":
        raise typer.Exit(1)


def _table(answers: Iterable[Answer], stream: TextIO) -> None:
    for number, answer in enumerate(answers):
        width = max(len(item.label) for item in answer.predictions)
        lines = [answer.source] + [
            f"  {item.label:<{width}}  {100 * item.probability:5.1f}%  {bar(item.probability)}".rstrip()
            for item in answer.predictions
        ]
        stream.write("\n" * bool(number) + "\n".join(lines) + "\n")


def _json(answers: Iterable[Answer], stream: TextIO) -> None:
    separator = "["
    for answer in answers:
        stream.write(f"{separator}\n  {json.dumps(answer.to_json(), ensure_ascii=False)}")
        separator = ","
    stream.write("[]\n" if separator == "[" else "\n]\n")


def _jsonl(answers: Iterable[Answer], stream: TextIO) -> None:
    for answer in answers:
        stream.write(json.dumps(answer.to_json(), ensure_ascii=False) + "\n")


def _csv(answers: Iterable[Answer], stream: TextIO) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("source", "rank", "label", "probability", "index", "id"))
    for answer in answers:
        for rank, item in enumerate(answer.predictions, start=1):
            writer.writerow((answer.source, rank, item.label, f"{item.probability:.6f}", item.index, item.id or ""))


WRITERS: dict[str, Callable[[Iterable[Answer], TextIO], None]] = {
    "table": _table,
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
}


def _pictures(inputs: list[str]) -> Iterator[Picture | PictureError]:
    """The pictures that the arguments name: in the order given, directories and globs sorted."""
    from resnet_infer.classifier import Picture
    from resnet_infer.data.datasets.tree import PICTURE_SUFFIXES as SUFFIXES

    for argument in inputs:
        if argument == "-":
            yield Picture("stdin", sys.stdin.buffer.read())
            continue
        path = Path(argument)
        if path.is_dir():
            files: Iterator[Path] = _walk(path, SUFFIXES)
        elif glob.has_magic(argument) and not path.exists():
            files = (Path(name) for name in sorted(glob.glob(argument, recursive=True)) if os.path.isfile(name))
        else:
            files = iter([path])
        first = next(files, None)
        if first is None:
            yield PictureError(f"{argument}: no pictures there", hint=f"known are {', '.join(sorted(SUFFIXES))}")
        else:
            yield from (Picture(str(file), file) for file in chain([first], files))


def _walk(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Pictures below `folder`, directory by directory, each sorted by name."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(root, name) for name in sorted(files) if os.path.splitext(name)[1].lower() in suffixes)
