"""Answers that are kept in a file: whole lines only, of one evaluation only, by one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_infer.errors import DataError, ResnetInferError, UsageError
from resnet_infer.evaluation.journal import Journal
from resnet_infer.evaluation.record import RankedAnswer, Record

HEAD = {"the models": ["a"], "the data": "b"}
confidences = st.floats(0, 1, width=32)
answers = st.lists(
    st.builds(RankedAnswer, st.integers(0, 1000), st.integers(-1, 999), confidences), min_size=2, max_size=2
)


def same(first: Record, second: Record) -> bool:
    return all(
        np.array_equal(getattr(first, part), getattr(second, part))
        for part in ("ranks", "top1", "confidence", "digests")
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 2**64 - 1), answers), max_size=30), st.data())
def test_a_file_cut_anywhere_gives_the_lines_that_are_whole(
    tmp_path: Path, entries: list[tuple[int, int, list[RankedAnswer]]], draw: Any
) -> None:
    path = tmp_path / "answers.jsonl"
    path.unlink(missing_ok=True)
    with Journal(path, HEAD, Record(2, 20)) as journal:
        start = path.stat().st_size
        ends = [start]
        for entry in entries:
            journal.append(*entry)
            ends.append(path.stat().st_size)  # each is in the file at once
    cut = draw.draw(st.integers(start, ends[-1]))
    with open(path, "rb+") as file:
        file.truncate(cut)
    whole = sum(end <= cut for end in ends) - 1
    expected, found = Record(2, 20), Record(2, 20)
    for entry in entries[:whole]:
        expected.add(*entry)
    with Journal(path, HEAD, found) as journal:
        assert same(found, expected)
        for entry in entries[whole:]:
            journal.append(*entry)
            expected.add(*entry)
    again = Record(2, 20)
    Journal(path, HEAD, again).close()
    assert same(again, expected)


@pytest.mark.parametrize(
    "line",
    [
        "[99, 1, [[0, 0, 1], [0, 0, 1]]]",
        "[1, 1, [[0, 0, 1]]]",
        "[1]",
        "{}",
        "\x00\x00",
        "[1, -1, [[0, 0, 1], [0, 0, 1]]]",
        "[1, 99999999999999999999, [[0, 0, 1], [0, 0, 1]]]",
        "[1, 1, [[99999999999, 0, 1], [0, 0, 1]]]",
        "[1, 1, [[0.5, 0, 1], [0, 0, 1]]]",
        "[1, 1, [[0, -2, 1], [0, 0, 1]]]",
        "[1, 1, [[0, 0, 17], [0, 0, 1]]]",
        "[1, 1, [[0, 0, NaN], [0, 0, 1]]]",
        "[" * 100_000,
    ],
)
@pytest.mark.parametrize("torn", [False, True])
def test_a_damaged_line_is_passed_over_and_the_rest_is_kept(tmp_path: Path, line: str, torn: bool) -> None:
    path = tmp_path / "answers.jsonl"
    with Journal(path, HEAD, Record(2, 20)) as journal:
        for number in (3, 5, 7):
            journal.append(number, number, [RankedAnswer(0, 1, 0.5)] * 2)
    head, first, *others = path.read_bytes().splitlines(keepends=True)
    whole = head + first + line.encode() + b"\n" + b"".join(others)
    path.write_bytes(whole + (others[-1][:9] if torn else b""))
    record = Record(2, 20)
    with Journal(path, HEAD, record) as journal:
        assert np.flatnonzero(record.answered).tolist() == [3, 5, 7]
        assert (journal.damaged, journal.kept) == (1, 3)
        journal.append(8, 8, [RankedAnswer(0, 1, 0.5)] * 2)
        assert journal.kept == 4
    assert path.read_bytes().startswith(whole)
    again = Record(2, 20)
    Journal(path, HEAD, again).close()
    assert np.flatnonzero(again.answered).tolist() == [3, 5, 7, 8]


def test_the_answers_of_another_evaluation_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Journal(path, HEAD, Record(2, 20)).close()
    before = path.read_bytes()
    with pytest.raises(DataError, match="belongs to another evaluation: the models differ"):
        Journal(path, {**HEAD, "the models": ["z"]}, Record(2, 20))
    with pytest.raises(DataError, match="the protocols differ"):
        Journal(path, {**HEAD, "the protocols": 1}, Record(2, 20))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["path,label\n", '{"file": "other"}\n', "[]\n", '{"file":', "\xff"])
def test_another_file_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match="holds no results of an evaluation"):
        Journal(path, HEAD, Record(1, 1))
    assert path.read_text(encoding="latin-1") == content


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResnetInferError, match="cannot write") as caught:
        Journal(tmp_path / "file" / "answers.jsonl", HEAD, Record(1, 1))
    assert "another place with --answers" in str(caught.value.hint)
    with pytest.raises(UsageError, match="is a folder, and --answers names a file"):
        Journal(tmp_path, HEAD, Record(1, 1))


def test_one_process_has_it_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    link = tmp_path / "link.jsonl"
    first = Journal(path, HEAD, Record(1, 9))
    link.symlink_to(path)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from resnet_infer.evaluation.journal import Journal\nfrom resnet_infer.evaluation.record import Record\n"
        f"Journal(Path(sys.argv[1]), {HEAD!r}, Record(1, 9)).close()"
    )
    for place in (path, link):
        done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"another evaluation is writing to {place}" in done.stderr
    first.append(1, 1, [RankedAnswer(0, 1, 0.5)])
    first.close()
    with pytest.raises(DataError):  # and one that is refused does not keep it
        Journal(path, {"the data": "c"}, Record(1, 9))
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0
