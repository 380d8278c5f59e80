"""Keep a run in a folder: the checkpoints from which it resumes, and the table of its epochs."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnet_infer.errors import DataError, Reason, ResnetInferError, TrainingError, UsageError
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.models.format_version import RUN, restricted
from resnet_infer.models.network import ResNet, weights_of
from resnet_infer.models.spec import ModelSpec
from resnet_infer.training.distributed import World
from resnet_infer.training.input.split_record import SplitRecord
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import warn
from resnet_infer.utils.files import atomic_path, remedy, unwritable
from resnet_infer.utils.inputs import read_bytes

NOTE = "resnet_infer.training"
"""Key of the run's state and identity among the notes of a checkpoint."""
MOMENTUM = "momentum."
"""Prefix of the optimiser's momentum among the extra arrays of a checkpoint, before the name of its parameter."""
LOCK = ".lock"
"""File that a running run holds locked."""
COLUMNS = (
    *("epoch", "iteration", "rate", "train_loss", "train_error", "val_error", "val_error_low", "val_error_high"),
    *("pictures_per_s", "seconds"),
)
"""Columns of `metrics.csv`. `val_error_low` and `val_error_high` are the 95% interval of `val_error`."""


@dataclass
class State:
    """Hold how far a run is.

    `loss`, `wrong`, `seen` (pictures) and `epoch_seconds` belong to the current epoch, and `rate` to the last step. If
    the last step ended an epoch and `seen` is not 0, the epoch is still to be measured. `best_error` is in percent.
    """

    iteration: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_error: float = float("inf")
    best_iteration: int = 0
    loss: float = 0.0
    wrong: float = 0.0
    seen: int = 0
    schedule: list[float] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)
    finished: bool = False


class RunFolder:
    """Read and write the folder of a run.

    It has `last.safetensors`, `best.safetensors`, `recipe.json`, `split.csv`, `metrics.csv` and in the end
    `curves.png`. Each file is whole or absent. All belong to one run: `locked` keeps other processes out, and
    `unfinished` refuses what another run left.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last, self.best = folder / "last.safetensors", folder / "best.safetensors"
        self.columns: tuple[str, ...] = COLUMNS
        self.rows: list[tuple[str, ...]] = []
        self._unknown: dict[str, Any] = {}
        self._saved = "nothing is saved yet"

    @contextlib.contextmanager
    def locked(self, world: World) -> Iterator[None]:
        """Keep other runs out of the folder inside the block. The lock of a process that has died does not count.

        Raises `UsageError`, in all processes of `world`, if another run is writing to the folder.
        """
        with contextlib.ExitStack() as stack:
            busy = world.writes and not self._lock(stack)
            if world.any(busy, 0)[0]:
                raise UsageError(
                    f"another run is writing to {self.folder}",
                    hint="wait for its end, or choose another folder with -o",
                )
            yield

    def _lock(self, stack: contextlib.ExitStack) -> bool:
        """Hold the lock until `stack` closes. Returns False if another process holds it."""
        from filelock import FileLock, Timeout

        path = self.folder / LOCK
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path).acquire(timeout=0))
        except Timeout:
            return False
        except NotImplementedError:  # this file system has no locks
            warn(f"{self.folder} cannot be locked: start no second run there")
        except OSError as error:
            raise unwritable(path, error, TrainingError, "choose another folder with -o") from error
        return True

    def begin(self, recipe: Mapping[str, Any], split: SplitRecord) -> None:
        """Write recipe and pictures of a new run, and an empty table. Raises `TrainingError` if that fails."""
        with self._explain_write_errors():
            split.write(self.folder)
            with atomic_path(self.folder / "recipe.json") as path:
                path.write_text(strict_json.dumps(RUN.compose(recipe), indent=2) + "\n")
            self._write_rows()

    def unfinished(self, identity: Mapping[str, Any], split: SplitRecord) -> Checkpoint | None:
        """Return the checkpoint to resume from, None for a new run.

        Raises `UsageError` if the folder holds a finished run or another one, naming what differs, and `DataError` if a
        newer version wrote it.
        """
        hint = "choose another folder with -o"
        self._require_known_recipe()
        if not self.last.exists():
            self._require_nothing_else(identity, hint)
            return None
        checkpoint = load_checkpoint(self.last)
        notes = _notes(checkpoint, self.last)
        if notes.get("state", {}).get("finished"):
            raise UsageError(f"{self.folder} holds a finished run", hint=hint)
        before, now = notes.get("identity", {}), json.loads(strict_json.dumps(identity))
        if restricted(before, now) == now:
            self._unknown = RUN.unknown(notes, {"state": asdict(State()), "identity": now})
            return checkpoint
        told = _differences(before, now)
        if before.get("pictures") != now["pictures"]:
            try:
                told += [f"of its pictures {line}" for line in SplitRecord.read(self.folder).differences(split)]
            except DataError as error:
                told.append(f"its pictures are others ({error.message})")
        raise UsageError(
            f"{self.folder} holds another run: {'; '.join(told)}",
            hint=f"{hint}, or give the same data and values to go on with that run",
        )

    def _require_known_recipe(self) -> None:
        """Raise `DataError` if a newer version wrote `recipe.json`, also where the checkpoints can be read."""
        path = self.folder / "recipe.json"
        try:
            recipe = json.loads(read_bytes(path))
        except (OSError, ValueError):  # the checkpoints hold all that a run goes on with
            return
        if isinstance(recipe, dict):
            RUN.check(recipe, str(path))

    def _require_nothing_else(self, identity: Mapping[str, Any], hint: str) -> None:
        """Raise `UsageError` if the folder has weights or a table of another run, which would be replaced.

        A run that died before its first save may have left its own.
        """
        if self.best.exists():
            now = json.loads(strict_json.dumps(identity))
            if restricted(_notes(load_checkpoint(self.best), self.best).get("identity"), now) != now:
                raise UsageError(f"{self.best} is not of this run, which would replace it", hint=hint)
        table = self.folder / "metrics.csv"
        if table.exists():
            with io.StringIO(read_bytes(table).decode("utf-8", "replace"), newline="") as file:
                header = next(csv.reader(file), None)
                if header is not None and not {*COLUMNS} <= {*header}:
                    raise UsageError(f"{table} is no table of a run, which would replace it", hint=hint)

    def restore(self, checkpoint: Checkpoint, network: ResNet, optimizer: torch.optim.Optimizer) -> State:
        """Load weights and momentum from the checkpoint, and the table up to it; return the state of the run."""
        load_weights(network, checkpoint)
        for name, parameter in network.named_parameters():
            if MOMENTUM + name in checkpoint.extra:
                # The fused optimiser requires the memory format of the parameter.
                momentum = torch.empty_like(parameter).copy_(torch.from_numpy(checkpoint.extra[MOMENTUM + name]))
                optimizer.state[parameter]["momentum_buffer"] = momentum.detach()
        kept = _with_infinity(_notes(checkpoint, self.last)["state"])
        state = State(**restricted(kept, asdict(State())))
        self._saved = f"{self.last} keeps iteration {state.iteration}"
        if (self.folder / "metrics.csv").exists():
            with io.StringIO(read_bytes(self.folder / "metrics.csv").decode(), newline="") as file:
                table = csv.DictReader(file)
                # Columns that another version has written are kept, and are empty in new rows.
                self.columns = (*COLUMNS, *(name for name in table.fieldnames or () if name not in COLUMNS))
                # An epoch in the table that is not in the checkpoint is trained again, and gets a new row.
                kept_rows = [row for row in table if int(row["iteration"]) <= state.iteration]
            self.rows = [tuple(row[name] for name in self.columns) for row in kept_rows]
        return state

    def save_last(
        self,
        spec: ModelSpec,
        network: ResNet,
        optimizer: torch.optim.Optimizer,
        state: State,
        identity: Mapping[str, Any],
    ) -> None:
        """Write `last`: weights, momentum, state and identity. Raises `TrainingError` if that fails."""
        extra = {
            MOMENTUM + name: optimizer.state[parameter]["momentum_buffer"].float().cpu().contiguous().numpy()
            for name, parameter in network.named_parameters()
            if optimizer.state[parameter].get("momentum_buffer") is not None
        }
        own = {"state": _without_infinity(asdict(state)), "identity": identity}
        notes = {NOTE: strict_json.dumps(RUN.compose(own, self._unknown))}
        with self._explain_write_errors():
            save_checkpoint(Checkpoint(_progressed(spec, state), weights_of(network), extra, notes), self.last)
        self._saved = f"{self.last} keeps iteration {state.iteration}"

    def save_best(self, spec: ModelSpec, network: ResNet, state: State, identity: Mapping[str, Any]) -> None:
        """Write `best`, with the identity of the run until it is finished. Raises `TrainingError` if that fails."""
        unknown = {name: value for name, value in self._unknown.items() if name != "state"}
        notes = {NOTE: strict_json.dumps(RUN.compose({"identity": identity}, unknown))}
        with self._explain_write_errors():
            save_checkpoint(Checkpoint(_progressed(spec, state), weights_of(network), notes=notes), self.best)

    def finish(self, best: Checkpoint) -> None:
        """Write `best` with its measured errors, and only then mark `last` as finished."""
        with self._explain_write_errors():
            save_checkpoint(replace(best, notes={}), self.best)
            last = load_checkpoint(self.last)
            notes = json.loads(last.notes[NOTE])
            notes["state"]["finished"] = True
            save_checkpoint(replace(last, notes={NOTE: strict_json.dumps(notes)}), self.last)

    def add_row(self, row: tuple[str, ...]) -> None:
        """Append a row of `COLUMNS` to the table, and write it."""
        self.rows.append((*row, *[""] * (len(self.columns) - len(row))))
        with self._explain_write_errors():
            self._write_rows()

    def kept(self) -> str:
        """Return a sentence about what is saved of the run."""
        return self._saved

    def lost(self, message: str, hint: str, reason: Reason = "failed") -> TrainingError:
        """Return the error that ends a run: `message`, and what is saved."""
        return TrainingError(f"{message}; {self._saved}", hint=hint, source=self.folder, reason=reason)

    def _write_rows(self) -> None:
        """Write `metrics.csv`."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([self.columns, *self.rows])
        with atomic_path(self.folder / "metrics.csv") as path:
            path.write_text(text.getvalue(), newline="")

    @contextlib.contextmanager
    def _explain_write_errors(self) -> Iterator[None]:
        """Add what is saved to an error of writing that is raised inside the block."""
        try:
            yield
        except ResnetInferError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            again = f"the same command with -o {self.folder} --resume goes on from there"
            hint = f"{remedy(error.__cause__, 'move the folder to another place')}; {again}"
            raise self.lost(error.message, hint) from error


def _notes(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """Return the run's state and identity out of a checkpoint, {} if it has none. Raises `DataError` if it is newer."""
    notes: dict[str, Any] = json.loads(checkpoint.notes.get(NOTE, "{}"))
    RUN.check(notes, str(path))
    return notes


def load_weights(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights of a checkpoint into the network."""
    tensors = {name: torch.from_numpy(value) for name, value in checkpoint.weights.items()}
    network.load_state_dict(tensors, strict=False)  # checkpoints lack torch's `num_batches_tracked`


def _without_infinity(state: Mapping[str, Any]) -> dict[str, Any]:
    """Replace errors that are infinite, because none was measured yet, by None: JSON has no infinity."""
    schedule = [None if value == math.inf else value for value in state["schedule"]]
    return {
        **state,
        "schedule": schedule,
        "best_error": None if state["best_error"] == math.inf else state["best_error"],
    }


def _with_infinity(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state that `_without_infinity` was given."""
    schedule = [math.inf if value is None else value for value in state["schedule"]]
    return {
        **state,
        "schedule": schedule,
        "best_error": math.inf if state["best_error"] is None else state["best_error"],
    }


def _progressed(spec: ModelSpec, state: State) -> ModelSpec:
    """Return the spec with iterations and seconds in its provenance."""
    done = {"iterations": state.iteration, "seconds": round(state.seconds)}
    return spec.with_(provenance={**spec.provenance, **done})


def check_place(output: Path, data: Path) -> None:
    """Raise `UsageError` if a run in `output` would lie inside the folder `data`, where it would become a class."""
    place, source = (Path(os.path.realpath(path)) for path in (output, data))
    if source.is_dir() and place.is_relative_to(source):
        raise UsageError(
            f"{output} lies inside of the data, {data}, and its pictures would be taken for a class",
            hint=f"choose a folder outside of it with -o, for example -o {source.parent / 'runs' / source.name}",
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return `key was old, is new` for each value that differs, those of the recipe one by one.

    Pictures are compared by `SplitRecord.differences`.
    """
    old, new = ({**value, **(value.get("recipe") or {}), "recipe": None, "pictures": None} for value in (before, now))
    return [f"{key} was {old.get(key)}, is {new.get(key)}" for key in new if old.get(key) != new.get(key)]
