"""Every kind of unreadable file at the command line: a line each, exit 1, and the good ones answered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PICTURES, Outcome
from tests.data.test_image import BAD


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A folder with all of `BAD` and two good pictures, and the paths of the bad ones."""
    folder = tmp_path_factory.mktemp("mixed")
    bad = set()
    for index, (content, _) in enumerate(BAD.values()):
        path = folder / f"{index:02}.jpg"
        path.write_bytes(content)
        bad.add(str(path))
    shutil.copy(PICTURES / "ship.jpg", folder / "05-good.jpg")
    shutil.copy(PICTURES / "car.jpg", folder / "zz-good.jpg")
    return folder, bad


@pytest.mark.parametrize(("on_error", "code"), [("fail", 1), ("skip", 0)])
def test_each_bad_file_is_one_line_and_the_good_ones_are_answered(
    mixed: tuple[Path, set[str]], cli: Callable[..., Outcome], on_error: str, code: int
) -> None:
    folder, bad = mixed
    assert len(bad) >= 20
    done = cli("classify", folder, "--on-error", on_error, "-f", "jsonl", "-b", 3)
    assert done.code == code
    answers = [json.loads(line) for line in done.out.splitlines()]
    good = [answer for answer in answers if "error" not in answer]
    assert [(Path(a["source"]).name, a["predictions"][0]["label"]) for a in good] == [
        ("05-good.jpg", "ship"),
        ("zz-good.jpg", "automobile"),
    ]
    assert [answer["source"] for answer in answers] == sorted(str(path) for path in folder.iterdir())
    assert {answer["source"] for answer in answers if "error" in answer} == bad
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert sorted(line.removeprefix("error: ").partition(": ")[0] for line in errors) == sorted(bad)
    assert len(done.err.splitlines()) == len(errors)
    assert "Traceback" not in done.err


def test_one_bad_file_alone(mixed: tuple[Path, set[str]], cli: Callable[..., Outcome]) -> None:
    for path in sorted(mixed[1]):
        done = cli("classify", path)
        assert done.code == 1
        assert done.out.startswith(f"{path}\n  not read: ")
        assert done.out.count("\n") == 2
        assert done.err.count("error: ") == 1


def test_paths_that_the_system_refuses_cost_only_themselves(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    bad = [
        str(tmp_path / "absent.jpg"),
        str(tmp_path / ("x" * 300 + ".jpg")),
        "~nobody-of-that-name/x.jpg",
        "nul\0.jpg",
    ]
    done = cli("classify", *bad, PICTURES / "ship.jpg", "-f", "jsonl", "--on-error", "skip")
    assert done.code == 0
    *refused, answer = map(json.loads, done.out.splitlines())
    assert answer["predictions"][0]["label"] == "ship"
    assert [row["source"] for row in refused] == bad
    assert all(row["error"] for row in refused)
    assert done.err.count("error: ") == len(bad)
    assert "should not happen" not in done.err
    assert cli("inspect", "~nobody-of-that-name").code == 1


def test_nothing_to_classify_loads_nothing(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    done = cli("classify", tmp_path / "*.jpg", "-m", "no-such-model")
    assert (done.code, done.out) == (1, f"{tmp_path / '*.jpg'}\n  not read: no pictures there\n")
    assert "no pictures there" in done.err
    assert "no-such-model" not in done.err
