"""The folder of a run: checkpoints that a stopped run goes on from, and the table of its epochs."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnet_infer import strict_json
from resnet_infer.errors import ResnetInferError, TrainingError, UsageError
from resnet_infer.files import atomic_path
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.models.network import ResNet, weights_of
from resnet_infer.models.spec import ModelSpec

NOTE = "resnet_infer.training"
MOMENTUM = "momentum."
COLUMNS = ("epoch", "iteration", "rate", "train_loss", "train_error", "val_error", "pictures_per_s", "seconds")


@dataclass
class State:
    """How far a run is. `loss`, `wrong`, `seen` and `epoch_seconds` are of the current epoch."""

    iteration: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_error: float = float("inf")
    loss: float = 0.0
    wrong: float = 0.0
    seen: int = 0
    schedule: list[float] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)
    finished: bool = False


class RunFolder:
    """`last.safetensors`, `best.safetensors`, `recipe.json`, `metrics.csv` and, in the end, `curves.png`.

    Each is whole or absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last, self.best = folder / "last.safetensors", folder / "best.safetensors"
        self.rows: list[tuple[str, ...]] = []
        self._saved = "nothing is saved yet"

    def begin(self, recipe: Mapping[str, Any]) -> None:
        with self._guard():
            with atomic_path(self.folder / "recipe.json") as path:
                path.write_text(strict_json.dumps(recipe, indent=2) + "\n")
            self._write_rows()

    def unfinished(self, identity: Mapping[str, Any]) -> Checkpoint | None:
        """The checkpoint to go on from. Raises `UsageError` if the folder holds a finished or a different run."""
        if not self.last.exists():
            return None
        checkpoint = load_checkpoint(self.last)
        notes = json.loads(checkpoint.notes.get(NOTE, "{}"))
        hint = "choose another folder with -o"
        if notes.get("state", {}).get("finished"):
            raise UsageError(f"{self.folder} holds a finished run", hint=hint)
        before, now = notes.get("identity", {}), json.loads(strict_json.dumps(identity))
        if before != now:
            raise UsageError(
                f"{self.folder} holds another run: {', '.join(_differences(before, now))}",
                hint=f"{hint}, or give the same values to go on with that run",
            )
        return checkpoint

    def restore(self, checkpoint: Checkpoint, network: ResNet, optimizer: torch.optim.Optimizer) -> State:
        load_weights(network, checkpoint)
        for name, parameter in network.named_parameters():
            if MOMENTUM + name in checkpoint.extra:
                # In the parameter's own memory format, which the fused optimiser takes for granted.
                momentum = torch.empty_like(parameter).copy_(torch.from_numpy(checkpoint.extra[MOMENTUM + name]))
                optimizer.state[parameter]["momentum_buffer"] = momentum.detach()
        state = State(**_with_infinity(json.loads(checkpoint.notes[NOTE])["state"]))
        self._saved = f"{self.last} keeps iteration {state.iteration}"
        if (self.folder / "metrics.csv").exists():
            with open(self.folder / "metrics.csv", newline="") as file:
                rows = [tuple(row) for row in csv.reader(file)][1:]
            # An epoch that was noted but not saved is trained, and noted, again.
            self.rows = [row for row in rows if int(row[1]) <= state.iteration]
        return state

    def save_last(
        self,
        spec: ModelSpec,
        network: ResNet,
        optimizer: torch.optim.Optimizer,
        state: State,
        identity: Mapping[str, Any],
    ) -> None:
        extra = {
            MOMENTUM + name: optimizer.state[parameter]["momentum_buffer"].float().cpu().contiguous().numpy()
            for name, parameter in network.named_parameters()
            if optimizer.state[parameter].get("momentum_buffer") is not None
        }
        notes = {NOTE: strict_json.dumps({"state": _without_infinity(asdict(state)), "identity": identity})}
        with self._guard():
            save_checkpoint(Checkpoint(_progressed(spec, state), weights_of(network), extra, notes), self.last)
        self._saved = f"{self.last} keeps iteration {state.iteration}"

    def save_best(self, spec: ModelSpec, network: ResNet, state: State) -> None:
        with self._guard():
            save_checkpoint(Checkpoint(_progressed(spec, state), weights_of(network)), self.best)

    def finish(self, best: Checkpoint) -> None:
        """Write `best` with what was measured, and only then that the run is done."""
        with self._guard():
            save_checkpoint(best, self.best)
            last = load_checkpoint(self.last)
            notes = json.loads(last.notes[NOTE])
            notes["state"]["finished"] = True
            save_checkpoint(replace(last, notes={NOTE: strict_json.dumps(notes)}), self.last)

    def add_row(self, row: tuple[str, ...]) -> None:
        self.rows.append(row)
        with self._guard():
            self._write_rows()

    def lost(self, message: str, hint: str) -> TrainingError:
        """The error that ends a run, saying what is kept of it."""
        return TrainingError(f"{message}; {self._saved}", hint=hint)

    def _write_rows(self) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([COLUMNS, *self.rows])
        with atomic_path(self.folder / "metrics.csv") as path:
            path.write_text(text.getvalue(), newline="")

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Around writing: an error says what is kept."""
        try:
            yield
        except ResnetInferError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise self.lost(error.message, "free some space; the same command goes on from there") from error


def load_weights(network: nn.Module, checkpoint: Checkpoint) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in checkpoint.weights.items()}
    network.load_state_dict(tensors, strict=False)  # torch also counts batches, which no checkpoint holds


def _without_infinity(state: Mapping[str, Any]) -> dict[str, Any]:
    """With None for errors that are infinite because none was measured yet: JSON has no infinity."""
    schedule = [None if value == math.inf else value for value in state["schedule"]]
    return {
        **state,
        "schedule": schedule,
        "best_error": None if state["best_error"] == math.inf else state["best_error"],
    }


def _with_infinity(state: Mapping[str, Any]) -> dict[str, Any]:
    """What `_without_infinity` was given."""
    schedule = [math.inf if value is None else value for value in state["schedule"]]
    return {
        **state,
        "schedule": schedule,
        "best_error": math.inf if state["best_error"] is None else state["best_error"],
    }


def _progressed(spec: ModelSpec, state: State) -> ModelSpec:
    done = {"iterations": state.iteration, "seconds": round(state.seconds)}
    return spec.with_(provenance={**spec.provenance, **done})


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key was old, is new` for each value, those of the recipe one by one."""
    old, new = ({**value, **(value.get("recipe") or {}), "recipe": None} for value in (before, now))
    return [f"{key} was {old.get(key)}, is {new.get(key)}" for key in new if old.get(key) != new.get(key)]
