"""The loops that `benchmarks.training` times, each in a process of its own."""

from __future__ import annotations

import csv
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnet_infer.models.architectures import architecture
from resnet_infer.models.network import ResNet
from resnet_infer.training.distributed import join_world
from resnet_infer.training.input.splits import Splits, open_splits
from resnet_infer.training.loop.options import Options
from resnet_infer.training.loop.trainer import Trainer
from resnet_infer.training.recipes import Stage, get_recipe
from resnet_infer.utils.cpu import usable_cores

BATCH = 128
WARM_UP = 20
"""Steps that are not counted."""
MEAN, STD = (torch.tensor(value).view(3, 1, 1) for value in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
PAD = 4


class Pictures(Dataset[tuple[Tensor, int]]):
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
        pictures,
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
