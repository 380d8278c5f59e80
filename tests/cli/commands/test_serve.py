"""`resnet-infer serve`, as far as it does not start: what is wrong is said before there is a process."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resnet_infer import zoo
from tests.conftest import ROOT, Outcome

Cli = Callable[..., Outcome]

pytest.importorskip("bentoml", reason="a service needs the extra `serve`")


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """The command hands its settings on in the environment."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_a_port_that_is_taken_is_said(cli: Cli) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = cli("serve", "--port", port)
    assert (done.code, done.out) == (1, "")
    assert f"error: cannot listen on 127.0.0.1, port {port}: Address already in use" in done.err
    assert "--port" in done.err


def test_an_address_of_another_machine_is_said_to_be_one(cli: Cli) -> None:
    done = cli("serve", "-q", "--host", "192.0.2.1", "resnet20-cifar10")
    assert "hint: 192.0.2.1 is no address of this machine; --host 0.0.0.0 is all of them" in done.err


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.0.0.1"])
def test_an_address_that_does_not_exist_is_said(cli: Cli, host: str) -> None:
    done = cli("serve", "--host", host, "--port", "0")
    assert (done.code, done.out) == (2, "")
    assert f"there is no address {host}" in done.err


def test_a_model_that_is_missing_is_said_before_anything_starts(cli: Cli) -> None:
    done = cli("serve", "nowhere.onnx", "--port", "0")
    assert (done.code, done.out) == (1, "")
    assert "nowhere.onnx" in done.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--device", "npu"), "there is no device 'npu'"),
        (("--runtime", "onnxruntim"), "did you mean onnxruntime?"),
        (("--timeout", "0"), "timeout is more than 0"),
        (("--max-body-mb", "-1"), "max-body-mb is more than 0"),
        (("--max-body-mb", "inf"), "max-body-mb is more than 0 and at most 1,000,000"),
        (("--max-queue", "0"), "--max-queue"),
        (("--api-key-file", "nowhere"), "the keys cannot be read"),
        (("--port", "70000"), "--port"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(cli: Cli, options: tuple[str, ...], reason: str) -> None:
    done = cli("serve", *options)
    assert (done.code, done.out) == (2, "")
    assert reason in " ".join(done.err.split())


STARTED = """
import os, sys, types

def serve_http(host, port):
    from resnet_infer.serving.settings import Settings
    print(sorted(vars(Settings.from_environment()).items()))

found = types.ModuleType("resnet_infer.serving.service")
found.service = types.SimpleNamespace(serve_http=serve_http)
sys.modules[found.__name__] = found
from resnet_infer.cli.main import app
app(["serve", "--port", "0", *sys.argv[1:]])
"""


def start(folder: Path, *options: str, **variables: str) -> tuple[dict[str, object], str]:
    """The settings that the command's processes are told, and what it notes."""
    done = subprocess.run(
        [sys.executable, "-c", STARTED, *options],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(ast.literal_eval(done.stdout)), done.stderr


def test_variables_are_defaults_and_options_win(tmp_path: Path) -> None:
    from resnet_infer.serving.settings import Settings, variable

    (tmp_path / "keys").write_text("secret\n")
    (tmp_path / "admin").write_text("master\n")
    given: dict[str, object] = {
        "runtime": "onnxruntime",
        "device": "cpu",
        "threads": 3,
        "workers": 2,
        "max_batch": 5,
        "max_wait_ms": 7.0,
        "max_queue": 11,
        "timeout": 13.0,
        "max_body_mb": 17.0,
        "max_memory_mb": 19.0,
        "max_pixels": 23,
        "max_pictures": 29,
        "api_key_file": "keys",
        "admin_key_file": "admin",
        "access_log": True,
        "model": "resnet20-cifar10",
    }
    assert set(given) == set(vars(Settings()))
    variables = {variable(name): str(value) for name, value in given.items()}
    told, notes = start(tmp_path, "--threads", "1", "--timeout", "2", "--host", "0.0.0.0", **variables)
    files = {name: str(tmp_path / str(given[name])) for name in ("api_key_file", "admin_key_file")}
    assert told == {**given, **files, "threads": 1, "timeout": 2.0}
    assert "whoever reaches" not in notes, "the keys of the variable's file are not seen"
    assert "which is built in" not in notes
    unset = {zoo.VARIABLE: "", **{variable(name): "" for name in ("timeout", "threads")}}
    told, notes = start(tmp_path, "--host", "0.0.0.0", **unset)
    assert told == vars(Settings())
    assert "whoever reaches 0.0.0.0" in notes
    assert f"{zoo.DEFAULT}, which is built in, knows 200 of ImageNet's" in notes
    assert "resnet-infer serve resnet50" in notes


def test_a_variable_that_makes_no_sense_is_a_usage_error(cli: Cli) -> None:
    os.environ["RESNET_INFER_SERVE_API_KEY_FILE"] = "nowhere"
    done = cli("serve", "--host", "no.such.host.invalid")
    assert done.code == 2
    assert "the keys cannot be read" in " ".join(done.err.split())


@pytest.mark.parametrize("host", ["::1", "127.0.0.2"])
def test_nobody_else_reaches_the_loopback(tmp_path: Path, host: str) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError:
        pytest.skip(f"this machine has no address {host}")
    assert "whoever reaches" not in start(tmp_path, "--host", host)[1]


def test_without_bentoml_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['bentoml'] = None\n"
        "from resnet_infer.cli.main import app; app(['serve'])"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert 'pip install "resnet-infer[serve]"' in done.stderr
    assert "Traceback" not in done.stderr
