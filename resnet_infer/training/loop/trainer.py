"""The training loop. See `RunFolder` for what a run leaves, and `Recipe` for how a network is trained."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from resnet_infer.data.datasets import Dataset, Sample
from resnet_infer.errors import DataError, PictureError, UsageError
from resnet_infer.models.architectures import Architecture
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.models.network import torch_defaults
from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.training import device as devices
from resnet_infer.training.distributed import World, synchronise
from resnet_infer.training.error_rates import Counts, count_errors
from resnet_infer.training.input.augment import Draws, Order
from resnet_infer.training.input.normalise import Preparation
from resnet_infer.training.input.sources import WHOLE, Batch, DataIn, FromFiles, open_source
from resnet_infer.training.input.split_record import SplitRecord
from resnet_infer.training.input.splits import Splits, to_choose
from resnet_infer.training.input.views import Views, all_damaged
from resnet_infer.training.input.workers import WorkersLostError
from resnet_infer.training.loop.records import leave_curves, scalars
from resnet_infer.training.loop.signals import Stopped, StopSignals
from resnet_infer.training.loop.start import frozen_modules, initial_network, optimiser, require_values_to_normalise
from resnet_infer.training.loop.state import COLUMNS, RunFolder, State, load_weights
from resnet_infer.training.loop.summary import measured_on, trained_spec
from resnet_infer.training.recipes import Recipe
from resnet_infer.training.schedule import Phase, Schedule
from resnet_infer.utils.console import note
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.utils.progress import progress
from resnet_infer.utils.threads import require_threads

CHECK_STEPS = 50
"""The loss is looked at, which waits for the device, once in so many steps."""
DIVERGED = 1e4
"""A mean loss of an epoch above it does not come back: an answer at random has the logarithm of the classes."""
AGREE_STEPS = 10
"""Several processes ask each other whether to save or to stop once in so many steps."""


@dataclass(frozen=True)
class Options:
    """What does not change what is learned, but how fast, how safely and how visibly. `save_every` is in seconds."""

    precision: str = "auto"
    compile: bool | None = None
    data_in: DataIn = "auto"
    workers: int | None = None
    save_every: float = 300.0
    tensorboard: bool = False
    stop_within: float | None = None
    """Seconds after which the process of a run that was asked to stop is ended, whatever hangs; None: never."""

    def __post_init__(self) -> None:
        require_threads(self.workers, "workers", least=0)


class Trainer:
    """One run in one folder.

    Order, augmentation and split are functions of the seed and the step, so a run that was stopped and resumed sees
    what an uninterrupted one would have seen.
    """

    @torch_defaults()
    def __init__(
        self,
        arch: Architecture,
        recipe: Recipe,
        data: Splits,
        folder: Path,
        *,
        start: Checkpoint | None = None,
        options: Options = Options(),
        world: World | None = None,
        log: Callable[[str], None] = note,
    ) -> None:
        """`start` gives the first weights. What the program has set for torch changes no run, see `torch_defaults`.

        Raises `DataError` or `UsageError` if data, network and recipe disagree."""
        if np.isnan(options.save_every):
            raise UsageError("the seconds between saves are a number")
        self.world = world or World(torch.device("cpu"))
        self.options, self.data, self.start = options, data, start.spec if start else None
        self.log = log if self.world.writes else lambda line: None
        if arch.num_classes != len(data.train.classes):
            raise DataError(f"{data.train.name} has {len(data.train.classes)} classes, {arch.name} {arch.num_classes}")
        count = len(data.train.samples)
        if count < recipe.batch_size:
            self.log(f"{data.train.name} has {count} pictures to train on: they are one batch")
            recipe = replace(recipe, batch_size=max(1, count // self.world.size * self.world.size))
        if recipe.batch_size % self.world.size or count < recipe.batch_size:
            raise UsageError(f"a batch of {recipe.batch_size} is not shared equally by {self.world.size} processes")
        self.recipe, self.arch, self.device = recipe, arch, self.world.device
        self.order = Order(count, recipe.batch_size, recipe.seed, self.world.rank, self.world.size)
        self.model_input = model = start.spec.input if start else None
        size = (model.resize, model.crop) if model else (32, 32)
        self.schedule = Schedule(recipe, self.order.steps_per_epoch, arch.depth, size)
        crops = {phase.crop for phase in self.schedule.phases}
        if len({(phase.resize, phase.crop) for phase in self.schedule.phases}) > 1 and recipe.augmentation not in WHOLE:
            raise UsageError("stages of different sizes need the augmentation scale or area")
        if recipe.augmentation == "scale" and max(crops) > recipe.scales[0]:
            raise UsageError(f"scales are not below the crop, which is {max(crops)} pixels")
        require_values_to_normalise(arch, min(crops), recipe.batch_size)
        if model and model.per_pixel and recipe.mean == "model" and crops != {model.crop}:
            raise UsageError(f"the mean of the starting model is a picture of {model.crop} pixels: keep that crop")
        self.precision = devices.choose_precision(options.precision, self.device)
        network = initial_network(arch, recipe, start, data.train.classes)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optimiser(self.network, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.model = devices.compiled(synchronise(self.network, self.world), self.device, options.compile)
        self.run_folder = RunFolder(folder)
        self.identity: dict[str, Any] = {
            "recipe": recipe.to_json(),
            "network": arch.to_json(),
            "data": f"{data.train.name}, {count} pictures",
            "classes": list(data.train.classes),
            "from": start.spec.name if start else None,
        }
        self.choosing, self.measuring = to_choose(data, recipe.seed)
        self._views = [Views(self._share(part)) if part else None for part in (self.choosing, self.measuring)]
        self._test = Views(self._share(data.test)) if data.test else None
        self.state, self.signals = State(), StopSignals()

    @torch_defaults()
    def run(self) -> ModelSpec:
        """Train to the last iteration, going on where an unfinished run in the folder stopped, and measure `best`.

        Raises `TrainingError` if the loss stops being finite, memory or disk run out, or the run is asked to stop;
        `PictureError`, naming all of them, if there are pictures that cannot be read.
        """
        with self.run_folder.locked(self.world), devices.bounded_threads():
            try:
                return self._run()
            except PictureError as error:
                geometry = self._geometry(self.schedule.phases[0])
                raise all_damaged(self.data, geometry, error, self.run_folder.kept(), self.log) from error

    def _run(self) -> ModelSpec:
        split = SplitRecord.of(self.data)
        self.identity["pictures"] = split.digest
        checkpoint = self.run_folder.unfinished(self.identity, split)
        self.world.wait()
        repeated = split.repeated(self.data) if self.world.writes else []
        if repeated:
            one, other = repeated[0]
            self.log(
                f"{len(repeated)} of the validation pictures are trained on too (e.g. {one} = {other}): their error "
                "says nothing of pictures that the network has not seen"
            )
        for warning in (*self.data.warnings, *self._says_what_is_kept()):
            self.log(warning)
        with devices.memory_errors(self.recipe.batch_size, self.run_folder.kept):
            if checkpoint:
                self.state = self.run_folder.restore(checkpoint, self.network, self.optimizer)
                self.schedule.restore(self.state.schedule)
                self.scaler.load_state_dict(self.state.scaler)
                self.log(f"going on with {self.run_folder.last} at iteration {self.state.iteration}")
            elif self.world.writes:
                self.run_folder.begin(self.recipe.to_json(), split)
            own = self.state if self.world.writes else State()
            self.totals = torch.tensor([own.loss, own.wrong], dtype=torch.float64, device=self.device)
            largest = max(self.schedule.phases, key=lambda phase: phase.crop)
            self.source = open_source(
                self.data.train.samples,
                self._geometry(largest),
                self.recipe,
                self.order,
                self.device,
                self.options.data_in,
                self.options.workers if self.options.workers is not None else self.world.fair(usable_cores()),
                self.log,
            )
            if isinstance(self.source, FromFiles) and self.source.without_processes:
                self.log("this process may have no processes of its own, so threads decode the pictures")
            if self.device.type == "cuda":
                torch.backends.cudnn.benchmark = True
            self.signals = StopSignals(self.options.stop_within, self.run_folder.kept)
            with self.signals, self._scalars() as self.show:
                self._look_at_held_out()
                if self.state.seen and self._epoch_ends():  # it was stopped while it was measured
                    self._enter(self.schedule.phase(self.state.iteration - 1))
                    self.clock = time.perf_counter()
                    self._end_epoch()
                while self.state.iteration < self.schedule.iterations:
                    self._train(self.schedule.phase(self.state.iteration))
                return self._finish()

    def _scalars(self) -> contextlib.AbstractContextManager[Callable[[Sequence[str]], None]]:
        if self.options.tensorboard and self.world.writes:
            return scalars(self.run_folder.folder, self.state.iteration)
        return contextlib.nullcontext(lambda row: None)

    def _geometry(self, phase: Phase) -> InputSpec:
        interpolation = self.model_input.interpolation if self.model_input else "bilinear"
        return InputSpec(phase.resize, phase.crop, np.zeros(3), np.ones(3), interpolation)

    def _enter(self, phase: Phase) -> None:
        train = self.data.train
        self.prepare = Preparation(
            *(self.recipe, self._geometry(phase), train.samples, self.model_input, self.device), self._stop_if_asked
        )
        self.spec = trained_spec(
            self.arch, self.recipe, train, self.prepare.input, self.world, self.precision, self.start
        )

    def _look_at_held_out(self) -> None:
        """Read what is measured by before the first step, where it is kept: what is damaged is known in time."""
        phase = self.schedule.phase(self.state.iteration)
        for part in (*self._views, self._test):
            if part and part.keeps(self._geometry(phase)):
                for _ in part.batches(self._geometry(phase)):
                    self._stop_if_asked()

    def _train(self, phase: Phase) -> None:
        """The rest of a phase."""
        self._enter(phase)
        state, size = self.state, self.recipe.batch_size
        self._training_mode()
        bar = progress(self.spec.name, self.schedule.iterations * size, "pictures", done=state.iteration * size)
        shown_to = bar if self.world.writes else contextlib.nullcontext(lambda count, title=None: None)
        with shown_to as advance, contextlib.closing(self._batches(phase)) as batches:
            self.clock = self.saved_at = time.perf_counter()
            for images, labels, draws in batches:
                self._step(images, labels, draws)
                state.iteration += 1
                state.seen += size
                end = self._epoch_ends()
                if end or state.iteration % CHECK_STEPS == 0:
                    loss, wrong = self._check()
                    self.schedule.observe_training(state.iteration, 100 * wrong / state.seen)
                    shown = f"loss {loss / state.seen:.3f}, error {100 * wrong / state.seen:.1f}%"
                    advance(size, f"{self.spec.name}: {shown}")
                else:
                    advance(size)
                if end:
                    self._end_epoch()
                self._between_steps(just_saved=end)
            if state.iteration < phase.stop:  # asked to stop while it waited
                self._between_steps(just_saved=False)

    def _batches(self, phase: Phase) -> Generator[Batch, None, None]:
        """The rest of a phase's; those of one process end where a stop is asked for, several agree on it first."""

        def stopping() -> bool:
            return self.world.size == 1 and bool(self.signals.caught)

        try:
            yield from self.source.batches(self.state.iteration, phase.stop, phase.crop, stopping)
        except WorkersLostError as error:
            raise self.run_folder.lost(error.message, error.hint or "") from error

    def _epoch_ends(self) -> bool:
        """Whether the last step was the last one of an epoch or of a phase."""
        done = self.state.iteration
        return done % self.order.steps_per_epoch == 0 or done == self.schedule.phase(done - 1).stop

    def _step(self, images: Tensor, labels: Tensor, draws: Draws) -> None:
        self.state.rate = self.schedule.rate(self.state.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = self.state.rate
        inputs = self.prepare(images, draws)
        with devices.autocast(self.device, self.precision):
            logits = self.model(inputs).float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.totals += torch.stack([loss.double() * len(labels), (logits.argmax(1) != labels).sum().double()])

    def _training_mode(self) -> None:
        self.model.train()
        for module in frozen_modules(self.network, self.recipe.freeze):
            module.eval()

    def _check(self) -> tuple[float, float]:
        """Summed loss and wrong answers of the epoch in all processes. Raises `TrainingError` if it has diverged."""
        loss, wrong = self.world.sum(self.totals).tolist()
        if not loss <= DIVERGED * max(1, self.state.seen):  # NaN is not
            mean = loss / max(1, self.state.seen)
            self._diverged(f"the loss is {mean:.3g}" if np.isfinite(loss) else "the loss is not finite")
        return loss, wrong

    def _require_finite_weights(self) -> None:
        """Raise `TrainingError` if the last step has made a weight or a statistic infinite, which no loss shows yet."""
        if not all(bool(value.isfinite().all()) for value in self.network.state_dict().values()):
            self._diverged("the weights are not finite")

    def _diverged(self, what: str) -> NoReturn:
        rate = self.schedule.phase(max(0, self.state.iteration - 1)).peak_rate
        option = "the rates of --stages" if self.recipe.stages else "--peak-rate"
        raise self.run_folder.lost(
            f"training has diverged: {what} at iteration {self.state.iteration}",
            f"lower {option} (now {rate:g})"
            + (", or take --precision fp32" if self.precision == "fp16" else "")
            + " and choose another folder with -o",
        )

    def _between_steps(self, just_saved: bool) -> None:
        """Save when it is time, and stop if asked to; several processes agree on it first."""
        if self.world.size > 1 and self.state.iteration % AGREE_STEPS and not just_saved:
            return
        save = self.world.writes and time.perf_counter() - self.saved_at > self.options.save_every
        save, stop = self.world.any(save, self.signals.caught)
        if (save or stop) and not just_saved:
            self._save()
        if stop:
            self.signals.caught = stop
            raise self._stopped()

    def _stop_if_asked(self) -> None:
        """End what takes long and changes nothing. Several processes, which would have to agree, let it end."""
        if self.world.size == 1 and self.signals.caught:
            raise self._stopped()

    def _stopped(self) -> Stopped:
        message = f"stopped at iteration {self.state.iteration}; {self.run_folder.kept()}"
        return Stopped(message, self.signals.caught, self.run_folder.folder)

    def _count(self, views: Views, geometry: InputSpec) -> Counts:
        return count_errors(self.network, views, geometry, self.world, self._stop_if_asked)

    def _save(self) -> None:
        loss, wrong = self._check()
        self._require_finite_weights()
        now = time.perf_counter()
        self.state.seconds += now - self.clock
        self.state.epoch_seconds += now - self.clock
        self.state.loss, self.state.wrong = loss, wrong
        self.state.schedule, self.state.scaler = self.schedule.state(), self.scaler.state_dict()
        if self.world.writes:
            self.run_folder.save_last(self.spec, self.network, self.optimizer, self.state, self.identity)
        self.clock = self.saved_at = time.perf_counter()

    def _end_epoch(self) -> None:
        """Measure, note, save. What is saved last is `last`: a run that dies before goes on from the save before."""
        state = self.state
        loss, wrong = self._check()
        self._require_finite_weights()
        spent = time.perf_counter() - self.clock
        train_error = 100 * wrong / state.seen
        try:
            counts = [self._count(part, self.spec.input) if part else None for part in self._views]
        except Stopped:
            self._save()
            raise self._stopped() from None
        state.seconds, epoch_seconds = state.seconds + spent, state.epoch_seconds + spent
        choosing, measuring = counts
        whole = choosing + measuring if choosing and measuring else choosing or measuring
        deciding = whole if self.data.test else choosing  # what measures in the end decides nothing before
        self.schedule.observe(deciding.top1 if deciding else train_error)
        row = (
            f"{state.iteration / self.order.steps_per_epoch:.2f}",
            str(state.iteration),
            f"{state.rate:.6f}",
            f"{loss / state.seen:.5f}",
            f"{train_error:.2f}",
            *(map("{:.2f}".format, (whole.top1, *whole.interval)) if whole else ("", "", "")),
            f"{state.seen / epoch_seconds:.0f}",
            f"{state.seconds:.0f}",
        )
        self.log(_line(row))
        better = choosing is None or choosing.top1 <= state.best_error  # of equal ones the later has learnt longer
        if better and choosing:
            state.best_error, state.best_iteration = choosing.top1, state.iteration
        state.seen, state.epoch_seconds = 0, 0.0
        self.totals.zero_()
        if self.world.writes:
            self.run_folder.add_row(row)
            self.show(row)
            if better:
                self.run_folder.save_best(self.spec, self.network, state, self.identity)
        self.clock = time.perf_counter()
        self._save()
        self._training_mode()

    def _finish(self) -> ModelSpec:
        """Measure `best` once on the test split, or else on what has not chosen it, and write it into its spec."""
        self.world.wait()
        best = load_checkpoint(self.run_folder.best)
        kept = {"weights_kept": self._weights_kept()}
        spec, data = best.spec.with_(provenance={**best.spec.provenance, **kept}), self.data.test or self.measuring
        if data:
            load_weights(self.network, best)
            found = self._count(self._test or Views(self._share(data)), spec.input)
            measured = measured_on(data, found, spec.input.protocol, test=self.data.test is not None)
            spec = spec.with_(measured=(measured,))
        if self.world.writes:
            self.run_folder.finish(replace(best, spec=spec))
        self.world.wait()
        if self.world.writes:
            leave_curves(self.run_folder.folder, self.log)
        return spec

    def _weights_kept(self) -> str:
        if not self.choosing:
            return f"the last, of iteration {self.state.iteration}"
        return (
            f"of iteration {self.state.best_iteration}, which had the lowest error on {len(self.choosing.samples)} "
            "validation pictures"
        )

    def _says_what_is_kept(self) -> Iterator[str]:
        """Which weights become `best`, where that is not what one expects."""
        if self.choosing and self.measuring:
            yield (
                f"{len(self.choosing.samples)} of the validation pictures choose the best weights, "
                f"the other {len(self.measuring.samples)} measure them"
            )
        elif self.data.validation and not self.choosing:
            count = len(self.data.validation.samples)
            yield f"{count} validation pictures are too few to choose weights by: the last ones are kept"

    def _share(self, data: Dataset) -> Sequence[Sample]:
        """This process's part: every picture is measured in one process."""
        return data.samples[self.world.rank :: self.world.size]


def _line(row: Sequence[str]) -> str:
    """A row of the table for the console: the interval stands beside its error."""
    named = {name: value for name, value in zip(COLUMNS, row, strict=True) if value}
    if "val_error" in named:
        named["val_error"] += f" ({named.pop('val_error_low')}-{named.pop('val_error_high')})"
    return "  ".join(f"{name} {value}" for name, value in named.items())
