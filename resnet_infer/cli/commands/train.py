"""Implement `resnet-infer train`."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli.parsing import MOST, any_numbers, choice, number, two_numbers
from resnet_infer.cli.parsing import class_order as parse_order
from resnet_infer.utils.console import note, show
from resnet_infer.utils.threads import MOST_THREADS

RUN_FILES = ("last.safetensors", "best.safetensors", "recipe.json", "metrics.csv", "curves.png")
"""Files that a run writes into its folder."""


def train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="CIFAR, ImageNet, Tiny ImageNet, a folder or archive of class folders, or a CSV."
        ),
    ],
    arch: Annotated[
        str | None, typer.Option(metavar="NAME", help="The network: resnet20, plain56, ...; default: the recipe's.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="cifar10-paper, cifar10-short, imagenet-paper, tiny-imagenet or finetune; default: cifar10-paper, and"
            " finetune with --from.",
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Begin with the weights of this checkpoint or model.")
    ] = None,
    freeze: Annotated[
        int | None, typer.Option(min=0, help="Keep the stem and so many stages as they are; 0 trains everything.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Length of the run; the schedule stretches with it.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Length of the run, in passes over the pictures.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", min=1, help="Pictures a step.")] = None,
    peak_rate: Annotated[float | None, typer.Option(help="The highest learning rate.")] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", callback=choice("step", "plateau", "one-cycle", "cosine"), help="How the rate changes."
        ),
    ] = None,
    milestones: Annotated[
        str | None, typer.Option(metavar="N,N", help="Where steps divide the rate by 10: iterations, or shares.")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(min=0, help="Iterations, or the share of the run: at first the rate is lower.")
    ] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Epochs that make a plateau.")] = None,
    momentum: Annotated[float | None, typer.Option()] = None,
    nesterov: Annotated[bool | None, typer.Option("--nesterov/--no-nesterov")] = None,
    weight_decay: Annotated[float | None, typer.Option()] = None,
    decay_all: Annotated[
        bool | None, typer.Option("--decay-all/--decay-weights", help="Decay batch norm and biases too.")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option()] = None,
    augmentation: Annotated[
        str | None,
        typer.Option(metavar="NAME", callback=choice("pad", "scale", "area", "none"), help="How pictures are cropped."),
    ] = None,
    crop: Annotated[int | None, typer.Option(min=1, help="Side of the pictures that the network sees.")] = None,
    resize: Annotated[int | None, typer.Option(min=1, help="Shorter side before the crop of what is measured.")] = None,
    stages: Annotated[
        str | None, typer.Option(metavar="EPOCHS:RESIZE:CROP:RATE,...", help="Parts of the run, each at its size.")
    ] = None,
    pad: Annotated[int | None, typer.Option(min=0, help="Of the augmentation pad: pixels on each side.")] = None,
    scales: Annotated[
        str | None, typer.Option(metavar="MIN,MAX", help="Of the augmentation scale: the shorter sides.")
    ] = None,
    area: Annotated[
        str | None, typer.Option(metavar="MIN,MAX", help="Of the augmentation area: shares of the picture.")
    ] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirror half of the pictures.")] = None,
    colour: Annotated[float | None, typer.Option(min=0, help="Deviation of AlexNet's colour shifts.")] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="NAME", callback=choice("pixel", "channel", "model"), help="What is subtracted."),
    ] = None,
    zero_init: Annotated[
        bool | None, typer.Option("--zero-init/--no-zero-init", help="Every block begins as its shortcut.")
    ] = None,
    validation: Annotated[
        int | None, typer.Option(min=0, help="Training pictures held out to measure by, of each class its share.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the first weights, the split, the order, the crops.")
    ] = None,
    class_order: Annotated[
        str | None,
        typer.Option(metavar="string|natural|FILE", help="What numbers the classes, where their names leave it open."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where to train.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            metavar="auto|fp32|bf16|fp16",
            callback=choice("auto", "fp32", "bf16", "fp16"),
            help="What the passes are computed in; auto: half where the device is faster by it.",
        ),
    ] = "auto",
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile the network; default: on a GPU.")
    ] = None,
    data_in: Annotated[
        str,
        typer.Option(
            metavar="auto|memory|files",
            callback=choice("auto", "memory", "files"),
            help="Keep pictures decoded in memory, or decode them in worker processes.",
        ),
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=0, max=MOST_THREADS, help="Processes that decode; default: one a core.")
    ] = None,
    save_every: Annotated[
        float, typer.Option(min=0, max=MOST, callback=number, help="Seconds between saves inside an epoch.")
    ] = 300.0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the table of epochs for TensorBoard too.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the unfinished run in the folder -o; begin one if there is none."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="The run's folder; default: a new one in runs/, named by the time."
        ),
    ] = None,
) -> None:
    """Train a network. Ctrl-C, SIGTERM and SIGHUP save the run, and exit with 130, 143 and 129.

    The same command with the run's folder as `-o` and `--resume` resumes the run.
    """
    from resnet_infer.errors import UsageError
    from resnet_infer.models.weights.download import library_folder
    from resnet_infer.utils.extras import needs

    # By default torch puts its compiler's cache into a temporary folder named after the user, who may have no name.
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ and (folder := library_folder("torch")):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    with needs("train", "training"):
        import torch  # noqa: F401 (a missing torch is reported before the data is read)
    from resnet_infer import zoo
    from resnet_infer.models.outputs import Output, require_free
    from resnet_infer.training.distributed import join_world
    from resnet_infer.training.input.splits import open_splits
    from resnet_infer.training.loop import signals
    from resnet_infer.training.loop.options import Options
    from resnet_infer.training.loop.records import summary_writer
    from resnet_infer.training.loop.start import choose_architecture
    from resnet_infer.training.loop.state import check_place
    from resnet_infer.training.loop.trainer import Trainer
    from resnet_infer.training.recipes import get_recipe, parse_stages

    if tensorboard:
        summary_writer()
    resolved = get_recipe(
        recipe or ("finetune" if start else "cifar10-paper"),
        fine_tuning=start is not None,
        arch=arch,
        iterations=iterations,
        epochs=epochs,
        batch_size=batch_size,
        peak_rate=peak_rate,
        schedule=schedule,
        milestones=any_numbers(milestones),
        warmup=warmup,
        patience=patience,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        decay_all=decay_all,
        label_smoothing=label_smoothing,
        augmentation=augmentation,
        crop=crop,
        resize=resize,
        stages=parse_stages(stages) if stages else None,
        pad=pad,
        scales=two_numbers(scales, int),
        area=two_numbers(area, float),
        flip=flip,
        colour=colour,
        mean=mean,
        zero_init=zero_init,
        freeze=freeze,
        validation=validation,
        seed=seed,
    )
    if start:
        resolved = replace(resolved, arch=arch)
    if output:
        check_place(output, data)
        require_free([Output("-o", output / name, "run") for name in RUN_FILES], [data, start, class_order])
    if resume and output is None:
        raise UsageError("--resume continues the run in a folder", hint="name the folder with -o")
    if not resume and output and (output / "last.safetensors").exists():
        raise UsageError(
            f"{output} holds a run already", hint="add --resume if it is unfinished, or choose another folder with -o"
        )
    with join_world(device) as world:
        if output is None:
            started = world.any(False, int(time.time()) if world.writes else 0)[1]
            output = Path("runs") / time.strftime("%Y-%m-%d-%H%M%S", time.localtime(started))
            check_place(output, data)
            if world.writes:
                note(f"the run is in {output}; if it is stopped, the same command with -o {output} --resume goes on")
        splits = open_splits(
            data,
            validation=resolved.validation,
            seed=resolved.seed,
            class_order=parse_order(class_order, "string", "natural"),
        )
        checkpoint = zoo.checkpoint(start) if start else None
        trainer = Trainer(
            choose_architecture(resolved, checkpoint, len(splits.train.classes)),
            resolved,
            splits,
            output,
            start=checkpoint,
            options=Options(
                precision,
                compiled,
                data_in,  # type: ignore[arg-type]  # checked by the option
                workers,
                save_every,
                tensorboard,
                stop_within=signals.WITHIN,
            ),
            world=world,
            log=note,
        )
        spec = trainer.run()
    if world.writes:
        for item in spec.measured:
            low, high = item.top1_interval
            show(
                f"{trainer.run_folder.best}  error {item.top1_error:.2f}% ({low:.2f}-{high:.2f}) on {item.dataset}, "
                f"{item.pictures} pictures"
            )
