"""The paper's CIFAR-10 experiment (section 4.2): its networks by its recipe, and the errors beside the paper's.

    python -m experiments.cifar10 DATA [-o runs/cifar10] [--networks plain20 resnet20 ...] [-- OPTIONS OF train]

DATA is whatever `resnet-infer train` takes. The networks are trained one after the other, each in a folder of its own
in the output folder; beside them lie `results.md` and `degradation.png`, written anew after every network. Started
again, it skips what is finished and goes on with what is not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.training_runs import is_finished, train
from resnet_infer.errors import MissingExtraError, ResnetInferError, UsageError
from resnet_infer.models.architectures import Architecture, architecture, count_parameters
from resnet_infer.models.checkpoint import load_checkpoint
from resnet_infer.training.curves import Run, draw_panels, read_run
from resnet_infer.utils.console import fail, note, on_stderr
from resnet_infer.utils.files import atomic_path

RECIPE = "cifar10-paper"
NETWORKS = ("plain20", "plain56", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
SHORTENED = ("plain20", "plain56", "resnet20", "resnet56")
SHORTENED_EPOCHS = 4
SHORTENED_SCHEDULE = ("--schedule", "one-cycle", "--warmup", 0.25)
"""At the paper's constant rate a deep network only starts to converge after several epochs (footnote 5): a run of a few
epochs would show that start, and nothing of depth."""
ITERATIONS = 64_000
STEPS_PER_EPOCH = 45_000 // 128
PAPER = {"resnet20": 8.75, "resnet32": 7.51, "resnet44": 7.17, "resnet56": 6.97, "resnet110": 6.43}
"""Test error in percent (table 6); resnet110 is the best of five runs."""
NOTES = """\
Training error is that of the last epoch, on augmented images. Test error is that of the weights with the lowest
validation error, measured once.
The paper trained on the original images; on a copy of CIFAR-10 stored as JPEG the error is 2 to 3 points higher. The
paper shows its plain networks as curves only, and its resnet110 is the best of five runs.
"""
SHORTENED_NOTE = """\
Shortened: a few epochs, in which the learning rate rises and falls linearly. It shows the effect of depth on plain and
residual networks, not the errors of full training.
"""


@on_stderr()
def main(arguments: Sequence[str]) -> int:
    """Train what is left to train; returns the exit code."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = _parser().parse_args(arguments[:split])
    networks = options.networks or (SHORTENED if options.shortened else NETWORKS)
    epochs = SHORTENED_EPOCHS if options.shortened else options.epochs
    iterations = options.iterations or (epochs or 0) * STEPS_PER_EPOCH or ITERATIONS
    try:
        for name in networks:
            architecture(name)  # a wrong name is told now and not after hours
        left = [name for name in networks if not _finished(options.output / name, iterations)]
        for name in left:
            note(f"{name}: {iterations:,} iterations")
            command = [options.data, "--arch", name, "--recipe", RECIPE, "--iterations", iterations]
            command += SHORTENED_SCHEDULE if options.shortened else ()
            code = train([*command, "-o", options.output / name, "--resume", *arguments[split + 1 :]])
            if code:
                note(f"{name} is not finished; the same command goes on with it")
                return code
            _report(options.output)
        _report(options.output)
    except ResnetInferError as error:
        fail(error.message, error.hint)
        return error.exit_code
    print((options.output / "results.md").read_text(encoding="utf-8"), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train the paper's CIFAR-10 networks with its recipe and set the errors beside the paper's.",
        epilog="What follows -- goes to `resnet-infer train` as it is.",
    )
    parser.add_argument("data", metavar="DATA", type=Path, help="CIFAR-10 in any form that `resnet-infer train` takes")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--networks", metavar="NAME", nargs="+", help=f"default: {' '.join(NETWORKS)}")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", metavar="N", type=_count, help=f"of {STEPS_PER_EPOCH} iterations")
    length.add_argument(
        "--iterations", metavar="N", type=_count, help=f"the schedule stretches with it; default: {ITERATIONS:,}"
    )
    length.add_argument(
        "--shortened",
        action="store_true",
        help=f"{SHORTENED_EPOCHS} epochs of {', '.join(SHORTENED)}, for a CPU; the rate rises and falls linearly",
    )
    return parser


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("it is at least 1")
    return number


def _finished(folder: Path, iterations: int) -> bool:
    """Whether the run was trained to its end and tested. Raises `UsageError` if it is one of another length."""
    if not (folder / "last.safetensors").exists():
        return False
    begun_for = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["iterations"]
    if begun_for != iterations:
        raise UsageError(
            f"{folder} holds a run of {begun_for:,} iterations, not {iterations:,}",
            hint="choose another folder with -o",
        )
    return is_finished(folder)


def _report(output: Path) -> None:
    """Write `results.md` and `degradation.png` of all runs in the folder."""
    found = []
    for checkpoint in output.glob("*/last.safetensors"):
        arch = load_checkpoint(checkpoint).spec.architecture
        assert arch is not None
        found.append((arch, read_run(checkpoint.parent)))
    found.sort(key=lambda item: (not item[0].plain, item[0].depth))
    text = ["# CIFAR-10 with the recipe of the paper", "", *_table(found), "", NOTES]
    if any(run.iterations[-1] < ITERATIONS for _, run in found):
        text.append(SHORTENED_NOTE)
    text += [f"{line}\n" for line in _degradation(found)]
    depths = {arch.depth for arch, _ in found if arch.plain}
    # The twin of a plain network comes at its place, because place gives colour.
    residual = sorted((arch.depth not in depths, arch.depth, i) for i, (arch, _) in enumerate(found) if not arch.plain)
    panels = {
        "plain networks": [run for arch, run in found if arch.plain],
        "residual networks": [found[index][1] for _, _, index in residual],
    }
    try:
        draw_panels({title: runs for title, runs in panels.items() if runs}, output / "degradation.png")
        text.append("![Error against iteration: training error dashed, validation error bold](degradation.png)\n")
    except MissingExtraError as error:
        note(f"no picture: {error.message}; {error.hint}")
    with atomic_path(output / "results.md") as path:
        path.write_text("\n".join(text), encoding="utf-8")


def _table(found: Sequence[tuple[Architecture, Run]]) -> list[str]:
    header = (
        *("network", "parameters", "iterations"),
        *("training error, %", "best validation error, %", "test error, %", "the paper's test error, %"),
    )
    rows = [
        (
            *(
                arch.name,
                f"{count_parameters(arch) / 1e6:.2f} M",
                f"{run.iterations[-1]:,}",
                f"{run.train_error[-1]:.2f}",
            ),
            _percent(min((error for _, error in run.validated), default=None)),
            *(_percent(run.test_error), _percent(PAPER.get(arch.name))),
        )
        for arch, run in found
    ]
    return ["| " + " | ".join(row) + " |" for row in (header, ("---",) + ("---:",) * (len(header) - 1), *rows)]


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:.2f}"


def _degradation(found: Sequence[tuple[Architecture, Run]]) -> list[str]:
    """What depth does to the training error, said of the shallowest and the deepest network of each kind."""
    lines = []
    for plain in (True, False):
        group = [(arch, run) for arch, run in found if arch.plain == plain]
        if len(group) > 1:
            (shallow, first), (deep, last) = group[0], group[-1]
            more = last.train_error[-1] - first.train_error[-1]
            lines.append(f"Training error of {deep.name} minus that of {shallow.name}: {more:+.2f} points.")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
