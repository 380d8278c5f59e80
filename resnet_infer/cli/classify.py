"""`resnet-infer classify`"""

from __future__ import annotations

import csv
import glob
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO, TypeVar, cast

import typer

from resnet_infer import strict_json
from resnet_infer.cli.options import Device, Model, Output, Runtime, Threads, choice, introduce_default
from resnet_infer.console import bar, fail, note
from resnet_infer.errors import AnswerError, PictureError, ResnetInferError, UsageError

if TYPE_CHECKING:
    from resnet_infer.classifier import Answer, Classifier, Picture
    from resnet_infer.client import Client

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
    url: Annotated[str | None, typer.Option(metavar="URL", help="Ask the service there, with its model.")] = None,
) -> None:
    if url and (model, runtime, device, threads) != (None, "auto", "auto", None):
        raise UsageError("the service at --url has its own model, runtime, device and threads", hint="leave these out")
    unreadable = unanswered = 0

    def good(items: Iterable[Item | ResnetInferError]) -> Iterator[Item]:
        nonlocal unreadable, unanswered
        for item in items:
            if isinstance(item, AnswerError):
                unanswered += 1
                fail(item.message, item.hint if unanswered == 1 else None)  # the hint is about the model
            elif isinstance(item, ResnetInferError):
                unreadable += 1
                fail(item.message, item.hint)
            else:
                yield item

    noted, first_note = 0, ""

    def watched(answers: Iterable[Answer]) -> Iterator[Answer]:
        nonlocal noted, first_note
        for answer in answers:
            if answer.note:
                noted += 1
                first_note = first_note or f"{answer.source}: {answer.note}"
            yield answer

    pictures = good(_pictures(inputs))
    first = list(islice(pictures, 2))
    many = len(first) > 1
    if not first:  # no reason to load, or even download, a model
        raise typer.Exit(1 if on_error == "fail" else 0)
    if many:
        # Threads that decode hold the interpreter only briefly; at the default of 5 ms they wait longer than they work.
        sys.setswitchinterval(0.0005)
    views = cast(Literal[1, 10], int(crops))
    pictures = chain(first, pictures)
    answering: Classifier | Client
    if url:
        from resnet_infer.client import Client

        answering = Client(url)
        stream = answering.stream(pictures, crops=views, top_k=top_k)
    else:
        from resnet_infer.classifier import Classifier

        introduce_default(model, "-m")
        answering = Classifier(model, runtime=runtime, device=device, threads=threads, throughput=many)
        stream = answering.stream(pictures, crops=views, top_k=top_k, batch_size=max(batch, views))
    with ExitStack() as stack, answering, closing(stream):
        answers: Iterator[Answer] = stream
        target: TextIO = sys.stdout
        if output:
            from resnet_infer.files import atomic_path

            path = stack.enter_context(atomic_path(output))
            target = stack.enter_context(open(path, "w", encoding="utf-8", errors="backslashreplace"))
        if many and not target.isatty():
            answers = stack.enter_context(_watched(answers, inputs))
        WRITERS[format](watched(good(answer.error or answer for answer in answers)), target)
        target.flush()
    if noted:
        note(f"note: {first_note}" + f" (and {noted - 1} more pictures like it)" * (noted > 1))
    if unanswered or (unreadable and on_error == "fail"):
        raise typer.Exit(1)


@contextmanager
def _watched(answers: Iterator[Answer], inputs: list[str]) -> Iterator[Iterator[Answer]]:
    """A progress bar over the answers, where stderr is a terminal: the pictures are counted for it."""
    from resnet_infer.progress import progress

    total = None
    if sys.stderr.isatty():
        listed = _pictures([name for name in inputs if name != "-"])
        total = inputs.count("-") + sum(not isinstance(item, PictureError) for item in listed)
    with progress("classifying", total, "pictures") as advance:

        def counted() -> Iterator[Answer]:
            for answer in answers:
                advance(1)
                yield answer

        yield counted()


def _table(answers: Iterable[Answer], stream: TextIO) -> None:
    for number, answer in enumerate(answers):
        width = max(len(item.label) for item in answer.predictions)
        lines = [answer.source]
        for item in answer.predictions:
            drawn = bar(item.probability, encoding=stream.encoding)
            lines.append(f"  {item.label:<{width}}  {100 * item.probability:5.1f}%  {drawn}".rstrip())
        stream.write("\n" * bool(number) + "\n".join(lines) + "\n")


def _json(answers: Iterable[Answer], stream: TextIO) -> None:
    separator = "["
    for answer in answers:
        stream.write(f"{separator}\n  {_dumps(answer, stream)}")
        separator = ","
    stream.write("[]\n" if separator == "[" else "\n]\n")


def _jsonl(answers: Iterable[Answer], stream: TextIO) -> None:
    for answer in answers:
        stream.write(_dumps(answer, stream) + "\n")
        stream.flush()  # a reader need not wait for a full buffer


def _dumps(answer: Answer, stream: TextIO) -> str:
    """JSON, escaped where the stream cannot show it or a file's name is no text."""
    text = strict_json.dumps(answer.to_json(), ensure_ascii=False)
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return strict_json.dumps(answer.to_json())
    return text


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
    from resnet_infer.data.image import SUFFIXES

    for argument in inputs:
        if argument == "-":
            yield Picture("stdin", sys.stdin.buffer.read())
            continue
        path = Path(argument)
        if os.path.isdir(path):
            files: Iterator[Path | PictureError] = _walk(path, SUFFIXES)
        elif glob.has_magic(argument) and not os.path.exists(path):
            files = (Path(name) for name in sorted(glob.glob(argument, recursive=True)) if os.path.isfile(name))
        else:
            files = iter([path])
        first = next(files, None)
        if first is None:
            yield PictureError(f"{argument}: no pictures there", hint=f"known are {', '.join(sorted(SUFFIXES))}")
        else:
            yield from (
                file if isinstance(file, PictureError) else Picture(str(file), file) for file in chain([first], files)
            )


def _walk(folder: Path, suffixes: Collection[str]) -> Iterator[Path | PictureError]:
    """Pictures below `folder`, directory by directory, each sorted by name; nothing hidden. Last, what has no list."""
    refused: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=refused.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(root, name)
    for error in refused:
        yield PictureError(f"cannot list {error.filename}: {error.strerror}")
