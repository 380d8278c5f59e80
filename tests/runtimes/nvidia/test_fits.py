"""The table of versions that fit: the extras and the documents say the same."""

from __future__ import annotations

import re
import sys

import pytest

from resnet_infer.runtimes.nvidia.fits import FITS, Fit, best_fit, fit_of
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@pytest.mark.parametrize("row", FITS, ids=lambda row: f"CUDA {row.cuda}")
def test_the_extras_install_what_the_table_says(row: Fit) -> None:
    assert EXTRAS[row.extra] == [row.onnxruntime]
    assert EXTRAS[row.tensorrt_extra] == [row.engine_tensorrt, row.cuda_bindings]


@pytest.mark.parametrize("row", FITS, ids=lambda row: f"CUDA {row.cuda}")
def test_the_page_has_the_table(row: Fit) -> None:
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    section = page.partition("## NVIDIA GPUs")[2]
    for text in (row.onnxruntime, row.provider_tensorrt, row.engine_tensorrt, row.cuda_bindings, f"[{row.extra}]"):
        assert text in section
    assert f"{row.driver} or newer" in section
    assert f"{row.python[0]}.{row.python[1]} or newer" in section


@pytest.mark.parametrize(
    ("cuda", "python", "extra"),
    [
        (13, (3, 12), "gpu"),
        (14, (3, 11), "gpu"),
        (13, (3, 10), "gpu-cu12"),
        (12, (3, 12), "gpu-cu12"),
        (11, (3, 12), None),
        (None, (3, 12), "gpu"),
        (None, (3, 9), None),
    ],
)
def test_the_newest_row_that_fits_is_chosen(cuda: int | None, python: tuple[int, int], extra: str | None) -> None:
    found = best_fit(cuda, python)
    assert (found.extra if found else None) == extra


def test_rows_are_newest_first_and_found_by_their_version() -> None:
    assert [row.cuda for row in FITS] == sorted({row.cuda for row in FITS}, reverse=True)
    for row in FITS:
        assert fit_of(row.cuda) is row
        assert all(str(row.cuda) in text for text in (row.provider_tensorrt, row.engine_tensorrt))
    assert fit_of(11) is None
    assert best_fit(99) == best_fit(None, sys.version_info[:2])


def test_an_extra_that_a_text_names_exists() -> None:
    """In the documents, the messages, the Makefile and the tests."""
    files = [*ROOT.glob("*.md"), ROOT / "Makefile", *(ROOT / "docs").rglob("*.md")]
    files += [
        path for folder in ("resnet_infer", "demo", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py")
    ]
    named = {
        (path.name, extra)
        for path in files
        if path.name != "CHANGELOG.md"
        for extras in re.findall(r"(?:resnet-infer|\"\.)\[([\w,-]+)\]", path.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert len(named) > 10
    assert {extra for _, extra in named} - set(EXTRAS) - {"extra"} == set()
