"""Open the images of an export once: those that calibrate INT8, and those on which a lower precision is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_infer.converters.config import ExportConfig
from resnet_infer.converters.precision.calibration import Calibration
from resnet_infer.data.feed import Feed, open_feed
from resnet_infer.errors import DataError, UsageError
from resnet_infer.models.spec import ModelSpec
from resnet_infer.utils.console import warn
from resnet_infer.verification.gates import choose_gate
from resnet_infer.verification.tolerances import Tolerance

TRAINING = ("train",)
"""Preferred splits of a data set for calibration."""
HELD_OUT = ("val", "test")
"""Preferred splits of a data set for the comparison with FP32."""
LEAST_PICTURES = 16
"""Fewest images for the comparison. Fewer give no useful estimate of the cost."""


@dataclass(frozen=True)
class ExportPictures:
    """Hold the open images of an export to a lower precision, and the limits that it is judged by.

    `calibration` holds images to calibrate on, or the calibration of an earlier export; None for FP16.
    """

    calibration: Feed | Calibration | None
    check: Feed
    gate: Tolerance


def open_pictures(spec: ModelSpec, config: ExportConfig) -> ExportPictures | None:
    """Open the images that `config` names, for the model `spec`. FP32 needs none and gets None.

    Raises `DataError` for images that cannot be used, and `UsageError` for too few images to compare on, or for
    `max_drop` without labels.
    """
    if config.precision == "fp32":
        return None
    data = config.pictures.calibration
    calibration: Feed | Calibration | None = None
    if data is not None and data.name.endswith(".json"):
        calibration = Calibration.load(data)
    elif data is not None:
        calibration = open_feed(data, spec, count=config.pictures.calibration_count, prefer=TRAINING)
        _require_enough(calibration, data)
    check = _open_check_pictures(spec, config, calibration if isinstance(calibration, Feed) else None)
    return ExportPictures(calibration, check, choose_gate(config.precision, config.max_drop, check.labels is not None))


def _require_enough(feed: Feed, data: Path) -> None:
    """Raise `UsageError` for a single calibration image, which has no spread, and warn of few."""
    if len(feed) < 2:
        raise UsageError(
            f"{data} has 1 picture, and INT8 is calibrated on at least 2",
            hint="give some hundred pictures like those that will be classified",
            source=data,
        )
    if len(feed) < LEAST_PICTURES:
        warn(f"INT8 is calibrated on {len(feed)} pictures only; some hundred are usual")


def _open_check_pictures(spec: ModelSpec, config: ExportConfig, feed: Feed | None) -> Feed:
    """Open the images for the comparison with FP32. `feed` holds the calibration images, None if there are none."""
    wanted = config.pictures
    if wanted.check:
        used = feed.names if feed and wanted.check == wanted.calibration else ()
        found = _labelled_if_possible(wanted.check, spec, wanted.check_count, HELD_OUT, config.max_drop is not None)
        if set(used) & set(found.names) and found.name == (feed and feed.name):
            warn("some of the pictures to compare on calibrate too, so the cost may be a little more than is measured")
        if len(found) < LEAST_PICTURES:
            raise UsageError(
                f"--check-data has {len(found)} pictures; it takes {LEAST_PICTURES} to tell what INT8 costs"
            )
    elif feed:
        found = _open_unused_pictures(spec, config, feed)
    else:
        found = open_feed(None, spec)
        warn("without pictures the cost is measured on synthetic ones: --check-data gives real ones")
    return found


def _open_unused_pictures(spec: ModelSpec, config: ExportConfig, feed: Feed) -> Feed:
    """Open the images of the calibration data that `feed` does not use; if they are too few, those that it uses."""
    data = config.pictures.calibration
    assert data
    count = config.pictures.check_count
    try:
        rest = _labelled_if_possible(data, spec, count, TRAINING, config.max_drop is not None, feed.names)
    except DataError:
        rest = None
    if rest and len(rest) >= LEAST_PICTURES:
        return rest
    which = "nearly all" if rest else "all"
    warn(f"{which} pictures of {data} calibrate, so the same ones measure the cost, which may be a little more")
    return _labelled_if_possible(data, spec, len(feed), TRAINING, config.max_drop is not None)


def _labelled_if_possible(
    source: Path, spec: ModelSpec, count: int, prefer: Sequence[str], required: bool, exclude: Sequence[str] = ()
) -> Feed:
    """Open images with their labels, or without them if the labels do not fit the model and are not `required`."""
    try:
        return open_feed(source, spec, count=count, prefer=prefer, exclude=exclude, labelled=True)
    except DataError as error:
        if required or (exclude and error.reason == "empty"):  # then the caller takes all of them, with labels
            raise
        warn(f"compared without labels: {error.message}")
        return open_feed(source, spec, count=count, prefer=prefer, exclude=exclude)
