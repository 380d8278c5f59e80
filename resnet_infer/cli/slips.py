"""Explain usual slips: names of commands and options that other tools have and this one has not.

It is imported only after a usage error.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any

from resnet_infer.runtimes.registry import SUFFIXES
from resnet_infer.utils.console import printable
from resnet_infer.utils.files import suffix_of

Examples = Callable[[str], Sequence[str]]
"""Function that returns the example command lines of a command."""

COMMANDS = {
    **dict.fromkeys(("predict", "infer", "inference", "label", "recognise", "recognize", "run"), "classify"),
    **dict.fromkeys(("val", "validate", "valid", "test", "eval", "accuracy", "score"), "evaluate"),
    **dict.fromkeys(("quantize", "quantise", "convert", "compile", "optimize", "optimise", "build"), "export"),
    **dict.fromkeys(("bench", "perf", "profile", "latency", "speed", "tune", "loadtest"), "benchmark"),
    **dict.fromkeys(("info", "show", "describe", "summary"), "inspect"),
    **dict.fromkeys(("list", "ls", "model", "zoo"), "models"),
    **dict.fromkeys(("doctor", "check", "version", "versions", "system", "diagnose"), "env"),
    **dict.fromkeys(("server", "deploy", "api", "start", "web"), "serve"),
    **dict.fromkeys(("fit", "finetune", "fine-tune", "learn", "resume"), "train"),
    **dict.fromkeys(("plot", "curve", "history"), "curves"),
    **dict.fromkeys(("diff", "parity", "verify", "prove"), "compare"),
    **dict.fromkeys(("load", "adopt"), "import"),
    **dict.fromkeys(("clean", "clear", "purge"), "cache"),
}
"""Name that other tools have for a command, or a word for what it does -> the command here."""
NOTES = {
    "version": "the version alone is printed by resnet-infer --version",
    "clean": "resnet-infer cache clear",
    "clear": "resnet-infer cache clear",
    "purge": "resnet-infer cache clear",
}
"""Name of `COMMANDS` -> what else is to be said about it."""
NEEDLESS = dict.fromkeys(("download", "pull", "fetch"), "a model is downloaded when it is first used")
"""Name that other tools have for a command -> why none is needed here."""
SHOWN_BY = dict.fromkeys(("quantize", "quantise"), "--precision int8")
"""Name of `COMMANDS` -> part of the example that shows what is meant; for others the first example is shown."""

OPTIONS = {
    **dict.fromkeys(("--batch", "--batchsize", "--bs", "--batch-sizes"), "--batch-size"),
    **dict.fromkeys(("--output-file", "--out", "--save", "--outfile", "--output-dir", "--dest"), "--output"),
    **dict.fromkeys(("--topk", "--top", "--top-n", "--topn", "--top5"), "--top-k"),
    **dict.fromkeys(("--fp16", "--half", "--float16"), "--precision fp16"),
    **dict.fromkeys(("--fp32", "--float32"), "--precision fp32"),
    **dict.fromkeys(("--int8", "--quantize", "--quantise"), "--precision int8"),
    "--bf16": "--precision bf16",
    "--amp": "--precision auto",
    **dict.fromkeys(("--gpu", "--cuda", "--gpus", "--gpu-id"), "--device cuda"),
    **dict.fromkeys(("--cpu", "--no-cuda"), "--device cpu"),
    **dict.fromkeys(("--imgsz", "--img-size", "--image-size", "--input-size", "--size", "--img"), "--crop"),
    **dict.fromkeys(("--weights", "--checkpoint", "--ckpt", "--model-path", "--network", "--model-name"), "--model"),
    **dict.fromkeys(("--input", "--inputs", "--source", "--image", "--images", "--file"), "INPUT"),
    **dict.fromkeys(("--dataset", "--data-dir", "--data-path", "--root"), "--data"),
    **dict.fromkeys(("--lr", "--learning-rate", "--lr0"), "--peak-rate"),
    **dict.fromkeys(("--pretrained", "--init"), "--from"),
    **dict.fromkeys(("--num-workers", "--jobs", "-j"), "--workers"),
    **dict.fromkeys(("--num-threads", "--cores"), "--threads"),
    **dict.fromkeys(("--calibration", "--calib", "--calib-data"), "--calibration-data"),
    **dict.fromkeys(("--classes", "--class-names", "--names"), "--labels"),
    **dict.fromkeys(("--backend", "--provider", "--engine"), "--runtime"),
    **dict.fromkeys(("--tta", "--augment", "--ten-crop"), "--crops 10"),
    **dict.fromkeys(("--type", "--to"), "--format"),
    "--name": "--arch",
    "--wd": "--weight-decay",
    "--iters": "--iterations",
    "--continue": "--resume",
    "-V": "--version",
    "-i": "INPUT",
}
"""Option that other tools have -> the one here, with its value if that follows from the name."""
LETTERS = {"-m": "--model", "-p": "--precision", "-o": "--output", "-f": "--format", "-b": "--batch-size"}
"""Letter that is an option in several commands -> the name of the option, for commands without it."""
ELSEWHERE = {
    "--precision": "the precision of a model is chosen when it is exported: resnet-infer export MODEL {given}",
    "--crop": "the size of the images is part of the model: train and import have --resize and --crop",
    "--labels": "the names of the classes are part of the model: import has --labels",
    "--output": "this command has no result to write",
    "--format": "the form of the result is chosen by the suffix of --output",
    "--runtime": "export and train choose by the format and the device",
    "--opset": "the opset of ONNX graphs is fixed",
    **dict.fromkeys(
        ("--conf", "--confidence", "--threshold"),
        "every class is shown with its probability, and none is left out by a threshold",
    ),
}
"""Option here -> what to do in a command that has not got it. `{given}` stands for the option with its value."""
ARGUMENTS = {
    "--model": ("MODEL", "[MODEL]", "[MODEL]...", "[MODEL]... DATA"),
    "--data": ("DATA", "[DATA]", "[MODEL]... DATA"),
    "INPUT": ("INPUT...",),
}
"""Option -> names of the arguments that take its value in other commands."""
EXTRA = {
    "train": "train takes DATA alone: the network is named with --arch, the weights to begin with by --from",
    "serve": "serve takes one MODEL; more of them are served by more processes, each on a --port of its own",
    "import": "import takes one file",
    "inspect": "inspect takes one MODEL",
    "export": "export takes one MODEL; the file to write is named with --output",
    "compare": "compare takes MODEL, REFERENCE and DATA; evaluate measures any number of models",
    "models": "models takes one NAME",
}
"""Command -> what it takes, for a call with more arguments."""


def wrong_command(name: str, known: Iterable[str], examples: Examples) -> str:
    """Return the message for a command that does not exist: which one does that, or has a similar name.

    >>> wrong_command("predict", ["classify"], lambda command: [f"resnet-infer {command} photo.jpg"])
    "there is no command 'predict'; classify does that, e.g. resnet-infer classify photo.jpg"
    """
    small = name.lower().replace("_", "-")
    known = list(known)
    meant = small if small in known else COMMANDS.get(small)
    if small == "help":
        return "there is no command 'help'; resnet-infer --help lists the commands"
    if small in NEEDLESS:
        return f"there is no command {name!r}, and none is needed: {NEEDLESS[small]}"
    if meant in known:
        said = f"there is no command {name!r}; {meant} does that"
        if small in NOTES:
            return f"{said}; {NOTES[small]}"
        fitting = [line for line in examples(str(meant)) if SHOWN_BY.get(small, "") in line]
        return said + "".join(f", e.g. {line}" for line in fitting[:1])
    if is_file_or_address(name):
        verb, command = ("look into", "inspect") if suffix_of(Path(name)) in SUFFIXES else ("classify", "classify")
        return f"{printable(name)} is no command; to {verb} it: resnet-infer {command} {shlex.quote(name)}"
    close = get_close_matches(small, known, n=1)
    if close:
        return f"there is no command {name!r}; did you mean {close[0]}?"
    return f"there is no command {name!r}; there are {', '.join(known)}"


def is_file_or_address(name: str) -> bool:
    """Return whether a word in the place of a command is a path or an address.

    >>> is_file_or_address("photo.jpg"), is_file_or_address("predict")
    (True, False)
    """
    return any(mark in name for mark in "./\\*") or os.path.exists(name)


def explain(error: Any, examples: Examples) -> None:
    """Replace the message of a usage error about an option or an argument by one that says what to type instead.

    `error` is an exception of click with its context. Errors that are no usual slip are left as they are.
    """
    context = getattr(error, "ctx", None)
    command = getattr(context, "command", None)
    if command is None:
        return
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities"):
        error.message, error.possibilities = _instead(str(option), command, examples), None
    elif getattr(error, "param_type", None) is None and type(error).__name__ == "MissingParameter":
        if error.param is not None and error.param.param_type_name == "argument":
            error.message = "".join(f"For example: {line}" for line in examples(command.name or "")[:1])
    elif "unexpected extra argument" in str(getattr(error, "message", "")) and command.name in EXTRA:
        given = str(error.message).rpartition("(")[2].rstrip(")")
        error.message = f"there is an argument too many, {given}: {EXTRA[command.name]}"


def _instead(option: str, command: Any, examples: Examples) -> str:
    """Return what to type instead of an option that the command has not got."""
    own = _spellings(command)
    small = option if len(option) == 2 else option.lower().replace("_", "-")
    if hasattr(command, "list_commands"):
        close = [OPTIONS.get(small, "")] if OPTIONS.get(small) in own else _similar(small, own)
        if close:
            return f"resnet-infer has no option {option}; did you mean {close[0]}?"
        return f"{option} is no option of resnet-infer itself; the options of a command follow its name"
    meant = OPTIONS.get(small) or LETTERS.get(small, small)
    if meant == "--precision bf16" and "--compute" in own:
        meant = "--compute bf16"
    name = meant.partition(" ")[0]
    start = f"{command.name} has no option {option}"
    for other in ("--protocol", "--port") if option == "-p" else ():
        if other in own:
            return f"{start}; it has {other}"
    if name in own and name != option:
        return f"{start}; it has {meant}"
    for item in command.params:
        if item.param_type_name == "argument" and (shown := _shown(item)) in ARGUMENTS.get(name, ()):
            line = next(iter(examples(command.name or "")), "")
            return f"{start}: {_word(name)} is an argument, {shown}" + (f", e.g. {line}" if line else "")
    if name == "--model" and "--arch" in own:
        return f"{start}; it has --arch NAME" + (" and --from MODEL" if "--from" in own else "")
    if name in ELSEWHERE:
        return f"{start}; {ELSEWHERE[name].format(given=meant)}"
    if close := _similar(small, own):
        return f"{start}; did you mean {close[0]}?"
    return f"{start}; resnet-infer {command.name} --help lists its options"


def _similar(option: str, known: Iterable[str]) -> list[str]:
    """Return the known option most like `option`, if there is one. Their hyphens do not count."""
    names = [spelling.removeprefix("--") for spelling in known if spelling.startswith("--")]
    return [f"--{name}" for name in get_close_matches(option.lstrip("-"), names, n=1)]


def _spellings(command: Any) -> dict[str, Any]:
    """Return every spelling of an option of a command, with its parameter."""
    return {spelling: item for item in command.params for spelling in (*item.opts, *item.secondary_opts)}


def wrong_form(command: Any, words: Sequence[str]) -> str | None:
    """Return the message for words that are written as other tools take them, or None.

    Those are NAME=VALUE in place of options, and the values of a list without commas between them.
    """
    own = _spellings(command)
    for place, word in enumerate(words):
        item = own.get(word)
        if item is not None and ",..." in str(item.metavar):
            values = list(takewhile(lambda text: text[:1].isdigit() and not os.path.exists(text), words[place + 1 :]))
            if len(values) > 1:
                return f"several values of {word} are written with commas: {word} {','.join(values)}"
    typed, changed = list(words), False
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        option = f"--{name}"
        meant = option if option in own else OPTIONS.get(option, option).partition(" ")[0]
        known = meant in own or meant in ARGUMENTS
        if (
            value
            and known
            and word[0] != "-"
            and (not place or words[place - 1][0] != "-")
            and not os.path.exists(word)
        ):
            letter = min(own[meant].opts, key=len) if meant in own else ""
            typed[place] = " ".join(filter(None, (letter, shlex.quote(value))))
            changed = True
        else:
            typed[place] = shlex.quote(word)
    return f"arguments are not NAME=VALUE here: resnet-infer {command.name} {' '.join(typed)}" if changed else None


def _shown(argument: Any) -> str:
    """Return the name of an argument as the help shows it."""
    return str(argument.metavar or argument.human_readable_name)


def _word(option: str) -> str:
    """Return what an option names, in words."""
    return {"--model": "the model", "--data": "the data", "INPUT": "what to classify"}[option]
