"""No command writes outside of its output and its cache, or asks anything beyond this machine.

Each runs in a process of its own with an empty home, and strace shows what it and its children ask of the kernel:
libraries in native code write and resolve names without Python's knowledge.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from resnet_infer import zoo
from resnet_infer.cli.main import COMMANDS
from tests.conftest import PICTURES, ROOT
from tests.serving.servers import free_port

STRACE = shutil.which("strace")
WRITES = (
    *("open", "openat", "creat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat"),
    *("symlink", "symlinkat", "mknod", "mknodat", "truncate"),
)
SENDS = ("connect", "sendto", "sendmsg", "sendmmsg")
CALL = re.compile(r"^(?:\[pid +)?(?P<pid>\d+)\]? +(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
FREE = ("/dev/", "/proc/")
LOOPBACK = ("127.", "::1", "::ffff:127.")


def can_trace() -> bool:
    """Whether strace is there and this process may trace others; in some containers it may not."""
    return STRACE is not None and subprocess.run([STRACE, "-o", os.devnull, "true"], check=False).returncode == 0


pytestmark = [
    pytest.mark.skipif(not can_trace(), reason="needs strace (apt-get install strace), and leave to trace processes"),
    pytest.mark.skipif(find_spec("onnxruntime") is None, reason="the extra `cpu` or `gpu`"),
]


@dataclass
class Place:
    """Where a command runs: its folders, and the trace of what it does."""

    folder: Path

    def __post_init__(self) -> None:
        self.home, self.out, self.cache, self.temporary = (self.folder / name for name in ("home", "out", "cache", "t"))
        for folder in (self.home, self.out, self.temporary):
            folder.mkdir()
        self.trace = self.folder / "trace"

    def command(self, *arguments: object) -> list[str]:
        assert STRACE is not None
        calls = ",".join(f"?{name}" for name in (*WRITES, *SENDS))
        return [
            *(STRACE, "-f", "--seccomp-bpf", "-qq", "-s", "512", "-e", "signal=none", "-e", f"trace={calls}"),
            *("-o", str(self.trace), sys.executable, *map(str, arguments)),
        ]

    def environment(self, **more: str) -> dict[str, str]:
        """That of a user who has set nothing."""
        kept = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "VIRTUAL_ENV")
        return {
            **{name: value for name, value in os.environ.items() if name in kept},
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "RESNET_INFER_CACHE": str(self.cache),
            "RESNET_INFER_MODEL": zoo.SMALL,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            **more,
        }

    def run(self, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.out,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def faults(self) -> list[str]:
        """What was written elsewhere, and who was asked beyond this machine."""
        allowed = (*FREE, *(f"{folder}/" for folder in (self.out, self.cache, self.temporary)))
        found = []
        for line in self.trace.read_text(errors="replace").splitlines():
            call = CALL.match(line)
            if call is None:
                continue
            arguments = call["arguments"]
            if call["name"] in SENDS:
                found += [line] if _leaves(arguments) else []
            elif int(call["result"]) >= 0 and _writes(call["name"], arguments):
                path = os.path.normpath(self.out / re.findall(r'"((?:[^"\\]|\\.)*)"', arguments)[-1])
                if not f"{path}/".startswith(allowed):
                    found.append(line)
        found += [f"left: {path}" for folder in (self.home, self.temporary) for path in sorted(folder.rglob("*"))]
        return found


def _writes(name: str, arguments: str) -> bool:
    return name not in ("open", "openat") or any(flag in arguments for flag in ("O_WRONLY", "O_RDWR", "O_CREAT"))


def _leaves(arguments: str) -> bool:
    """Whether an address is beyond loopback, or is that of a resolver, which may be on loopback."""
    if "AF_UNIX" in arguments:
        return "resolve" in arguments
    addresses = re.findall(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"', arguments)
    resolver = "htons(53)" in arguments
    return any(resolver or not (four or six).startswith(LOOPBACK) for four, six in addresses)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of the built-in model's classes, several pictures in each."""
    folder = tmp_path_factory.mktemp("data")
    for split, copies in (("train", 4), ("val", 2)):
        for name, label in (("cat", "cat"), ("ship", "ship"), ("car", "automobile")):
            (folder / split / label).mkdir(parents=True)
            for number in range(copies):
                shutil.copy(PICTURES / f"{name}.jpg", folder / split / label / f"{number}.jpg")
    return folder


CAT = PICTURES / "cat.jpg"
SIZE = ("--resize", "32", "--crop", "32")
INPUT = (*SIZE, "--mean", "0.5", "--std", "0.25")
Commands = tuple[tuple[object, ...], ...]
QUICK: Mapping[str, tuple[Commands, tuple[str, ...]]] = {
    "classify": ((("classify", CAT, "-f", "json", "-o", "answers.json"),), ()),
    "classify, many": ((("classify", PICTURES),), ()),
    "classify, default": ((("classify", CAT, "-m", zoo.DEFAULT),), ()),
    "classify, openvino": ((("classify", CAT, "--runtime", "openvino"),), ("openvino",)),
    "models": ((("models",), ("models", "resnet50"), ("cache", "verify"), ("env",), ("--help",)), ()),
    "inspect": ((("inspect", zoo.built_in(zoo.SMALL, ".onnx")),), ()),
    "export": ((("export", zoo.SMALL, "-o", "model.onnx"),), ("onnx",)),
    "import": (
        (("import", "WEIGHTS", "--arch", "resnet20", "--padding", "append", *INPUT, "-o", "new.safetensors"),),
        (),
    ),
    "evaluate": ((("evaluate", zoo.SMALL, "DATA", "--report", "report.html", "--answers", "answers.jsonl"),), ()),
}
"""Commands that are run one after the other -> the packages that they need."""
SLOW: Mapping[str, tuple[Commands, tuple[str, ...]]] = {
    "classify, torch": ((("classify", CAT, "--runtime", "torch"),), ("torch",)),
    "classify, checkpoint": (
        (("classify", CAT, "-m", zoo.built_in(zoo.SMALL, ".safetensors")), ("cache",), ("cache", "clear")),
        ("onnx",),
    ),
    "compare": ((("compare", zoo.SMALL, zoo.SMALL, "DATA", "--layers"),), ("onnx",)),
    "benchmark": (
        (("benchmark", zoo.SMALL, "--rounds", "1", "--seconds", "0.05", "-o", "x.json", "--report", "x.html"),),
        (),
    ),
    "export, int8": (
        (("export", zoo.SMALL, "-o", "model.onnx", "--precision", "int8", "--calibration-data", "DATA"),),
        ("onnx",),
    ),
    "export, auto": ((("export", zoo.SMALL, "-o", "model.onnx", "--target", "auto"),), ("onnx",)),
    "train": (
        (
            ("train", "DATA", "--arch", "resnet8", "--iterations", "4", "-b", "4", *SIZE, "-o", "run"),
            ("curves", "run", "-o", "curves.png"),
        ),
        ("torch", "matplotlib"),
    ),
}


def check(commands: Commands, needed: tuple[str, ...], place: Place, data: Path) -> None:
    for module in needed:
        if find_spec(module) is None:
            pytest.skip(f"needs the package {module}")
    known = {"DATA": data, "WEIGHTS": place.folder / "weights.safetensors"}
    save_file(dict(zoo.checkpoint(zoo.SMALL).weights), known["WEIGHTS"])
    for command in commands:
        done = place.run("-m", "resnet_infer", *(known.get(str(item), item) for item in command))
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 0, done.stderr
        assert place.faults() == []


@pytest.mark.parametrize("name", QUICK)
def test_a_command_writes_and_asks_nowhere_else(name: str, place: Place, data: Path) -> None:
    check(*QUICK[name], place, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_slow_command_writes_and_asks_nowhere_else(name: str, place: Place, data: Path) -> None:
    check(*SLOW[name], place, data)


def test_a_service_writes_and_asks_nowhere_else(place: Place) -> None:
    if find_spec("bentoml") is None:
        pytest.skip("needs the extra `serve`")
    from resnet_infer.client import Client
    from resnet_infer.errors import ServiceError

    port = free_port()
    command = place.command("-m", "resnet_infer", "serve", "--port", port)
    with open(place.folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=place.out, env=place.environment(), stdout=log, stderr=log)
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            until = time.monotonic() + 90
            while True:
                try:
                    assert client.classify(CAT)[0].label == "cat"
                    break
                except ServiceError:
                    assert time.monotonic() < until, (place.folder / "log").read_text()
                    time.sleep(0.2)
    finally:
        for child in _children(process.pid):
            os.kill(child, signal.SIGTERM)
        process.wait(60)
    assert place.faults() == []


def _children(parent: int) -> Iterator[int]:
    """What strace started."""
    return map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())


def test_every_command_is_looked_at() -> None:
    seen = {str(command[0]) for commands, _ in (*QUICK.values(), *SLOW.values()) for command in commands}
    assert seen - {"--help"} == COMMANDS.keys() - {"serve"}


@pytest.mark.parametrize(
    "code",
    [
        "import pathlib; pathlib.Path.home().joinpath('x').touch()",
        "import os; os.mkdir(os.path.expanduser('~/x')); os.rmdir(os.path.expanduser('~/x'))",
        "import tempfile; tempfile.mkdtemp()",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 53))",
        "import os; os.fork() or open(os.path.expanduser('~/x'), 'w'); os.path.exists('y')",
    ],
)
def test_a_fault_is_seen(code: str, place: Place) -> None:
    place.run("-W", "ignore", "-c", code)
    assert place.faults()


def test_what_is_allowed_is_no_fault(place: Place) -> None:
    code = (
        "import os, socket; open('x', 'w'); os.makedirs(os.environ['RESNET_INFER_CACHE'] + '/a'); "
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9)); open('/etc/hosts')"
    )
    place.run("-W", "ignore", "-c", code)
    assert place.faults() == []


def test_telemetry_that_the_user_asks_for_is_seen(place: Place) -> None:
    """The variable is what keeps ONNX Runtime silent; with it the other way round this file's tests would fail."""
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 32):
        pytest.skip("this ONNX Runtime does not report")
    place.run("-m", "resnet_infer", "classify", CAT, ORT_DISABLE_TELEMETRY="0")
    assert any("DeveloperTools" in fault for fault in place.faults())
