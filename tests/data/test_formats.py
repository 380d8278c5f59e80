"""The table of formats of data sets."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module

import pytest

from resnet_infer.data.datasets import formats
from resnet_infer.data.datasets.formats import FORMATS, Format, label_files
from tests.test_house import PACKAGE, modules


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_a_row_names_what_is_there(row: Format) -> None:
    for reference in filter(None, (row.recognise, row.files)):
        module, _, name = reference.partition(":")
        assert hasattr(import_module(module), name), reference


def test_every_module_that_recognises_has_a_row() -> None:
    found = {
        f"resnet_infer.data.datasets.{path.rpartition('/')[2][:-3]}:recognise"
        for path, tree in modules(PACKAGE / "data" / "datasets")
        if path not in ("__init__.py", "formats.py")
        and any(isinstance(node, ast.FunctionDef) and node.name == "recognise" for node in tree.body)
    }
    assert found == {row.recognise for row in FORMATS}


def test_an_archive_keeps_the_files_of_every_format() -> None:
    assert {
        "test_batch.bin",
        "batches.meta",
        "wnids.txt",
        "val_annotations.txt",
        "val.txt",
        "words.txt",
    } < label_files()
    assert not {"README.md", "labels.csv"} & label_files()


def test_a_row_whose_files_are_one_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is a collection, too: of its letters. Archives would be read without the file."""
    row = Format("toy", "x:y", "resnet_infer.data.datasets.tiny_imagenet:IDS")
    monkeypatch.setattr(formats, "FORMATS", (row, *FORMATS))
    label_files.cache_clear()
    try:
        with pytest.raises(TypeError, match="tiny_imagenet:IDS is one text"):
            label_files()
    finally:
        label_files.cache_clear()


def test_a_format_is_imported_when_a_source_is_opened() -> None:
    code = "import sys, resnet_infer.data.datasets; print('resnet_infer.data.datasets.cifar' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
