"""Implement `resnet-infer train`."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli.parsing import MOST, any_numbers, choice, device_name, number, two_numbers
from resnet_infer.cli.parsing import class_order as parse_order
from resnet_infer.utils.console import note, show
from resnet_infer.utils.threads import MOST_THREADS

EXAMPLES = ("train cifar-10-batches-py.tar.gz", "train flowers/ --from resnet50 --output runs/flowers")
"""Command lines that the help ends with."""
RUN_FILES = ("last.safetensors", "best.safetensors", "recipe.json", "metrics.csv", "curves.png")
"""Files that a run writes into its folder."""


def train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled images: CIFAR, ImageNet, Tiny ImageNet, a folder or archive with a folder of images for "
            "each class, or a CSV with the columns path and label.",
        ),
    ],
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The network, e.g. resnet20, resnet50, plain56; default: that of the recipe."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Defaults for all settings: cifar10-paper, cifar10-short, imagenet-paper, tiny-imagenet or finetune; "
            "default: finetune with --from, else cifar10-paper.",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="Fine-tune: begin with the weights of this checkpoint or named model."
        ),
    ] = None,
    freeze: Annotated[
        int | None, typer.Option(min=0, help="Do not train the stem and the first N stages; 0 trains everything.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Number of training steps; the schedule is scaled to it.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Number of passes over the training images, in place of --iterations.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", min=1, help="Images in a training step.")
    ] = None,
    peak_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            metavar="step|plateau|one-cycle|cosine",
            callback=choice("step", "plateau", "one-cycle", "cosine"),
            help="How the learning rate changes.",
        ),
    ] = None,
    milestones: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="For --schedule step: where the rate is divided by 10, as iterations or as shares of the run.",
        ),
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(min=0, help="Length of the warm-up with a lower rate: iterations, or a share of the run."),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="For --schedule plateau: epochs without improvement before the rate drops."),
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of SGD.")] = None,
    nesterov: Annotated[bool | None, typer.Option("--nesterov/--no-nesterov", help="Nesterov's momentum.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Factor of the L2 penalty on the weights.")] = None,
    decay_all: Annotated[
        bool | None,
        typer.Option(
            "--decay-all/--decay-weights",
            help="Apply weight decay to batch norm and biases too, or to the weights alone.",
        ),
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Label smoothing, 0 to below 1.")] = None,
    augmentation: Annotated[
        str | None,
        typer.Option(
            metavar="pad|scale|area|none",
            callback=choice("pad", "scale", "area", "none"),
            help="Random crops.",
        ),
    ] = None,
    crop: Annotated[int | None, typer.Option(min=1, help="Side in pixels of the square input of the network.")] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, help="Shorter side in pixels before the centre crop, when errors are measured.")
    ] = None,
    stages: Annotated[
        str | None,
        typer.Option(
            metavar="EPOCHS:RESIZE:CROP:RATE,...",
            help="Progressive resizing: parts of the run, each with its image size and learning rate.",
        ),
    ] = None,
    pad: Annotated[int | None, typer.Option(min=0, help="For --augmentation pad: pixels added on each side.")] = None,
    scales: Annotated[
        str | None,
        typer.Option(metavar="MIN,MAX", help="For --augmentation scale: range of the shorter side in pixels."),
    ] = None,
    area: Annotated[
        str | None,
        typer.Option(metavar="MIN,MAX", help="For --augmentation area: range of the crop's share of the image."),
    ] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirror images at random.")] = None,
    colour: Annotated[
        float | None, typer.Option(min=0, help="Standard deviation of AlexNet's colour augmentation.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="pixel|channel|model",
            callback=choice("pixel", "channel", "model"),
            help="Mean that is subtracted: of each pixel, of each channel, or that of the model of --from.",
        ),
    ] = None,
    zero_init: Annotated[
        bool | None,
        typer.Option("--zero-init/--no-zero-init", help="Initialise the last batch norm of every block with zero."),
    ] = None,
    validation: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of training images held out to measure the error, the same share of every class."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the first weights, the split, the order and the crops.")
    ] = None,
    class_order: Annotated[
        str | None,
        typer.Option(
            metavar="string|natural|FILE",
            help="Order of the classes, if their names are numbers and the data does not state it.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda[:N]", callback=device_name, help="The device to train on.")
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            "-p",
            metavar="auto|fp32|bf16|fp16",
            callback=choice("auto", "fp32", "bf16", "fp16"),
            help="Precision of the forward and backward passes; auto: half precision where it is faster.",
        ),
    ] = "auto",
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile the network with torch.compile; default: on one GPU."),
    ] = None,
    data_in: Annotated[
        str,
        typer.Option(
            metavar="auto|memory|files",
            callback=choice("auto", "memory", "files"),
            help="Keep decoded images in memory, or decode files again in worker processes; auto: memory if they fit.",
        ),
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, max=MOST_THREADS, help="Number of processes that decode images; default: one for each core."
        ),
    ] = None,
    save_every: Annotated[
        float, typer.Option(min=0, max=MOST, callback=number, help="Seconds between saves within an epoch.")
    ] = 300.0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the errors of each epoch for TensorBoard.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the unfinished run in the folder -o; begin one if there is none."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder of the run; default: a new one in runs/, named by the time."
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
    is_named_here = output is None
    with join_world(device) as world:
        if output is None:
            started = world.any(False, int(time.time()) if world.writes else 0)[1]
            output = Path("runs") / time.strftime("%Y-%m-%d-%H%M%S", time.localtime(started))
            check_place(output, data)
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
                announcement=f"the run is in {output}; if it is stopped, the same command with -o {output} --resume "
                "goes on"
                if is_named_here
                else None,
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
