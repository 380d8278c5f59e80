"""What a trained network saves: a few pictures of each class, learnt from its weights and from scratch.

    python experiments/fine_tuning.py MODEL DATA [--per-class 100] [--epochs 10] [-o fine-tuning]

DATA has `train/` and `test/` with a folder for each class. MODEL is a checkpoint or a name. Both runs see the same
pictures, enlarged to MODEL's size, in as many steps: one by the recipe finetune, the other by tiny-imagenet's, in one
stage. Both are measured on all of `test/`. A run that was interrupted goes on; `results.md` is written at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from resnet_infer import zoo
from resnet_infer.data.image import SUFFIXES
from resnet_infer.files import atomic_path
from resnet_infer.metrics import interval
from resnet_infer.models.checkpoint import SUFFIX, load_checkpoint
from resnet_infer.models.spec import Measured

SCRATCH_RATE = 0.05
BATCH = "32"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--per-class", metavar="N", type=int, default=100)
    parser.add_argument("--epochs", metavar="N", type=int, default=10)
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, default=Path("fine-tuning"))
    options = parser.parse_args()
    given = zoo.checkpoint(options.model).spec
    data = subset(options.data, options.per_class, options.output / "data")
    geometry = given.input
    size = ["--resize", str(geometry.resize), "--crop", str(geometry.crop), "--epochs", str(options.epochs)]
    stage = f"{options.epochs}:{geometry.resize}:{geometry.crop}:{SCRATCH_RATE}"
    if given.architecture is None:
        parser.error(f"{options.model} has no architecture to train from scratch")
    runs = {
        f"from `{given.name}`": ("tuned", ["--from", options.model, *size]),
        "from scratch": (
            "scratch",
            ["--recipe", "tiny-imagenet", "--arch", given.architecture.name, "--stages", stage],
        ),
    }
    lines = [
        f"{options.per_class} pictures of each class of {options.data.name}, {options.epochs} passes:",
        "",
        "| | top-1 error, % | 95% | of pictures |",
        "|---|---:|---|---:|",
    ]
    for title, (folder, arguments) in runs.items():
        found = train(data, options.output / folder, ["--batch-size", BATCH, *arguments])
        low, high = interval(round(found.top1_error * found.pictures / 100), found.pictures)
        cells = [title, f"{found.top1_error:.2f}", f"{low:.2f}-{high:.2f}", f"{found.pictures:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines)
    with atomic_path(options.output / "results.md") as path:
        path.write_text(f"{text}\n", encoding="utf-8")
    print(text)


def subset(data: Path, count: int, folder: Path) -> Path:
    """`data` with `count` pictures of each class to train on, evenly spread over those there are; made of links."""
    for split in ("train", "test"):
        for source in sorted(path for path in (data / split).iterdir() if path.is_dir()):
            pictures = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
            if split == "train":
                pictures = pictures[:: max(len(pictures) // count, 1)][:count]
            target = folder / split / source.name
            target.mkdir(parents=True, exist_ok=True)
            for picture in pictures:
                link = target / picture.name
                if not link.exists():
                    os.symlink(picture.resolve(), link)
    return folder


def train(data: Path, output: Path, arguments: Sequence[str]) -> Measured:
    """Train in a process of its own, going on with what there is; the error on the test set."""
    command = [sys.executable, "-m", "resnet_infer", "train", str(data), "-o", str(output), "--validation", "0"]
    subprocess.run([*command, *arguments], check=True)
    (found,) = load_checkpoint(output / f"best{SUFFIX}").spec.measured
    return found


if __name__ == "__main__":
    main()
