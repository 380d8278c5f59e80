"""`resnet-infer serve`, as far as it does not start: what is wrong is said before there is a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
        (("--device", "gpu"), "there is no device 'gpu'"),
        (("--runtime", "onnxruntim"), "did you mean onnxruntime?"),
        (("--timeout", "0"), "timeout is more than 0"),
        (("--max-body-mb", "-1"), "max-body-mb is more than 0"),
        (("--max-queue", "0"), "--max-queue"),
        (("--api-key-file", "nowhere"), "the keys cannot be read"),
        (("--port", "70000"), "--port"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(cli: Cli, options: tuple[str, ...], reason: str) -> None:
    done = cli("serve", *options)
    assert (done.code, done.out) == (2, "")
    assert reason in " ".join(done.err.split())


def test_without_bentoml_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['bentoml'] = None\n"
        "from resnet_infer.cli.main import app; app(['serve'])"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert 'pip install "resnet-infer[serve]"' in done.stderr
    assert "Traceback" not in done.stderr
