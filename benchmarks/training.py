"""Pictures a second of `train` against the loop that people write: resnet20 on CIFAR-10 in batches of 128.

    python benchmarks/training.py DATA [--steps N] [--rounds N]

DATA is CIFAR-10 in any form that `train` takes. Measured are the steps from end to end, data path and augmentation
included, once the first `WARM_UP` are done; not the start, and not what follows an epoch. Three ways, in turn, each in
a process of its own with the pictures decoded in memory:

- the trainer as `train` sets it up on this device;
- the trainer in float32 and not compiled, which is what the data path alone brings;
- a plain loop: a DataLoader with worker processes, PIL and a tensor for every picture, eager float32.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from paired import PYTHON, each, save
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader

from resnet_infer.models.architectures import architecture
from resnet_infer.models.network import ResNet
from resnet_infer.training.device import choose_precision, describe
from resnet_infer.training.distributed import join_world
from resnet_infer.training.input.splits import Splits, open_splits
from resnet_infer.training.loop.options import Options
from resnet_infer.training.loop.trainer import Trainer
from resnet_infer.training.recipes import Stage, get_recipe
from resnet_infer.utils.cpu import usable_cores

BATCH = 128
WARM_UP = 20
"""Steps that are not counted."""
WAYS = {"train": Options(), "train, eager fp32": Options(precision="fp32", compile=False), "plain loop": None}
MEAN, STD = (torch.tensor(value).view(3, 1, 1) for value in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
PAD = 4


class Pictures:
    """What the plain loop takes its pictures from: pad, crop, flip, to tensor, normalise, one by one."""

    def __init__(self, images: NDArray[np.uint8], labels: list[int]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = ImageOps.expand(Image.fromarray(self.images[index]), PAD)
        left, top = random.randint(0, 2 * PAD), random.randint(0, 2 * PAD)
        picture = picture.crop((left, top, left + 32, top + 32))
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
        return pixels.sub_(MEAN).div_(STD), self.labels[index]


def plain_loop(data: Path, steps: int) -> float:
    """Pictures a second."""
    samples = open_splits(data, validation=0).train.samples
    pictures = Pictures(np.stack([np.asarray(s.image()) for s in samples]), [s.label for s in samples])
    with join_world() as world:
        device = world.device
    cuda = device.type == "cuda"
    loader: DataLoader[Any] = DataLoader(
        pictures,  # type: ignore[arg-type]
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=max(2, usable_cores()),
        pin_memory=cuda,
    )
    model = ResNet(architecture("resnet20")).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    criterion = torch.nn.CrossEntropyLoss()
    model.train()
    start = running_loss = 0.0
    for step, (images, labels) in enumerate(endless(loader)):
        if step == WARM_UP:
            start = time.perf_counter()
        images, labels = images.to(device, non_blocking=cuda), labels.to(device, non_blocking=cuda)
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()  # waits for the device
        if step == WARM_UP + steps - 1:
            break
    return BATCH * steps / (time.perf_counter() - start)


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def trainer(data: Path, steps: int, options: Options) -> float:
    """Pictures a second. The warm-up is a stage of its own, so that it has its own row in the run's table."""
    train = open_splits(data, validation=0).train
    stages = (Stage(WARM_UP, 32, 32, 0.1), Stage(steps, 32, 32, 0.1))
    recipe = get_recipe("cifar10-paper", iterations=WARM_UP + steps, stages=stages, batch_size=BATCH, validation=0)
    with join_world() as world, tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        Trainer(architecture("resnet20"), recipe, Splits(train, None, None), run, options=options, world=world).run()
        with open(run / "metrics.csv", newline="") as file:
            rows = [(int(row["iteration"]), float(row["pictures_per_s"])) for row in csv.DictReader(file)]
    seconds, before = 0.0, WARM_UP
    for iteration, rate in rows[1:]:
        seconds, before = seconds + (iteration - before) / rate, iteration
    return steps / seconds


def decoded(source: Path, folder: Path) -> None:
    """Write the training split of `source` as CIFAR-10's binary version, which needs no decoding."""
    train = open_splits(source, validation=0).train
    images = np.stack([np.asarray(sample.image()) for sample in train.samples])
    if images.shape[1:] != (32, 32, 3) or len(train.classes) != 10:
        sys.exit(f"{source} is not CIFAR-10")
    labels = np.array([[sample.label] for sample in train.samples], np.uint8)
    records = np.hstack([labels, images.transpose(0, 3, 1, 2).reshape(len(images), -1)])
    (folder / "batches.meta.txt").write_text("\n".join(train.classes))
    for number, part in enumerate(np.array_split(records, 5), 1):
        (folder / f"data_batch_{number}.bin").write_bytes(part.tobytes())


def measure(way: str, data: Path, steps: int) -> float:
    """In a process of its own."""
    command = [PYTHON, __file__, str(data), "--steps", str(steps), "--way", way]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    rate = float(json.loads(done.stdout.splitlines()[-1]))
    print(f"{way}: {rate:.0f} pictures/s", file=sys.stderr, flush=True)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the trainer's steps against a plain loop.")
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--steps", type=int, help="steps that are counted; default: 100, on a GPU 1,500")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with join_world() as world:
        device = world.device
    steps = arguments.steps or (1500 if device.type == "cuda" else 100)
    if arguments.way:
        options = WAYS[arguments.way]
        print(trainer(arguments.data, steps, options) if options else plain_loop(arguments.data, steps))
        return
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        decoded(arguments.data, Path(folder))
        for number in range(arguments.rounds):
            first = number % len(WAYS)
            for way in [*WAYS][first:] + [*WAYS][:first]:
                rates[way].append(measure(way, Path(folder), steps))
    ours, eager, plain = rates.values()
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    ratio, gate = statistics.median(ratios), 10 if device.type == "cuda" else 1.35
    result = {
        "device": describe(device),
        "torch": torch.__version__,
        "precision of train": choose_precision("auto", device),
        "workers of the plain loop": max(2, usable_cores()),
        "batch": BATCH,
        "steps": steps,
        "rounds": arguments.rounds,
        "pictures_per_s": {way: round(statistics.median(values)) for way, values in rates.items()},
        "by_round": {way: each(values) for way, values in rates.items()},
        "train / plain loop": round(ratio, 2),
        "train, eager fp32 / plain loop": round(statistics.median(a / b for a, b in zip(eager, plain, strict=True)), 2),
    }
    save("training", result, {f"train / plain loop >= {gate}": ratio >= gate})


if __name__ == "__main__":
    main()
