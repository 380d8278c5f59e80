"""Run the training loop: epochs, checkpoints, and the measurement in the end.

`RunFolder` describes the files of a run, and `Recipe` how a network is trained.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resnet_infer.errors import PictureError, UsageError
from resnet_infer.models.architectures import Architecture
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.models.network import ResNet, torch_defaults
from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.training import device as devices
from resnet_infer.training.distributed import World
from resnet_infer.training.input.augment import BatchSampler, Draws
from resnet_infer.training.input.normalise import BatchPreprocessor
from resnet_infer.training.input.sources import Batch, BatchSource, open_batches
from resnet_infer.training.input.split_record import SplitRecord
from resnet_infer.training.input.splits import Splits
from resnet_infer.training.input.views import all_damaged
from resnet_infer.training.input.workers import WorkersLostError
from resnet_infer.training.loop.held_out import HeldOut
from resnet_infer.training.loop.learner import DivergedError, Learner, remedy
from resnet_infer.training.loop.options import Options
from resnet_infer.training.loop.records import console_line, draw_curves, epoch_row, scalars
from resnet_infer.training.loop.signals import Stopped, StopSignals
from resnet_infer.training.loop.start import fit_recipe, require_fitting_sizes
from resnet_infer.training.loop.state import RunFolder, State, load_weights
from resnet_infer.training.loop.summary import run_identity, trained_spec
from resnet_infer.training.recipes import Recipe
from resnet_infer.training.schedule import Phase, Schedule
from resnet_infer.utils.console import note
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.utils.progress import progress

CHECK_STEPS = 50
"""Steps between two looks at the loss, which wait for the device."""
AGREE_STEPS = 10
"""Steps after which several processes agree on whether to save or to stop."""


class Trainer:
    """Train one network in one folder.

    The order of pictures, augmentation and the split are functions of the seed and the step. A run that was stopped and
    resumed therefore sees what an uninterrupted one sees.

    Example::

        splits = open_splits(Path("cifar-10-batches-py"))
        spec = Trainer(architecture("resnet20", 10), get_recipe("cifar10-short"), splits, Path("runs/1")).run()
        print(spec.measured[0].top1_error)  # percent
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
        options: Options | None = None,
        world: World | None = None,
        log: Callable[[str], None] = note,
    ) -> None:
        """Prepare a run in `folder`, which `run` creates; `start` gives the first weights.

        Settings that the program has made for torch do not change the run, see `torch_defaults`. `log` is called with
        lines for the user, in the process that writes. Raises `DataError` or `UsageError` if data, network and recipe
        disagree.
        """
        options = options or Options()
        if np.isnan(options.save_every):
            raise UsageError("the seconds between saves are a number")
        self.world = world or World(torch.device("cpu"))
        self.options, self.data, self.start = options, data, start.spec if start else None
        self.log = log if self.world.writes else lambda line: None
        self.recipe = recipe = fit_recipe(recipe, arch, data.train, self.world, self.log)
        self.arch, self.device = arch, self.world.device
        self.sampler = BatchSampler(
            len(data.train.samples), recipe.batch_size, recipe.seed, self.world.rank, self.world.size
        )
        self.model_input = model = start.spec.input if start else None
        size = (model.resize, model.crop) if model else (32, 32)
        self.schedule = Schedule(recipe, self.sampler.steps_per_epoch, arch.depth, size)
        require_fitting_sizes(recipe, arch, self.schedule.phases, model)
        self.learner = Learner(
            *(arch, recipe, start, data.train.classes, self.world),
            precision=options.precision,
            compile=options.compile,
        )
        self.run_folder = RunFolder(folder)
        self.identity = run_identity(arch, recipe, data.train, self.start)
        self.held_out = HeldOut(data, recipe.seed, self.world)
        self.state, self.signals = State(), StopSignals()

    @property
    def network(self) -> ResNet:
        """The network with the weights that are trained."""
        return self.learner.network

    @torch_defaults()
    def run(self) -> ModelSpec:
        """Train to the last iteration, resuming an unfinished run in the folder, and measure `best`.

        Returns the spec of `best`. Raises `TrainingError` if training diverges, memory or disk are full, or a signal
        stops the run (`Stopped`); `PictureError`, naming all of them, if there are pictures that cannot be read.
        """
        with self.run_folder.locked(self.world), devices.bounded_threads(), devices.exact_products(self.device):
            try:
                return self._run()
            except PictureError as error:
                geometry = self._geometry(self.schedule.phases[0])
                raise all_damaged(self.data, geometry, error, self.run_folder.kept(), self.log) from error

    def _run(self) -> ModelSpec:
        """Restore or begin the run, train all phases, and measure."""
        split = SplitRecord.of(self.data)
        self.identity["pictures"] = split.digest
        checkpoint = self.run_folder.unfinished(self.identity, split)
        self.world.wait()
        repeated = split.repeated(self.data) if self.world.writes else []
        for warning in self.held_out.warnings(repeated):
            self.log(warning)
        with devices.memory_errors(self.recipe.batch_size, self.run_folder.kept):
            if checkpoint:
                self._restore(checkpoint)
            elif self.world.writes:
                self.run_folder.begin(self.recipe.to_json(), split)
                if self.options.announcement:
                    self.log(self.options.announcement)
            self.source = self._open_batches()
            if self.device.type == "cuda":
                torch.backends.cudnn.benchmark = True
            self.signals = StopSignals(self.options.stop_within, self.run_folder.kept)
            shown = self.options.tensorboard and self.world.writes
            with self.signals, scalars(self.run_folder.folder, self.state.iteration, shown) as self.show:
                geometry = self._geometry(self.schedule.phase(self.state.iteration))
                self.held_out.read_ahead(geometry, self._stop_if_signalled)
                if self.state.seen and self._epoch_ends():  # stopped while the epoch was measured
                    self._enter(self.schedule.phase(self.state.iteration - 1))
                    self.clock = time.perf_counter()
                    self._end_epoch()
                while self.state.iteration < self.schedule.iterations:
                    self._train(self.schedule.phase(self.state.iteration))
                return self._finish()

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Continue from the checkpoint of a stopped run."""
        self.state = self.run_folder.restore(checkpoint, self.network, self.learner.optimizer)
        self.schedule.restore(self.state.schedule)
        self.learner.scaler.load_state_dict(self.state.scaler)
        self.log(f"going on with {self.run_folder.last} at iteration {self.state.iteration}")
        if self.world.writes:  # only once, because these are the sums of all processes
            self.learner.start_epoch(self.state.loss, self.state.wrong)

    def _open_batches(self) -> BatchSource:
        """Open the batches to train on, at the largest crop of the run."""
        largest = max(self.schedule.phases, key=lambda phase: phase.crop)
        workers = self.options.workers
        return open_batches(
            *(self.data.train.samples, self._geometry(largest), self.recipe, self.sampler, self.device),
            *(self.options.data_in, self.world.fair_share(usable_cores()) if workers is None else workers, self.log),
        )

    def _geometry(self, phase: Phase) -> InputSpec:
        """Return the view of a phase, before normalisation."""
        interpolation = self.model_input.interpolation if self.model_input else "bilinear"
        return InputSpec(phase.resize, phase.crop, np.zeros(3), np.ones(3), interpolation)

    def _enter(self, phase: Phase) -> None:
        """Prepare normalisation and spec for a phase."""
        train = self.data.train
        self.preprocess = BatchPreprocessor(
            *(self.recipe, self._geometry(phase), train.samples, self.model_input, self.device), self._stop_if_signalled
        )
        self.spec = trained_spec(
            self.arch, self.recipe, train, self.preprocess.input, self.world, self.learner.precision, self.start
        )

    def _train(self, phase: Phase) -> None:
        """Train the rest of a phase."""
        self._enter(phase)
        state, size = self.state, self.recipe.batch_size
        self.learner.train()
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
            if state.iteration < phase.stop:  # a signal arrived while it waited for a batch
                self._between_steps(just_saved=False)

    def _batches(self, phase: Phase) -> Generator[Batch, None, None]:
        """Yield the batches of the rest of a phase.

        A single process stops waiting for a batch when a signal arrives. Several processes first agree on it.
        """

        def stopping() -> bool:
            return self.world.size == 1 and bool(self.signals.caught)

        try:
            yield from self.source.batches(self.state.iteration, phase.stop, phase.crop, stopping)
        except WorkersLostError as error:
            raise self.run_folder.lost(error.message, error.hint or "") from error

    def _epoch_ends(self) -> bool:
        """Return whether the last step ended an epoch or a phase."""
        done = self.state.iteration
        return done % self.sampler.steps_per_epoch == 0 or done == self.schedule.phase(done - 1).stop

    def _step(self, images: Tensor, labels: Tensor, draws: Draws) -> None:
        """Prepare a batch and train on it at the rate of the schedule."""
        self.state.rate = self.schedule.rate(self.state.iteration)
        self.learner.step(self.preprocess(images, draws), labels, self.state.rate)

    def _check(self, *, weights: bool = False) -> tuple[float, float]:
        """Return summed loss and wrong answers of the epoch in all processes.

        Raises `TrainingError` if the loss, or with `weights` a weight, shows that the run has diverged.
        """
        try:
            sums = self.learner.sums(self.state.seen)
            if weights:
                self.learner.require_finite_weights()
        except DivergedError as error:
            rate = self.schedule.phase(max(0, self.state.iteration - 1)).peak_rate
            raise self.run_folder.lost(
                f"training has diverged: {error.message} at iteration {self.state.iteration}",
                remedy(self.recipe, rate, self.learner.precision),
                reason="diverged",
            ) from None
        return sums

    def _between_steps(self, just_saved: bool) -> None:
        """Save if it is time, and stop if a signal arrived; several processes first agree on both."""
        if self.world.size > 1 and self.state.iteration % AGREE_STEPS and not just_saved:
            return
        save = self.world.writes and time.perf_counter() - self.saved_at > self.options.save_every
        save, stop = self.world.any(save, self.signals.caught)
        if (save or stop) and not just_saved:
            self._save()
        if stop:
            self.signals.caught = stop
            raise self._stopped()

    def _stop_if_signalled(self) -> None:
        """Raise `Stopped` if a signal arrived, in the middle of work that changes no state.

        Several processes, which would have to agree, finish the work first.
        """
        if self.world.size == 1 and self.signals.caught:
            raise self._stopped()

    def _stopped(self) -> Stopped:
        """Return the error that ends a stopped run."""
        message = f"stopped at iteration {self.state.iteration}; {self.run_folder.kept()}"
        return Stopped(message, self.signals.caught, self.run_folder.folder)

    def _save(self) -> None:
        """Write `last`. Raises `TrainingError` if the run has diverged."""
        loss, wrong = self._check(weights=True)
        now = time.perf_counter()
        self.state.seconds += now - self.clock
        self.state.epoch_seconds += now - self.clock
        self.state.loss, self.state.wrong = loss, wrong
        self.state.schedule, self.state.scaler = self.schedule.state(), self.learner.scaler.state_dict()
        if self.world.writes:
            self.run_folder.save_last(self.spec, self.network, self.learner.optimizer, self.state, self.identity)
        self.clock = self.saved_at = time.perf_counter()

    def _end_epoch(self) -> None:
        """Measure the epoch, add its row to the table, and save.

        `last` is saved after the others: a run that dies in between resumes from the save before, and repeats the
        epoch.
        """
        state = self.state
        loss, wrong = self._check(weights=True)
        spent = time.perf_counter() - self.clock
        train_error = 100 * wrong / state.seen
        try:
            counts = self.held_out.after_epoch(self.network, self.spec.input, self._stop_if_signalled)
        except Stopped:
            self._save()
            raise self._stopped() from None
        state.seconds, state.epoch_seconds = state.seconds + spent, state.epoch_seconds + spent
        self.schedule.observe(counts.deciding.top1 if counts.deciding else train_error)
        row = epoch_row(state, self.sampler.steps_per_epoch, loss, wrong, counts.whole)
        self.log(console_line(row))
        choosing = counts.choosing
        better = choosing is None or choosing.top1 <= state.best_error  # of equal errors, the last counts
        if better and choosing:
            state.best_error, state.best_iteration = choosing.top1, state.iteration
        state.seen, state.epoch_seconds = 0, 0.0
        self.learner.start_epoch()
        if self.world.writes:
            self.run_folder.add_row(row)
            self.show(row)
            if better:
                self.run_folder.save_best(self.spec, self.network, state, self.identity)
        self.clock = time.perf_counter()
        self._save()
        self.learner.train()

    def _finish(self) -> ModelSpec:
        """Measure `best` once on the test split, or on what has not chosen it, and write the error into its spec."""
        self.world.wait()
        best = load_checkpoint(self.run_folder.best)
        kept = {"weights_kept": self.held_out.weights_kept(self.state.iteration, self.state.best_iteration)}
        spec, data = best.spec.with_(provenance={**best.spec.provenance, **kept}), self.held_out.final
        if data:
            load_weights(self.network, best)
            measured = self.held_out.after_training(self.network, data, spec.input, self._stop_if_signalled)
            spec = spec.with_(measured=(measured,))
        if self.world.writes:
            self.run_folder.finish(replace(best, spec=spec))
        self.world.wait()
        if self.world.writes:
            draw_curves(self.run_folder.folder, self.log)
        return spec
