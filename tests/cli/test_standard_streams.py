"""Commands whose standard streams are closed, full or broken, and those of users who have no home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from resnet_infer import zoo
from resnet_infer.cli.main import COMMANDS
from tests.conftest import PICTURES

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")

ROOT = Path(__file__).parents[2]
CAT, CHECKPOINT = str(PICTURES / "cat.jpg"), str(zoo.built_in(zoo.SMALL, ".safetensors"))
RUN = (sys.executable, "-m", "resnet_infer")

QUICK: dict[str, tuple[str, ...]] = {
    "classify": ("classify", CAT, "-f", "json"),
    "classify many": ("classify", str(PICTURES), "-m", zoo.SMALL, "-f", "csv"),
    "inspect": ("inspect", zoo.SMALL, "--json"),
    "version": ("--version",),
    "wrong": ("classify", "--no-such-option"),
}
SLOW: dict[str, tuple[str, ...]] = {
    "table": ("classify", CAT, "-m", zoo.SMALL),
    "cache": ("cache", "list"),
    "env": ("env",),
    "help": ("--help",),
    "models": ("models",),
    "compare": ("compare", zoo.SMALL, zoo.SMALL),
    "evaluate": ("evaluate", zoo.SMALL, "{album}", "--device", "cpu"),
    "export": ("export", zoo.SMALL, "-o", "{folder}/made.onnx"),
    "benchmark": ("benchmark", zoo.SMALL, "--rounds", "1", "--seconds", "0.05", "--json"),
    "train": (
        "train",
        "{album}",
        "--arch",
        "resnet8",
        "--iterations",
        "2",
        "--batch-size",
        "4",
        "--validation",
        "0",
        "-o",
        "{folder}/run",
    ),
    "import": ("import", "{folder}/missing.pth", "--arch", "resnet20", "-o", "{folder}/made.safetensors"),
    "curves": ("curves", "{folder}", "-o", "{folder}/curves.png"),
    "serve": ("serve", "--device", "wrong"),
}
"""Those that a run of each takes seconds, or fails."""


@dataclass(frozen=True)
class Streams:
    """How the streams of a command are: `redirected` by a shell, or `broken` off by who read stdout."""

    redirected: str = ""
    broken: bool = False

    @property
    def stdout_takes_nothing(self) -> bool:
        return self.broken or any(part in f" {self.redirected}" for part in (" >&-", " >/dev/full"))

    @property
    def stderr_takes_nothing(self) -> bool:
        return "2>" in self.redirected


STREAMS = {
    item.redirected or "broken": item
    for item in (
        Streams(">&-"),
        Streams("2>&-"),
        Streams("<&-"),
        Streams("<&- >&- 2>&-"),
        Streams(">/dev/full"),
        Streams("2>/dev/full"),
        Streams(broken=True),
    )
}


TIMED = ("benchmark", "evaluate", "train")
"""Commands whose results have times in them, or the name of a run."""
WRONG = {"wrong": 2, "import": 1, "curves": 1, "serve": 2}
"""Exit codes of those that fail."""
EXPECTED: dict[str, tuple[int, str, str]] = {}
"""What commands do whose streams are as they should be."""
Prepare = Callable[[Path], None]


def run(arguments: tuple[str, ...], streams: Streams, folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; in a folder of its own, where the cache is too."""
    command = (*RUN, *(item.format(folder=folder, album=folder / "album") for item in arguments))
    environment = {**os.environ, "RESNET_INFER_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    if streams.broken:
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment, check=False
        )
        os.close(writing)
    else:
        shell = ("sh", "-c", f'exec "$@" {streams.redirected}', "sh", *command)
        done = subprocess.run(shell, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    return done.returncode, done.stdout or "", done.stderr


def check(arguments: tuple[str, ...], streams: Streams, folder: Path, expected: tuple[int, str, str]) -> None:
    code, out, err = run(arguments, streams, folder)
    told = f"{arguments} {streams}: {code}\n{out}\n{err}"
    assert "Traceback" not in err, told
    assert "should not happen" not in err, told
    assert "Exception ignored" not in err, told
    if streams.stdout_takes_nothing and (expected[1] or ">&-" in f" {streams.redirected}".replace("2>&-", "")):
        assert code in ({1, 2} if expected[0] == 2 else {1}), told
        if expected[0] != 2 and not (streams.broken or streams.stderr_takes_nothing):
            assert "standard output is closed" in err or "cannot write the result" in err, told
    else:
        assert code == expected[0], told
        assert not streams.stderr_takes_nothing or err == "", told
        assert streams.stdout_takes_nothing or arguments[0] in TIMED or out == expected[1], told


def check_all(commands: dict[str, tuple[str, ...]], streams: Streams, tmp_path: Path, prepare: Prepare) -> None:
    def one(item: tuple[str, tuple[str, ...]]) -> None:
        plain, folder = tmp_path / item[0] / "plain", tmp_path / item[0] / "other"
        for place in (folder, *([] if item[0] in EXPECTED else [plain])):
            place.mkdir(parents=True)
            prepare(place)
        if item[0] not in EXPECTED:
            code, out, err = run(item[1], Streams(), plain)
            EXPECTED[item[0]] = code, out.replace(str(plain), "{folder}"), err
        code, out, err = EXPECTED[item[0]]
        assert code == WRONG.get(item[0], 0), err
        check(item[1], streams, folder, (code, out.replace("{folder}", str(folder)), err))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, commands.items()))


@pytest.mark.parametrize("name", STREAMS)
def test_streams_that_take_nothing_cost_a_line_at_most(name: str, tmp_path: Path) -> None:
    check_all(QUICK, STREAMS[name], tmp_path, lambda folder: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMS)
def test_every_command_bears_such_streams(name: str, tmp_path: Path) -> None:
    from PIL import Image

    def prepare(folder: Path) -> None:
        for split in ("train", "test"):
            for label, colour in (("cat", "red"), ("dog", "blue")):
                (folder / "album" / split / label).mkdir(parents=True)
                for number in range(6):
                    Image.new("RGB", (32, 32), colour).save(folder / "album" / split / label / f"{number}.png")

    check_all(SLOW, STREAMS[name], tmp_path, prepare)


def test_every_command_is_tried() -> None:
    assert {arguments[0] for arguments in (*QUICK.values(), *SLOW.values())} >= COMMANDS.keys()


def test_a_closed_stdin_is_no_picture(tmp_path: Path) -> None:
    code, out, err = run(("classify", "-", "-f", "json"), Streams("<&-"), tmp_path)
    assert (code, '"error"' in out) == (1, True)
    assert "standard input is closed" in err


def test_a_stdin_that_cannot_be_read_is_no_picture(tmp_path: Path) -> None:
    code, _, err = run(("classify", "-"), Streams("0>/dev/null"), tmp_path)
    assert code == 1
    assert "should not happen" not in err
    assert "stdin: " in err


def test_a_file_that_is_opened_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What a library prints would be written into it."""
    code = (
        "import os, sys; import resnet_infer.cli.main as m\n"
        "m.app = lambda: os.write(1, b'printed') and None\n"
        "sys.argv[1:] = ['serve']\n"
        "m.occupy_descriptors(); file = open('result', 'w'); m.main()"
    )
    subprocess.run(("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code), cwd=tmp_path, check=False)
    assert (tmp_path / "result").read_text(encoding="utf-8") == ""


# Users and folders

STRANGER = """
import os, pathlib, pwd, sys, tempfile
folder, without_temporary, *arguments = sys.argv[1:]
os.chdir(folder)
def nobody(number): raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = nobody
if without_temporary == "True":
    tempfile._candidate_tempdir_list = lambda: ["/no/such/folder"]
def open_to_all(path):
    return all(part.stat().st_mode & 1 for part in pathlib.Path(path).resolve().parents)
# An interpreter below root's own folder is nobody else's: then only what the system says of the user is another's.
if os.getuid() == 0 and open_to_all(os.__file__) and open_to_all(sys.prefix):
    os.setgroups([]); os.setgid(12345); os.setuid(12345)
from resnet_infer.cli.main import main
sys.argv[1:] = arguments
main()
"""
HOMES = {"none": {}, "unreadable": {"HOME": "{unreadable}"}, "no such folder": {"HOME": "/proc/no/home"}}
WAYS_OUT = ("RESNET_INFER_CACHE", "TMPDIR")


@pytest.mark.parametrize(
    ("home", "without_temporary"),
    [
        ("none", False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("none", True), ("unreadable", False), ("no such folder", False))
        ),
    ],
)
def test_a_user_without_a_home_is_answered_or_told_the_way_out(
    home: str, without_temporary: bool, tmp_path: Path
) -> None:
    unreadable = tmp_path / "unreadable"
    unreadable.mkdir(mode=0)
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    environment.pop("RESNET_INFER_CACHE", None)
    environment |= {key: value.format(unreadable=unreadable) for key, value in HOMES[home].items()}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def stranger(arguments: tuple[str, ...]) -> None:
        command = (sys.executable, "-c", STRANGER, "/", str(without_temporary), *arguments)
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        told = f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, told
        assert "should not happen" not in done.stderr, told
        if arguments[0] in ("cache", "classify") and arguments[-1] == "resnet18":
            assert done.returncode == 1, told
        if done.returncode:
            assert any(way in (done.stdout if arguments[0] == "env" else done.stderr) for way in WAYS_OUT), told
        if arguments[0] == "env" and home == "none":
            assert (done.returncode, "this user has no home folder" in done.stdout) == (1, True), told
        if arguments[0] == "classify" and arguments[-1] != "resnet18":
            assert (done.returncode, "cat " in done.stdout) == (0, True), told

    tried = (
        ("classify", CAT, "-m", zoo.SMALL),
        ("classify", CAT, "-m", CHECKPOINT),
        *([("classify", CAT, "-m", "resnet18")] if home != "unreadable" else []),  # root may write there
        ("models",),
        ("models", "resnet18"),
        ("env",),
        ("cache", "list"),
        ("inspect", zoo.SMALL),
    )
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(stranger, tried))
    unreadable.chmod(0o700)
