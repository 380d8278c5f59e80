"""Answers that are kept in a file: whole lines only, and only of the evaluation that they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_infer.errors import DataError, ResnetInferError
from resnet_infer.evaluation.record import Given, Journal, Record

HEAD = {"the models": ["a"], "the data": "b"}
confidences = st.floats(0, 1, width=32)
answers = st.lists(st.builds(Given, st.integers(0, 1000), st.integers(-1, 999), confidences), min_size=2, max_size=2)


def same(first: Record, second: Record) -> bool:
    return all(
        np.array_equal(getattr(first, part), getattr(second, part))
        for part in ("ranks", "top1", "confidence", "digests")
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 2**64 - 1), answers), max_size=30), st.data())
def test_a_file_cut_anywhere_gives_the_lines_that_are_whole(
    tmp_path: Path, entries: list[tuple[int, int, list[Given]]], draw: Any
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


@pytest.mark.parametrize("line", ["[99, 1, [[0, 0, 1], [0, 0, 1]]]", "[1, 1, [[0, 0, 1]]]", "[1]", "{}", "\x00\x00"])
def test_what_is_no_answer_ends_the_file(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    with Journal(path, HEAD, Record(2, 20)) as journal:
        journal.append(3, 1, [Given(0, 1, 0.5)] * 2)
    good = path.read_bytes()
    path.write_bytes(good + line.encode() + b"\n")
    record = Record(2, 20)
    Journal(path, HEAD, record).close()
    assert np.flatnonzero(record.answered).tolist() == [3]
    assert path.read_bytes() == good


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
    with pytest.raises(ResnetInferError, match="cannot write"):
        Journal(tmp_path / "file" / "answers.jsonl", HEAD, Record(1, 1))


def test_fifty_thousand_pictures_need_little_memory() -> None:
    record = Record(3, 50_000)
    size = sum(part.nbytes for part in (record.ranks, record.top1, record.confidence, record.digests))
    assert size == 50_000 * (3 * 12 + 8)
    assert len(json.dumps([49_999, 2**64 - 1, [[999, 999, 0.123456789]] * 3])) < 120
