"""A shell completes commands, options, values and models, by the protocol that typer's scripts use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_infer.cli.main import COMMANDS
from tests.conftest import ROOT


def complete(line: str, folder: Path) -> list[str]:
    """What bash is told for a line whose last word is to be completed."""
    words = re.split(r"[ \n]", line)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_RESNET_INFER_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "import sys; sys.argv[0] = 'resnet-infer'; from resnet_infer.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_are_completed(tmp_path: Path) -> None:
    assert complete("resnet-infer ", tmp_path) == list(COMMANDS)
    assert complete("resnet-infer c", tmp_path) == [name for name in COMMANDS if name.startswith("c")]
    assert "--quiet" in complete("resnet-infer --q", tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("export --form", {"--format"}),
        ("export --format ", {"onnx", "tensorrt", "openvino"}),
        ("export -p f", {"fp32", "fp16"}),
        ("classify x.jpg --device ", {"auto", "cpu", "cuda"}),
        ("train --recipe cifar", {"cifar10-paper", "cifar10-short"}),
        ("benchmark --scenario s", {"single-stream", "server", "sweep"}),
        ("cache v", {"verify"}),
        ("train x --schedule ", {"step", "plateau", "one-cycle", "cosine"}),
        ("train x --augmentation ", {"pad", "scale", "area", "none"}),
        ("train x --mean ", {"pixel", "channel", "model"}),
        ("train x --arch resnet10", {"resnet101"}),
        ("import x --arch resnet15", {"resnet152"}),
        ("export --format=o", {"onnx", "openvino"}),
        ("classify x.jpg --verb", {"--verbose"}),
    ],
)
def test_options_and_their_values_are_completed(line: str, expected: set[str], tmp_path: Path) -> None:
    assert set(complete(f"resnet-infer {line}", tmp_path)) == expected


@pytest.mark.parametrize("before", ["export", "classify x.jpg -m", "evaluate", "models", "train x --from"])
def test_models_are_completed_by_name_and_by_file(before: str, tmp_path: Path) -> None:
    (tmp_path / "resnet.ONNX").touch()
    (tmp_path / "resnet.txt").touch()
    found = complete(f"resnet-infer {before} resn", tmp_path)
    assert {"resnet20-cifar10", "resnet50", "resnet.ONNX"} <= set(found)
    assert ("resnet.txt" in found) == (before == "evaluate")  # which takes data too


@pytest.mark.parametrize(
    ("typed", "expected"), [(("o",), {"onnx", "openvino"}), ((), {"onnx", "openvino", "tensorrt"})]
)
def test_the_words_that_bash_makes_of_an_equals_sign_are_joined(
    typed: tuple[str, ...], expected: set[str], tmp_path: Path
) -> None:
    assert set(complete("\n".join(("resnet-infer", "export", "--format", "=", *typed)), tmp_path)) == expected


def test_files_and_folders_are_completed_beside_models(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").touch()
    (tmp_path / "run.csv").touch()
    assert complete("resnet-infer evaluate ru", tmp_path) == ["run/", "run.csv"]
    assert complete("resnet-infer inspect ru", tmp_path) == ["run/"]
    assert complete("resnet-infer inspect run/", tmp_path) == ["run/best.safetensors"]


def test_pictures_are_left_to_the_shell(tmp_path: Path) -> None:
    assert complete("resnet-infer classify c", tmp_path) == []


def test_a_mistake_in_the_line_is_no_message(tmp_path: Path) -> None:
    assert complete("resnet-infer predict --to", tmp_path) == []
    assert complete("resnet-infer export --format trt --prec", tmp_path) == ["--precision"]


@pytest.mark.skipif(os.name != "posix", reason="bash")
def test_installing_writes_a_script_for_the_command_in_the_home_folder(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("# mine\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = f"{sys.executable} -m resnet_infer --install-completion; true"
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, cwd=tmp_path)
    script = tmp_path / ".bash_completions" / "resnet-infer.sh"
    assert script.exists(), done.stderr
    assert "_RESNET_INFER_COMPLETE=complete_bash" in script.read_text()
    assert "complete -o default -F _resnet_infer_completion resnet-infer" in script.read_text()
    assert (tmp_path / ".bashrc").read_text().startswith("# mine\n")
