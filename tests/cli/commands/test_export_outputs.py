"""`resnet-infer export` replaces artifacts, with the file that belongs beside them, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer import zoo
from resnet_infer.converters.formats import ROWS, Format
from resnet_infer.models.spec import METADATA_KEY
from tests.conftest import Outcome

pytest.importorskip("onnx", reason="the extra `export`")

Cli = Callable[..., Outcome]
WITH_COMPANION = [row for row in ROWS if row.companion]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the command runs."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_file_of_another_kind_is_not_replaced(cli: Cli, here: Path, row: Format) -> None:
    path = here / f"notes{row.suffix}"
    path.write_bytes(b"years of work")
    done = cli("export", zoo.SMALL, "--format", row.name, "-o", path.name)
    assert (done.code, done.out) == (2, "")
    assert f"error: {path.name} is there already and is no artifact" in done.err
    assert path.read_bytes() == b"years of work"
    assert os.listdir(here) == [path.name]


@pytest.mark.parametrize("row", WITH_COMPANION, ids=lambda row: row.name)
def test_nor_is_one_with_the_name_of_the_second_file(cli: Cli, here: Path, row: Format) -> None:
    path = here / f"pytorch_model{row.suffix}"
    companion = row.companion_of(path)
    assert companion is not None
    companion.write_bytes(b"weights of somebody")
    done = cli("export", zoo.SMALL, "--format", row.name, "-o", path.name)
    assert (done.code, done.out) == (2, "")
    assert f"error: {companion.name} is there already and is no part of {path.name}" in done.err
    assert companion.read_bytes() == b"weights of somebody"
    assert os.listdir(here) == [companion.name]


@pytest.mark.parametrize("suffix", [row.suffix for row in ROWS if row.suffix != ".onnx"])
def test_an_export_starts_from_a_checkpoint_or_a_graph(cli: Cli, here: Path, suffix: str) -> None:
    (here / f"model{suffix}").write_bytes(b"what it is")
    done = cli("export", f"model{suffix}", "-o", "new.onnx")
    assert (done.code, done.out) == (1, "")
    assert f"model{suffix} is an artifact already" in done.err
    assert os.listdir(here) == [f"model{suffix}"]


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
@pytest.mark.parametrize("row", WITH_COMPANION, ids=lambda row: row.name)
def test_a_link_to_one_file_of_two_is_not_written_through(cli: Cli, here: Path, row: Format) -> None:
    """Only the first of the linked files would be replaced, and not the second, which belongs to it."""
    pytest.importorskip("openvino", reason="the extra `openvino`")
    real = here / "store" / f"v1{row.suffix}"
    partner = row.companion_of(real)
    assert partner is not None
    real.parent.mkdir()
    real.write_bytes(METADATA_KEY.encode())
    partner.write_bytes(b"its second file")
    link = here / f"latest{row.suffix}"
    link.symlink_to(real)
    done = cli("export", zoo.SMALL, "--format", row.name, "-o", link.name)
    assert (done.code, done.out) == (2, "")
    assert f"{link.name} is a link to {real}" in done.err
    assert (real.read_bytes(), partner.read_bytes()) == (METADATA_KEY.encode(), b"its second file")
    assert sorted(os.listdir(here)) == [link.name, "store"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-p", "int8"), "INT8 needs pictures"),
        (("-p", "int8", "--target", "auto"), "INT8 needs pictures"),
        (("--max-drop", "1"), "FP32 costs nothing that could be measured"),
        (("-p", "fp16", "--calibration-data", "data"), "--calibration-data is for --precision int8"),
    ],
)
def test_the_settings_are_checked_before_a_model_is_downloaded(
    cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(zoo, "source", lambda model: pytest.fail("it is loaded"))
    done = cli("export", "resnet50", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not os.listdir(here)


@pytest.mark.parametrize("row", [row for row in ROWS if row.name not in ("onnx", "tensorrt")], ids=lambda row: row.name)
def test_packages_are_missed_before_a_model_is_downloaded(
    cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch, row: Format
) -> None:
    for step in (row.write, row.prove):
        monkeypatch.setitem(sys.modules, step.partition(":")[0], None)
    monkeypatch.setattr(zoo, "source", lambda model: pytest.fail("it is loaded"))
    done = cli("export", "resnet50", "--format", row.name)
    assert done.code == 1
    assert not os.listdir(here)
