"""Every option of every command with values at and beyond its ends: an answer or a clear refusal, never a surprise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from resnet_infer.cli.main import COMMANDS, app
from resnet_infer.models.checkpoint import Checkpoint, save_checkpoint
from resnet_infer.serving.settings import Settings
from resnet_infer.training.recipes import Recipe
from tests.conftest import PICTURES, Outcome
from tests.deadline import within

pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
pytest.importorskip("bentoml", reason="serving needs BentoML (the extra `serve`)")

Cli = Callable[..., Outcome]
VALUES = ("inf", "-inf", "nan", "0", "-1", "1", "1e30", "1e-320", str(2**64), "")
PATIENCE = 60
"""Seconds for one value: what goes on for longer has taken it for good."""


class Stubbed(Exception):  # noqa: N818
    """The command took its options and would begin its work."""


def options() -> list[tuple[str, str]]:
    """Every option that takes a value, with its command."""
    group = typer.main.get_command(app)
    found = []
    for name in COMMANDS:
        command = group.get_command(None, name)  # type: ignore[attr-defined]
        found += [(name, p.opts[0]) for p in command.params if p.opts[0].startswith("-") and not p.is_flag]
    return found


def begin(*_: Any, **__: Any) -> Any:
    raise Stubbed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Checkpoint]) -> Path:
    """Pictures of two classes, a checkpoint, an artifact's place, and a run."""
    root = tmp_path_factory.mktemp("bounds")
    for name, picture in (("cat", "cat.jpg"), ("ship", "ship.jpg")):
        for index in range(4):
            (root / "data" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(PICTURES / picture, root / "data" / name / f"{index}.jpg")
    save_checkpoint(make_checkpoint(), root / "model.safetensors")
    (root / "run").mkdir()
    (root / "run" / "metrics.csv").write_text(
        "epoch,iteration,rate,train_loss,train_error,val_error\n1.00,4,0.1,1.0,50.00,50.00\n2.00,8,0.1,0.9,40.00,40.00\n"
    )
    return root


def arguments(command: str, option: str, place: Path, tmp_path: Path) -> tuple[object, ...]:
    """The shortest call of a command that reaches its work."""
    if command == "train":
        schedule = {"--milestones": ("--schedule", "step"), "--patience": ("--schedule", "plateau")}
        augmentation = {"--scales": "scale", "--area": "area"}
        start = ("--from", "resnet20-cifar10") if option == "--freeze" else ()
        return (
            *("train", place / "data", "-o", tmp_path / "run", "-b", 4, "--validation", 2, *start),
            *(() if option in ("--iterations", "--epochs", "--stages") else ("--iterations", 4)),
            *(() if start else ("--recipe", "cifar10-short")),
            *schedule.get(option, ()),
            *(("--augmentation", augmentation[option]) if option in augmentation else ()),
        )
    if command == "benchmark" and option in ("--seconds", "--rate", "--bound", "--clients", "--crops", "--threads"):
        scenario = {"--rate": "open-loop", "--clients": "closed-loop", "--bound": "sweep"}.get(option, "closed-loop")
        rate = ("--rate", 9) if option == "--bound" else ()
        return ("benchmark", "--scenario", scenario, *rate, *(("--seconds", 0.1) if option != "--seconds" else ()))
    return {
        "classify": ("classify", PICTURES / "cat.jpg"),
        "curves": ("curves", place / "run"),
        "import": ("import", place / "model.safetensors", "-o", tmp_path / "imported.safetensors"),
        "export": ("export", place / "model.safetensors", "-o", tmp_path / "model.onnx"),
        "compare": ("compare", "resnet20-cifar10", "resnet20-cifar10", *(("-n", 2) if option != "--pictures" else ())),
        "evaluate": ("evaluate", "resnet20-cifar10", place / "data"),
        "benchmark": ("benchmark", "resnet20-cifar10"),
        "serve": ("serve", "resnet20-cifar10", "--port", 0),
    }.get(command, (command,))


@pytest.mark.slow
@pytest.mark.parametrize(("command", "option"), options())
def test_no_value_of_an_option_is_a_surprise(
    command: str, option: str, place: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for work in (
        "resnet_infer.converters.export.export",
        "resnet_infer.benchmarking.autotune.export_fastest",
        "resnet_infer.benchmarking.latency.paired_run.measure",
        "resnet_infer.training.loop.trainer.Trainer.run",
        "resnet_infer.cli.commands.serve._bind",
    ):
        monkeypatch.setattr(work, begin)
    failures = []
    for value in VALUES:
        call = (*arguments(command, option, place, tmp_path), f"{option}={value}" if option[:2] == "--" else option)
        with within(PATIENCE, f"{command} {option} {value}"):
            done = cli(*call)
        said = done.err.strip()
        started = done.code == 1 and "Stubbed" in said
        clear = done.code == 0 or started or (done.code in (1, 2) and bool(said or done.out))
        if not clear or ("should not happen" in said and not started) or "Traceback" in said:
            failures.append(f"{value!r}: {done.code} {said[-300:]}")
    assert not failures, "\n".join(failures)


def test_every_number_has_two_ends_and_is_a_number(cli: Cli) -> None:
    """Where a command itself does not check it, as `train` does with the values of a recipe."""
    group = typer.main.get_command(app)
    for name in COMMANDS:
        for item in group.get_command(None, name).params:  # type: ignore[attr-defined]
            kind = type(item.type).__name__
            if kind not in ("IntRange", "FloatRange", "IntParamType", "FloatParamType"):
                continue
            checked: Any = {"train": Recipe, "serve": Settings}.get(name)
            if checked and item.name in checked.__dataclass_fields__ and "Float" in kind:
                continue
            if name == "train" and item.name in Recipe.__dataclass_fields__:
                continue
            assert getattr(item.type, "max", None) is not None, f"{name} {item.opts[0]} has no upper end"
            assert getattr(item.type, "min", None) is not None, f"{name} {item.opts[0]} has no lower end"
            if "Float" in kind:
                done = cli(name, f"{item.opts[0]}=nan")
                assert done.code == 2, f"{name} {item.opts[0]}"
