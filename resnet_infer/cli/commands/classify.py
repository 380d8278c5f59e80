"""Implement `resnet-infer classify`."""

from __future__ import annotations

import json
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO, cast

import typer

from resnet_infer.cli.answers import COLUMNS, WRITERS
from resnet_infer.cli.inputs import pictures
from resnet_infer.cli.options import Compute, Device, Json, Model, Runtime, Threads, introduce_default, output_option
from resnet_infer.cli.parsing import MOST, choice
from resnet_infer.errors import AnswerError, ResnetInferError, UsageError
from resnet_infer.utils.console import bar, fail, flush, is_terminal, note

if TYPE_CHECKING:
    from resnet_infer.classifier import Answer, Classifier, Picture
    from resnet_infer.client import Client

EXAMPLES = ("classify photo.jpg", "classify photos/ --model resnet50 --output answers.csv")
"""Command lines that the help ends with."""
FORMATS = ("table", "json", "jsonl", "csv")
SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "table"}
"""Suffix of the output file -> format."""
BATCH = 32
"""Default of `--batch-size`, in crops."""
AHEAD = 1000
"""Most images that are counted to choose the runtime. So many are worth the start of any."""
_JSON_HEAD = re.compile(r'\{"format": \d{1,9}, "answers": \[')
"""First line of the format json."""


def classify(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Image files, folders, patterns such as '*.jpg', or - for an image on standard input.",
        ),
    ],
    model: Model = None,
    crops: Annotated[
        str,
        typer.Option(
            metavar="1|10", callback=choice("1", "10"), help="Crops of an image that are averaged: the centre, or ten."
        ),
    ] = "1",
    top_k: Annotated[
        int, typer.Option("--top-k", "-k", min=1, max=MOST, help="Number of classes to show, the most probable first.")
    ] = 5,
    runtime: Runtime = "auto",
    device: Device = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", "-b", min=1, max=MOST, help="Crops in one call of the runtime at most; default: 32."
        ),
    ] = None,
    threads: Threads = None,
    compute: Compute = "auto",
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="table|json|jsonl|csv",
            callback=choice(*FORMATS),
            help="Form of the result; default: by the suffix of -o, else a table.",
        ),
    ] = None,
    as_json: Json = False,
    output: Annotated[Path | None, output_option(SUFFIXES)] = None,
    on_error: Annotated[
        str,
        typer.Option(
            metavar="fail|skip",
            callback=choice("fail", "skip"),
            help="What unreadable images do to the exit code: fail makes it 1, skip leaves it 0.",
        ),
    ] = "fail",
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Classify with the model of a running service, e.g. http://127.0.0.1:3000."),
    ] = None,
) -> None:
    """Classify the images of files, folders, globs or stdin, by a model or a service."""
    if url and (model, runtime, device, batch_size, threads, compute) != (None, "auto", "auto", None, None, "auto"):
        raise UsageError(
            "the service at --url has its own model, runtime, device, batches, threads and compute",
            hint="leave these out",
        )
    if not all(inputs):
        raise UsageError("an empty name is no picture", hint="the current folder is .")
    if output == Path("-"):
        output = None
    if as_json and format not in (None, "json"):
        raise UsageError(f"--json and --format {format} exclude each other", hint="leave one of them out")
    if output:
        _require_free(output, inputs, model)
    elif sys.stdout is None:
        raise ResnetInferError("standard output is closed", hint="name a file with -o")
    form = _form("json" if as_json else format, output)
    from resnet_infer.data.walk import Passed

    passed = Passed()
    requested = _Requested(pictures(inputs, passed))
    many = requested.several()
    if many:
        # Decoding threads need the interpreter only briefly. With the default of 5 ms they would mostly wait for it.
        sys.setswitchinterval(0.0005)
    views = cast(Literal[1, 10], int(crops))
    with ExitStack() as stack:
        answers: Iterator[Answer] = iter(())
        if requested.any():  # without an image, no model is loaded or downloaded
            answering: Classifier | Client
            if url:
                from resnet_infer.client import Client

                answering = stack.enter_context(Client(url))
                stream = answering.stream(requested, crops=views, top_k=top_k)
            else:
                from resnet_infer.classifier import Classifier

                introduce_default(model, "-m")
                expected = requested.expected() if many else None
                options: dict[str, Any] = {"runtime": runtime, "device": device, "threads": threads, "compute": compute}
                answering = Classifier(model, throughput=many, expected=expected, **options)
                stack.enter_context(answering)
                stream = answering.stream(
                    requested, crops=views, top_k=top_k, batch_size=max(batch_size or BATCH, views)
                )
            answers = stack.enter_context(closing(stream))
        reporter = _Reporter()
        target: TextIO = stack.enter_context(_kept(output, reporter)) if output else sys.stdout
        if many and not is_terminal(target):
            answers = stack.enter_context(_watched(answers, inputs))
        WRITERS[form](reporter.through(requested.merged(answers)), target)
        flush(target)
    reporter.note()
    if what := str(passed):
        note(f"not read: {what}")
    if reporter.unanswered or (reporter.unreadable and on_error == "fail"):
        raise typer.Exit(1)


@contextmanager
def _kept(output: Path, reporter: _Reporter) -> Iterator[TextIO]:
    """Open the file of the result. If the command is stopped, keep the answers so far in a file beside it."""
    from resnet_infer.utils.files import atomic_path, part_of, parts_of

    for part in parts_of(output):
        note(f"note: {part} has answers of another run, which was stopped or killed, or is still going on")
    kept: list[Path] = []

    def keep() -> Path | None:
        kept.extend([part_of(output)] if reporter.answered else [])
        return kept[0] if kept else None

    try:
        with (
            atomic_path(output, keep=keep) as path,
            open(path, "w", encoding="utf-8", errors="backslashreplace") as file,
        ):
            yield file
    except BaseException:
        if kept:
            note(f"{reporter.answered:,} answers are kept in {kept[0]}")
        raise


def _form(format: str | None, output: Path | None) -> str:
    """Return the format of the result, from `--format` or the suffix of its file. Raises `UsageError` for another."""
    by_name = SUFFIXES.get(output.suffix.lower()) if output else None
    if output and not (format or by_name or output.is_fifo() or output.is_char_device()):
        ending = (
            f"ends in {output.suffix}, which is no form" if output.suffix else "has no suffix, which chooses the form"
        )
        raise UsageError(
            f"{output} {ending} of the result",
            hint=f"let it end in {', '.join(SUFFIXES)}, or name the form with --format",
        )
    if format and by_name and format != by_name:
        note(f"note: {output} gets the form {format}, as --format says, not {by_name}")
    return format or by_name or "table"


def _require_free(output: Path, inputs: list[str], model: str | None) -> None:
    """Raise `UsageError` if `output` names an image, an input, or a file that is not a result of classify."""
    from resnet_infer.data.formats.suffixes import is_picture, unreadable_format
    from resnet_infer.models.outputs import Output, require_free

    if is_picture(output.name) or unreadable_format(output.name):
        raise UsageError(f"{output} is the name of a picture, and -o names the result", hint="e.g. -o answers.csv")
    require_free([Output("-o", output, "result of classify", _is_result)], [*inputs, model])


def _is_result(path: Path) -> bool:
    """Tell whether a file begins like one of the four formats."""
    with open(path, encoding="utf-8", errors="replace") as file:
        head = file.read(1 << 16)
    first, _, rest = head.partition("\n")
    if first == "[" or _JSON_HEAD.fullmatch(first):  # the first files of version 1 are lists
        return _is_answer(rest.partition("\n")[0].strip().removesuffix(","))
    if head == "[]\n" or _JSON_HEAD.fullmatch(first.removesuffix("]}")):
        return True
    return first in (",".join(COLUMNS), ",".join(COLUMNS[:-1])) or _is_answer(first) or _is_table(head)


def _is_answer(line: str) -> bool:
    """Tell whether a line is an answer in JSON."""
    try:
        answer = json.loads(line)
    except ValueError:  # a long answer is cut off where reading stopped
        return re.match(r'\{"source": ".*", "predictions": \[\{"', line) is not None
    return isinstance(answer, dict) and "source" in answer and bool({"predictions", "error"} & set(answer))


def _is_table(head: str) -> bool:
    """Tell whether a table begins with an image's error, or a class whose bar is as long as its percentage says."""
    from resnet_infer.data.formats.suffixes import is_picture, unreadable_format

    first, *lines = head.splitlines()[:2] or [""]
    if lines and lines[0].startswith("  not read: "):
        return first == "stdin" or is_picture(first) or unreadable_format(first) is not None
    found = re.fullmatch(r"  \S.*  +(\d+\.\d)%  (\S+)", lines[0]) if lines else None
    if not found:
        return False
    nearest = [float(found[1]) / 100 + step / 2000 for step in (-1, 0, 1)]
    return found[2] in {bar(value, encoding=encoding) for value in nearest for encoding in ("utf-8", "ascii")}


class _Reporter:
    """Report on stderr: errors at once, a line each, and notes once, at the end."""

    def __init__(self) -> None:
        self.answered = self.unreadable = self.unanswered = 0
        self._noted, self._first_note = 0, ""

    def through(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """Pass `answers` on, while reporting and counting errors."""
        for answer in answers:
            if isinstance(answer.error, AnswerError):
                self.unanswered += 1
                fail(answer.error.message, answer.error.hint if self.unanswered == 1 else None)  # same hint for all
            elif answer.error:
                self.unreadable += 1
                fail(answer.error.message, answer.error.hint)
            if answer.note:
                self._noted += 1
                self._first_note = self._first_note or f"{answer.source}: {answer.note}"
            yield answer
            self.answered += 1

    def note(self) -> None:
        """Report the first note, and how many more images have one."""
        if self._noted:
            note(f"note: {self._first_note}" + f" (and {self._noted - 1} more pictures like it)" * (self._noted > 1))


class _Requested:
    """Iterate over the images of `items`, and keep the places of the errors between them.

    The stream of answers reads the images; `merged` puts answers and errors into the order of `items`.
    """

    def __init__(self, items: Iterator[Picture | Answer]) -> None:
        self._items = items
        self._order: deque[Answer | None] = deque()  # None stands for the next answer of the stream
        self._ahead: list[Picture] = []

    def several(self) -> bool:
        """Tell whether there is more than one image. Reads two."""
        self._ahead = list(islice(self._read(), 2))
        return len(self._ahead) > 1

    def expected(self) -> int | None:
        """Return the number of images, None if there are more than `AHEAD`. Reads so many."""
        self._ahead += islice(self._read(), AHEAD + 1 - len(self._ahead))
        return len(self._ahead) if len(self._ahead) <= AHEAD else None

    def any(self) -> bool:
        """Tell whether there is an image. Call `several` before."""
        return bool(self._ahead)

    def __iter__(self) -> Iterator[Picture]:
        ahead, self._ahead = self._ahead, []
        return chain(iter(ahead), self._read())

    def merged(self, answers: Iterator[Answer]) -> Iterator[Answer]:
        """Yield answers and errors in the order of the items."""
        for answer in answers:
            yield from self._errors()
            self._order.popleft()
            yield answer
        yield from self._errors()

    def _read(self) -> Iterator[Picture]:
        from resnet_infer.classifier import Picture

        for item in self._items:
            self._order.append(None if isinstance(item, Picture) else item)
            if isinstance(item, Picture):
                yield item

    def _errors(self) -> Iterator[Answer]:
        """Yield the errors that come before the next answer."""
        while self._order and (error := self._order[0]) is not None:
            self._order.popleft()
            yield error


@contextmanager
def _watched(answers: Iterator[Answer], inputs: list[str]) -> Iterator[Iterator[Answer]]:
    """Show a progress bar over the answers if stderr is a terminal. The images are counted for it first."""
    from resnet_infer.utils.progress import progress

    total = None
    if is_terminal(sys.stderr):
        from resnet_infer.classifier import Picture
        from resnet_infer.data.walk import Passed

        listed = pictures([name for name in inputs if name != "-"], Passed())
        total = inputs.count("-") + sum(isinstance(item, Picture) for item in listed)
    with progress("classifying", total, "pictures") as advance:

        def counted() -> Iterator[Answer]:
            for answer in answers:
                advance(1)
                yield answer

        yield counted()
