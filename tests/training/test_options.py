"""Every option of `train` with every recipe changes what is done, or is refused: nothing given is ignored."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.cli.commands.train import train as command  # noqa: E402
from resnet_infer.errors import TrainingError, UsageError  # noqa: E402
from resnet_infer.models.architectures import architecture  # noqa: E402
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint  # noqa: E402
from resnet_infer.models.network import ResNet  # noqa: E402
from resnet_infer.training.input.sources import open_batches  # noqa: E402
from resnet_infer.training.input.splits import open_splits  # noqa: E402
from resnet_infer.training.loop.options import Options  # noqa: E402
from resnet_infer.training.loop.start import choose_architecture, require_values_to_normalise  # noqa: E402
from resnet_infer.training.loop.trainer import Trainer  # noqa: E402
from resnet_infer.training.recipes import RECIPES, Recipe, get_recipe, parse_stages  # noqa: E402
from tests.conftest import Outcome  # noqa: E402
from tests.training.runs import trainer  # noqa: E402

Cli = Callable[..., Outcome]
CHANGES: dict[str, tuple[Any, ...]] = {
    "arch": ("resnet14", "plain8"),
    "freeze": (1,),
    "iterations": (9,),
    "epochs": (3.0,),
    "batch_size": (6,),
    "peak_rate": (0.03,),
    "schedule": ("step", "plateau", "one-cycle", "cosine"),
    "milestones": ((0.4, 0.6),),
    "warmup": (0.5, 3.0),
    "patience": (1,),
    "momentum": (0.7,),
    "nesterov": (True, False),
    "weight_decay": (0.05,),
    "decay_all": (True, False),
    "label_smoothing": (0.3,),
    "augmentation": ("pad", "scale", "area", "none"),
    "crop": (20,),
    "resize": (30,),
    "stages": (parse_stages("2:26:24:0.05"), parse_stages("1:26:24:0.05,1:30:24:0.02")),
    "pad": (2,),
    "scales": ((25, 30),),
    "area": ((0.2, 0.5),),
    "flip": (True, False),
    "colour": (0.0, 0.3),
    "mean": ("pixel", "channel", "model"),
    "zero_init": (True, False),
    "validation": (6,),
    "seed": (5,),
}
"""Values of each option, at least one of which is no recipe's own."""
ELSEWHERE = {
    *("data", "recipe", "start", "class_order", "device", "precision", "compiled", "data_in", "workers", "save_every"),
    *("tensorboard", "resume", "output"),
}
"""Options that are no values of a recipe."""
SMALL: dict[str, Any] = {"arch": "resnet8", "batch_size": 8, "validation": 9, "crop": 24, "resize": 26}
STAGES = parse_stages("1:26:24:0.05,1:30:28:0.02")
BASES: dict[str, dict[str, Any]] = {
    "cifar10-paper": {**SMALL, "iterations": 8},
    "cifar10-short": {**SMALL, "iterations": 8},
    "imagenet-paper": {**SMALL, "iterations": 8, "scales": (26, 40)},
    "tiny-imagenet": {"arch": "resnet8", "batch_size": 8, "validation": 9, "stages": STAGES},
    "finetune": {**SMALL, "arch": None, "epochs": 2.0},
}
"""Each recipe for small pictures and a small network."""


def test_every_option_is_walked() -> None:
    assert set(inspect.signature(command).parameters) == {*CHANGES, *ELSEWHERE}
    assert set(BASES) == set(RECIPES)


@pytest.fixture(scope="module")
def start(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    place = tmp_path_factory.mktemp("start")
    trainer(folder, place, resize=26, crop=24, mean="channel", iterations=2).run()
    return load_checkpoint(place / "best.safetensors")


def done_by(recipe: Recipe, folder: Path, run: Path, start: Checkpoint | None) -> list[bytes]:
    """What a run does: its pictures, rates, sizes, and what the first two steps see and make of the weights."""
    splits = open_splits(folder, validation=recipe.validation, seed=recipe.seed)
    one = Trainer(
        *(choose_architecture(recipe, start, 3), recipe, splits, run),
        start=start,
        options=Options(precision="fp32"),
        log=lambda line: None,
    )
    schedule = one.schedule
    rates = [schedule.rate(step) for step in range(schedule.iterations)]
    for _ in range(3):
        schedule.observe(50)
        rates.append(schedule.rate(schedule.iterations - 1))
    facts = [repr((one.arch, schedule.phases, rates, sorted(s.name for s in splits.train.samples))).encode()]
    phase = schedule.phases[0]
    one._enter(phase)
    one.learner.train()
    geometry = one._geometry(max(schedule.phases, key=lambda phase: phase.crop))
    source = open_batches(splits.train.samples, geometry, one.recipe, one.sampler, one.device, "memory", 1)
    for images, labels, draws in source.batches(0, 2, phase.crop):
        facts.append(images.numpy().tobytes())
        one._step(images, labels, draws)
    facts += [value.numpy().tobytes() for value in one.network.state_dict().values()]
    return facts


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_given_is_used_or_refused(name: str, folder: Path, tmp_path: Path, start: Checkpoint) -> None:
    own = start if name == "finetune" else None
    base = get_recipe(name, fine_tuning=bool(own), **BASES[name])
    before = done_by(base, folder, tmp_path / "before", own)
    assert before == done_by(base, folder, tmp_path / "again", own)
    refused = set()
    for option, values in CHANGES.items():
        for value in values:
            given = {**BASES[name], option: value}
            if option in ("iterations", "epochs", "stages"):
                given = {**BASES[name], "iterations": None, "epochs": None, option: value}
            if option == "stages":
                given |= {"crop": None, "resize": None}
            try:
                changed = get_recipe(name, fine_tuning=bool(own), **given)
                after = done_by(changed, folder, tmp_path / option, own)
            except UsageError:
                refused.add(option)
                continue
            same_value = getattr(changed, option) == getattr(base, option)
            assert same_value or after != before, f"--{option} {value} with {name} is ignored"
    always = ("iterations", "epochs", "batch_size", "momentum", "weight_decay", "validation", "seed", "freeze")
    assert refused.isdisjoint(always)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"milestones": (0.5,)}, "--milestones would not be used: the schedule is one-cycle; take --schedule step"),
        ({"patience": 3}, "--patience would not be used: the schedule is one-cycle; take --schedule plateau"),
        ({"scales": (32, 40)}, "--scales would not be used: the augmentation is pad; take --augmentation scale"),
        ({"area": (0.5, 1.0)}, "--area would not be used: the augmentation is pad; take --augmentation area"),
        ({"pad": 2, "augmentation": "area"}, "--pad would not be used: the augmentation is area"),
        ({"zero_init": True, "arch": "plain20"}, "--zero-init would not be used"),
        ({"zero_init": True, "fine_tuning": True}, "--zero-init would not be used"),
        ({"schedule": "step"}, "the schedule step needs milestones"),
    ],
)
def test_the_refusal_says_why(values: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)):
        get_recipe("cifar10-short", **values)


@pytest.mark.parametrize(
    "options",
    [
        ("--stages", "0:32:32:0.1", "--epochs", 1),
        ("--stages", "1:32:32:-5"),
        ("--epochs", "inf"),
        ("--epochs", "nan"),
        ("--epochs", "1e300"),
        ("--iterations", 10**30),
        ("--warmup", "nan"),
        ("--warmup", 400, "--iterations", 300),
        ("--seed", 2**64),
        ("--seed", 10**40),
        ("-b", 10**30),
        ("-b", 1, "--arch", "resnet18"),
        ("--peak-rate", "nan"),
        ("--peak-rate", "inf"),
        ("--weight-decay", "inf"),
        ("--colour", "nan"),
        ("--area", "nan,1"),
        ("--milestones", "0.5,0.6"),
        ("--schedule", "step"),
        ("--save-every", "nan"),
        ("--crop", 10**9, "--resize", 10**9),
        ("--pad", 10**9),
    ],
)
def test_nonsense_is_a_usage_error_of_the_command(folder: Path, tmp_path: Path, cli: Cli, options: tuple[Any]) -> None:
    done = cli("train", folder, "--recipe", "cifar10-short", *options, "-o", tmp_path / "run")
    assert done.code == 2, done.err
    assert "should not happen" not in done.err
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_the_stages_of_a_recipe_with_iterations_are_its_length(folder: Path, tmp_path: Path, cli: Cli) -> None:
    run = ("train", folder, "--arch", "resnet8", "--recipe", "cifar10-short", "-b", 16)
    done = cli(*run, "--stages", "1:32:32:0.1", "-o", tmp_path)
    assert done.code == 0, done.err
    assert load_checkpoint(tmp_path / "last.safetensors").spec.provenance["iterations"] == 58 // 16


@pytest.mark.parametrize("rate", [1e4, 1e10, 1e30])
def test_a_run_that_diverges_says_so_and_leaves_no_model_of_it(folder: Path, tmp_path: Path, rate: float) -> None:
    one = trainer(folder, tmp_path, peak_rate=rate, iterations=40)
    with pytest.raises(TrainingError, match=r"training has diverged: .* at iteration \d+") as error:
        one.run()
    assert f"lower --peak-rate (now {rate:g})" in str(error.value)
    for path in tmp_path.glob("*.safetensors"):
        weights = load_checkpoint(path).weights.values()
        assert all(np.isfinite(value).all() for value in weights)
    assert not (tmp_path / "curves.png").exists()


def test_weights_that_the_last_step_made_infinite_are_seen(folder: Path, tmp_path: Path) -> None:
    """The losses were all finite."""
    one = trainer(folder, tmp_path, iterations=4)
    network: Any = one.network
    step = one._step

    def spoil(*batch: Any) -> None:
        step(*batch)
        if one.state.iteration == 3:
            with torch.no_grad():
                network.bn1.running_var[0] = float("nan")

    one._step = spoil  # type: ignore[assignment,method-assign]
    with pytest.raises(TrainingError, match="the weights are not finite at iteration 4"):
        one.run()
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_batch_of_one_picture() -> None:
    """Batch norm normalises over the cells of the last maps, if there are several."""
    require_values_to_normalise(architecture("resnet20"), 32, 1)
    require_values_to_normalise(architecture("resnet18"), 33, 1)
    require_values_to_normalise(architecture("resnet50"), 32, 2)
    for name, crop in (("resnet18", 32), ("resnet50", 24), ("resnet20", 4)):
        with pytest.raises(UsageError, match="batch of one picture"):
            require_values_to_normalise(architecture(name), crop, 1)
        network = ResNet(architecture(name)).train()
        with pytest.raises(ValueError, match="more than 1 value"):
            network(torch.zeros(1, 3, crop, crop))
