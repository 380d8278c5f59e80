"""Which photographs the tests that go through them all have seen: imagenet-sample, or only those of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SAMPLE, photographs


@pytest.mark.slow
def test_the_123_photos_of_imagenet_sample_are_those_that_tests_go_through(data_folder: Path) -> None:
    """Slow as whatever needs a larger data set is, so that `make test` skips nothing where there is none."""
    found = photographs()
    if found[0].parent != data_folder / "imagenet-sample":
        pytest.skip(f"needs imagenet-sample: tests that go through all photos saw {len(found)} of the repository's")
    assert len(found) == SAMPLE == 123
