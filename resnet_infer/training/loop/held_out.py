"""Measure a run on the pictures that it is not trained on: after every epoch, and once in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from resnet_infer.data.datasets import Dataset, Sample
from resnet_infer.data.protocols import default_protocol
from resnet_infer.models.spec import InputSpec, Measured
from resnet_infer.training.distributed import World
from resnet_infer.training.error_rates import Counts, count_errors
from resnet_infer.training.input.splits import Splits, divide_validation
from resnet_infer.training.input.views import Views
from resnet_infer.training.loop.summary import measured_on


@dataclass(frozen=True)
class EpochCounts:
    """Hold the wrong answers after an epoch, None where no pictures are held out for it.

    `choosing` are those of the pictures that choose the best weights, `whole` those of all validation pictures, and
    `deciding` those that a plateau schedule follows.
    """

    choosing: Counts | None
    whole: Counts | None
    deciding: Counts | None


class HeldOut:
    """Hold the validation and test pictures of a run, this process's share of them, and count errors on them.

    Methods call their `between` between batches, and raise what it raises.
    """

    def __init__(self, data: Splits, seed: int, world: World) -> None:
        """Divide the validation pictures by `seed`, see `divide_validation`."""
        self.data, self.world = data, world
        self.choosing, self.measuring = divide_validation(data, seed)
        self._views = [Views(self._share(part)) if part else None for part in (self.choosing, self.measuring)]
        self._test = Views(self._share(data.test)) if data.test else None

    def _share(self, data: Dataset) -> Sequence[Sample]:
        """Return this process's part: every picture is measured in one process."""
        return data.samples[self.world.rank :: self.world.size]

    def read_ahead(self, geometry: InputSpec, between: Callable[[], None]) -> None:
        """Decode the pictures whose views are kept in memory, so that a damaged one is found before the first step.

        Raises `PictureError` for one that cannot be read.
        """
        for part in (*self._views, self._test):
            if part and part.keeps(geometry):
                for _ in part.batches(geometry):
                    between()

    def count(self, network: nn.Module, views: Views, geometry: InputSpec, between: Callable[[], None]) -> Counts:
        """Count the wrong answers of `network` in all processes."""
        return count_errors(network, views, geometry, self.world, between)

    def after_epoch(self, network: nn.Module, geometry: InputSpec, between: Callable[[], None]) -> EpochCounts:
        """Count the wrong answers to the validation pictures."""
        counts = [self.count(network, part, geometry, between) if part else None for part in self._views]
        choosing, measuring = counts
        whole = choosing + measuring if choosing and measuring else choosing or measuring
        # Without a test split, `measuring` estimates the final error: it must not steer the schedule.
        return EpochCounts(choosing, whole, whole if self.data.test else choosing)

    @property
    def final(self) -> Dataset | None:
        """The pictures that measure the best weights: the test split, or those that have not chosen the weights."""
        return self.data.test or self.measuring

    def after_training(
        self, network: nn.Module, data: Dataset, geometry: InputSpec, between: Callable[[], None]
    ) -> Measured:
        """Measure `network` on `data`, which is `final`."""
        found = self.count(network, self._test or Views(self._share(data)), geometry, between)
        return measured_on(data, found, default_protocol(geometry), test=self.data.test is not None)

    def weights_kept(self, last: int, best: int) -> str:
        """Describe which weights became `best`: those of the `last` iteration, or of `best`, which was chosen."""
        if not self.choosing:
            return f"the last, of iteration {last}"
        return f"of iteration {best}, which had the lowest error on {len(self.choosing.samples)} validation pictures"

    def warnings(self, repeated: Sequence[tuple[str, str]]) -> Iterator[str]:
        """Yield what the errors will not tell, and which weights are kept where that is not what one expects.

        `repeated` are names of validation pictures and of the equal ones that are trained on.
        """
        if repeated:
            one, other = repeated[0]
            yield (
                f"{len(repeated)} of the validation pictures are trained on too (e.g. {one} = {other}): their error "
                "says nothing of pictures that the network has not seen"
            )
        yield from self.data.warnings
        if self.choosing and self.measuring:
            yield (
                f"{len(self.choosing.samples)} of the validation pictures choose the best weights, "
                f"the other {len(self.measuring.samples)} measure them"
            )
        elif self.data.validation and not self.choosing:
            count = len(self.data.validation.samples)
            yield f"{count} validation pictures are too few to choose weights by: the last ones are kept"
