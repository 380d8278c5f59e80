"""What a trained network saves: a few pictures of each class, learnt from its weights and from scratch.

    python -m experiments.fine_tuning MODEL DATA [--per-class 100] [--epochs 20] [-o runs/fine-tuning]

DATA has `train/` and `test/` with a folder for each class. MODEL is a checkpoint or a name. All runs see the same
pictures, enlarged to MODEL's size, in as many steps: one from MODEL by the recipe finetune; from scratch, because no
one rate would be fair, one for each of `SCRATCH_RATES` by tiny-imagenet's, in one stage. All are measured on the whole
of `test/`, and the best of those from scratch is compared. A run that was interrupted goes on; `results.md` is written
at the end. The exit code is 1 if the tuned network is not at least `MARGIN` points better.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.training_runs import is_finished, train
from resnet_infer import zoo
from resnet_infer.data.image import SUFFIXES
from resnet_infer.models.checkpoint import SUFFIX, load_checkpoint
from resnet_infer.models.spec import Measured
from resnet_infer.utils.cpu import processor
from resnet_infer.utils.error_statistics import interval
from resnet_infer.utils.files import atomic_path

SCRATCH_RATES = (0.02, 0.05, 0.1)
BATCH = 32
MARGIN = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--per-class", metavar="N", type=int, default=100)
    parser.add_argument("--epochs", metavar="N", type=int, default=20)
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, default=Path("runs/fine-tuning"))
    options = parser.parse_args()
    given = zoo.checkpoint(options.model).spec
    if given.architecture is None:
        parser.error(f"{options.model} has no architecture to train from scratch")
    data = subset(options.data, options.per_class, options.output / "data")
    resize, crop, epochs = given.input.resize, given.input.crop, options.epochs
    tuned = ["--from", options.model, "--resize", resize, "--crop", crop, "--epochs", epochs]
    scratch = ["--recipe", "tiny-imagenet", "--arch", given.architecture.name, "--stages"]
    runs = {f"from `{given.name}`": ("tuned", tuned)} | {
        f"from scratch, rate {rate}": (f"scratch-{rate}", [*scratch, f"{epochs}:{resize}:{crop}:{rate}"])
        for rate in SCRATCH_RATES
    }
    found: dict[str, Measured] = {}
    steps = 0
    for title, (name, arguments) in runs.items():
        folder = options.output / name
        if not is_finished(folder):
            code = train([data, "-o", folder, "--resume", "--validation", 0, "--batch-size", BATCH, *arguments])
            if code:
                return code
        spec = load_checkpoint(folder / f"best{SUFFIX}").spec
        steps, (found[title],) = spec.provenance["iterations"], spec.measured
    text = "\n".join(lines(found, steps, options.per_class, options.data.name))
    with atomic_path(options.output / "results.md") as path:
        path.write_text(f"{text}\n", encoding="utf-8")
    print(text)
    tuned_error, *others = (item.top1_error for item in found.values())
    return int(min(others) - tuned_error < MARGIN)


def lines(found: dict[str, Measured], steps: int, per_class: int, data: str) -> Iterator[str]:
    """Markdown."""
    yield f"{per_class} images of each class of {data}, {steps:,} steps of {BATCH} images, seed 0"
    yield f"({processor()}, {time.strftime('%Y-%m-%d', time.gmtime())}); the error is of the whole test set:\n"
    yield "| | top-1 error, % | 95% |"
    yield "|---|---:|---|"
    for title, item in found.items():
        low, high = interval(round(item.top1_error * item.pictures / 100), item.pictures)
        yield f"| {title} | {item.top1_error:.2f} | {low:.2f}-{high:.2f} |"
    tuned, *others = (item.top1_error for item in found.values())
    yield (
        f"\nThe weights lower the error by {min(others) - tuned:.2f} points, compared with the best learning rate from "
        "scratch."
    )


def subset(data: Path, count: int, folder: Path) -> Path:
    """`data` with `count` pictures of each class to train on, evenly spread over those there are; made of links."""
    asked = json.dumps([str(data.resolve()), count])
    note = folder.with_suffix(".json")
    if note.exists() and note.read_text(encoding="utf-8") == asked:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for split in ("train", "test"):
        for source in sorted(path for path in (data / split).iterdir() if path.is_dir()):
            pictures = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
            if split == "train":
                pictures = pictures[:: max(len(pictures) // count, 1)][:count]
            target = folder / split / source.name
            target.mkdir(parents=True)
            for picture in pictures:
                os.symlink(picture.resolve(), target / picture.name)
    note.write_text(asked, encoding="utf-8")
    return folder


if __name__ == "__main__":
    sys.exit(main())
