"""What is written beside a result never takes the place of anything else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer import reporting
from resnet_infer.errors import ResnetInferError, UsageError
from resnet_infer.evaluation.journal import MAGIC, is_journal
from resnet_infer.models.outputs import Output, require_free, whole_file
from resnet_infer.reporting.html import document, is_page


def page(path: Path) -> Output:
    return Output("--report", path, "page of ours", is_page)


def answers(path: Path) -> Output:
    return Output("--answers", path, "file of answers", is_journal)


@pytest.mark.parametrize(
    "content", ["", document("title", [], Path(reporting.__file__).with_name("html.css"))], ids=["empty", "1"]
)
def test_a_page_may_be_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(content, encoding="utf-8")
    require_free([page(path)], [])
    assert path.read_text(encoding="utf-8") == content


@pytest.mark.parametrize(
    "content",
    [b"path,label\n", b"\x08\x07\x12", b'{"file": "other"}\n', b"# doctype html", b"<!doctype html><html><body>"],
)
@pytest.mark.parametrize("output", [page, answers])
def test_another_file_is_refused_and_left_alone(
    tmp_path: Path, content: bytes, output: Callable[[Path], Output]
) -> None:
    path = tmp_path / "there"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is there already and is no "):
        require_free([output(path)], [])
    assert path.read_bytes() == content


def test_answers_may_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(f'{{"file": "{MAGIC}"}}\n')
    require_free([answers(path)], [])
    with pytest.raises(UsageError, match="is no page of ours"):
        require_free([page(path)], [])


def test_an_input_is_refused_by_whatever_path(tmp_path: Path) -> None:
    source = tmp_path / "list.html"
    source.write_text("<html>")  # of the right kind, and yet
    (tmp_path / "link.html").symlink_to(source)
    os.link(source, tmp_path / "hard.html")
    for path in (source, tmp_path / "link.html", tmp_path / "hard.html", tmp_path / "." / "list.html"):
        with pytest.raises(UsageError, match=r"--report would overwrite .*list\.html, which is read"):
            require_free([page(path)], [source])


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="--answers and --report both name"):
        require_free([page(tmp_path / "x"), answers(tmp_path / "folder" / ".." / "x")], [])
    require_free([page(tmp_path / "x"), answers(tmp_path / "y")], [])


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for output in (page(tmp_path), answers(tmp_path)):
        with pytest.raises(UsageError, match=f"is a folder, and {output.option} names a file"):
            require_free([output], [])


def test_a_place_that_cannot_be_written_is_told_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "new" / "report.html"
    with pytest.raises(ResnetInferError, match="cannot write") as caught:
        require_free([page(path)], [])
    assert (caught.value.hint or "").endswith(", or choose another place with --report")
    with pytest.raises(ResnetInferError, match="cannot write") as caught, whole_file(path, "--report") as temporary:
        temporary.touch()
    assert "another place with --report" in str(caught.value.hint)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a folder in which nobody may write")
def test_a_folder_in_which_nothing_can_be_made_is_found_before(tmp_path: Path) -> None:
    with pytest.raises(ResnetInferError, match="cannot write"):
        require_free([page(Path("/proc/self/report.html"))], [])


def test_nothing_is_made_yet(tmp_path: Path) -> None:
    require_free([page(tmp_path / "new" / "report.html")], [])
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_written_to(tmp_path: Path) -> None:
    require_free([page(Path(os.devnull))], [])
