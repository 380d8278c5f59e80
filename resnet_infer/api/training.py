"""Train a network."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from resnet_infer.api.arguments import PathText, check_options, check_value, name_of, path_of
from resnet_infer.api.options import TrainOptions
from resnet_infer.api.wording import in_python
from resnet_infer.errors import UsageError
from resnet_infer.utils.extras import needs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from resnet_infer.api.arguments import Model
    from resnet_infer.models.checkpoint import Checkpoint
    from resnet_infer.training.loop.options import Options
    from resnet_infer.training.recipes import Recipe


@in_python()
def train(
    data: PathText,
    output: PathText,
    *,
    recipe: str | None = None,
    start: Model = None,
    resume: bool = False,
    **options: Unpack[TrainOptions],
) -> Checkpoint:
    """Train a network on labelled images, and return the checkpoint with the lowest error.

    - `data`: CIFAR, ImageNet, Tiny ImageNet, a folder or archive of class folders, or a CSV with the columns path and
      label.
    - `output`: folder of the run. `best.safetensors` is the checkpoint that is returned; `metrics.csv` has a row for
      each epoch.
    - `recipe`: name of the default settings; default: "finetune" with `start`, else "cifar10-paper". `options` change
      them.
    - `start`: name, path or checkpoint whose weights the run begins with (the command's `--from`).
    - `resume`: continue an unfinished run in `output`; without it a folder that holds a run is refused.
    - `log`: function that gets lines for people; default: the logger `resnet_infer` at INFO. An exception that it
      raises ends the run, which can be resumed.

    Ctrl-C, SIGTERM and SIGHUP save the run and raise `TrainingError`. Raises `UsageError` for options that do not fit,
    `DataError` for data without labels, `PictureError` for images that cannot be read, `TrainingError` if training
    diverges, and `MissingExtraError` without PyTorch.

    >>> from resnet_infer import train
    >>> trained = train("vehicles", "run", arch="resnet20", iterations=2, batch_size=4, validation=0, device="cpu")
    >>> trained.spec.classes
    ('airplane', 'ship')
    """
    check_options("train", options, TrainOptions)
    check_value("recipe", recipe, str | None)
    check_value("resume", resume, bool)
    source, folder = path_of("data", data), path_of("output", output)
    given: dict[str, Any] = dict(options)
    with needs("train", "training"):
        from resnet_infer.training.distributed import join_world
        from resnet_infer.training.input.splits import open_splits
        from resnet_infer.training.loop.start import choose_architecture
        from resnet_infer.training.loop.state import check_place
        from resnet_infer.training.loop.trainer import Trainer
    from resnet_infer import zoo
    from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
    from resnet_infer.utils.console import note

    log, device, class_order = given.pop("log", None), given.pop("device", "auto"), given.pop("class_order", None)
    settings = _run_options(given)
    resolved = _recipe(recipe, start is not None, given)
    check_place(folder, source)
    last = folder / "last.safetensors"
    if not resume and last.exists():
        raise UsageError(f"{folder} holds a run already", hint="give resume=True, or another output", source=folder)
    checkpoint = start if isinstance(start, Checkpoint) or start is None else zoo.checkpoint(name_of(start))
    with join_world(device) as world:
        splits = open_splits(source, validation=resolved.validation, seed=resolved.seed, class_order=class_order)
        trainer = Trainer(
            choose_architecture(resolved, checkpoint, len(splits.train.classes)),
            resolved,
            splits,
            folder,
            start=checkpoint,
            options=settings,
            world=world,
            log=log or note,
        )
        trainer.run()
        world.wait()
    return load_checkpoint(trainer.run_folder.best)


def _run_options(given: dict[str, Any]) -> Options:
    """Take the settings that do not change what is learned out of `given`."""
    with needs("train", "training"):
        from resnet_infer.training.loop.options import Options

    names = {field.name for field in fields(Options)} & given.keys()
    settings = {name: given.pop(name) for name in names}
    return Options(**settings)


def _recipe(name: str | None, fine_tuning: bool, given: dict[str, Any]) -> Recipe:
    """Return the recipe with the values that were given."""
    with needs("train", "training"):
        from resnet_infer.training.recipes import get_recipe, parse_stages

    changes = {key: tuple(value) if isinstance(value, (list, tuple)) else value for key, value in given.items()}
    if stages := given.get("stages"):
        changes["stages"] = parse_stages(stages)
    resolved = get_recipe(name or ("finetune" if fine_tuning else "cifar10-paper"), fine_tuning=fine_tuning, **changes)
    return replace(resolved, arch=given.get("arch")) if fine_tuning else resolved
