"""`resnet-infer train`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli.options import choice
from resnet_infer.console import note


def train(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="A folder or archive with train/ and test/, a folder per class in each."),
    ],
    arch: Annotated[str, typer.Option(metavar="NAME", help="The network: resnet20, plain56, ...")] = "resnet20",
    recipe: Annotated[str, typer.Option(metavar="NAME", help="cifar10-paper or cifar10-short.")] = "cifar10-paper",
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Length of the run; the schedule stretches with it.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", min=1, help="Pictures a step.")] = None,
    validation: Annotated[
        int | None, typer.Option(min=0, help="Training pictures held out to choose the best weights by.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the first weights, the order and the crops.")] = None,
    precision: Annotated[
        str,
        typer.Option(metavar="fp32|bf16", callback=choice("fp32", "bf16"), help="bf16 is faster where there is it."),
    ] = "fp32",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in the output folder stopped.")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The run's folder.")] = Path(
        "runs/latest"
    ),
) -> None:
    from resnet_infer.data.datasets import open_dataset
    from resnet_infer.errors import UsageError
    from resnet_infer.extras import needs
    from resnet_infer.models.architectures import architecture

    with needs("train", "training"):
        import torch  # noqa: F401 (said here so that the error comes before the data is read)
    from resnet_infer.training.recipes import get_recipe
    from resnet_infer.training.trainer import Trainer

    resolved = get_recipe(recipe, iterations=iterations, batch_size=batch_size, validation=validation, seed=seed)
    if (output / "last.safetensors").exists() and not resume:
        raise UsageError(f"{output} holds a run already", hint="go on with --resume, or choose another folder with -o")
    pictures = open_dataset(data, "train")
    network = architecture(arch, len(pictures.classes))
    trainer = Trainer(network, resolved, pictures, output, precision=precision, log=note)
    trainer.run(resume=resume)
    spec = trainer.finish(open_dataset(data, "test"))
    for item in spec.measured:
        print(f"{trainer.best}  error {item.top1_error:.2f}% on {item.dataset}, {item.pictures} pictures")
