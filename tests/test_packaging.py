"""What is shipped: types for other people's programs, files that a zip import and a frozen program find."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import resnet_infer
from resnet_infer import _pyinstaller, zoo
from tests.conftest import PICTURES, ROOT

USER = '''
"""A program that uses every public name."""

from pathlib import Path

import numpy as np

import resnet_infer
from resnet_infer import (
    Answer, AnswerError, AnswerTimeoutError, BrokenPackageError, Classifier, Client, DataError, MissingExtraError,
    ModelError, ModelSpec, OutOfMemoryError, ParityError, Picture, PictureError, Prediction, ResnetInferError,
    RuntimeUnavailableError, ServiceError, SplitError, TrainingError, UnsupportedPictureError,
    UnwritableError, UsageError, __version__, benchmark, compare, evaluate,
    export, import_weights, open_runtime, read_spec, train,
)


def label(path: Path) -> str:
    with Classifier("resnet20-cifar10", device="cpu", threads=1) as classifier:
        best: Prediction = classifier.classify(path)[0]
        answers: list[Answer] = list(classifier.stream([Picture("a", path), str(path)], top_k=1))
    assert answers[0].error is None or answers[0].error.reason == "missing"
    return f"{best.label} {best.probability:.2f} {best.index + 1}"


async def awaited(classifier: Classifier, body: bytes) -> str:
    several = await classifier.aclassify([body, body])
    return (await classifier.aclassify(body, timeout=10))[0].label + several[0][0].label


def remote(path: Path) -> str:
    with Client("http://127.0.0.1:3000", timeout=3.0) as client:
        return client.classify(path)[0].label


def work(folder: Path) -> float:
    spec: ModelSpec = read_spec(folder / "model.onnx")
    imported = import_weights(folder / "x.pth", arch="resnet50", labels=["a", "b"], crop=224)
    trained = train("data", folder, recipe="finetune", start=imported.checkpoint, epochs=1.5, milestones=[0.5])
    made = export(trained, folder / "a.onnx", precision="int8", calibration_data="photos", max_drop=1)
    verdict = compare(made.path, "resnet50", "photos", pictures=10)
    found = evaluate([made.path, None], "val", protocols=["1-crop"], reference="resnet50")
    times = benchmark([trained, "resnet18"], batch_size=[1, 8], rounds=2)
    load = benchmark("resnet18", scenario="closed-loop", clients=3)
    with open_runtime(made.path, threads=1) as runtime:
        logits = runtime(np.zeros((1, spec.input.crop, spec.input.crop, 3), np.uint8))
    assert verdict.passed and not times.failed and load.valid
    return found.results[0].top1.error + float(logits[0, 0])


try:
    print(__version__, label(Path("cat.jpg")), remote(Path("cat.jpg")), work(Path()))
except (UnsupportedPictureError, PictureError, AnswerError, AnswerTimeoutError) as error:
    print(error.source, error.reason, error.hint)
except (SplitError, DataError, UnwritableError, ModelError, BrokenPackageError, MissingExtraError) as error:
    print(error.message)
except (OutOfMemoryError, ParityError, RuntimeUnavailableError, ServiceError, TrainingError, UsageError) as error:
    print(error)
except ResnetInferError as error:
    print(type(error), resnet_infer.__version__)
'''
WRONG = {
    "resnet_infer.export(precision='int4')": "precision",
    "resnet_infer.export(calibration_dat='x')": "calibration_dat",
    "resnet_infer.train('data')": "output",
    "resnet_infer.read_spec(3)": "read_spec",
    "resnet_infer.benchmark(scenario='sweep', rounds=3)": "benchmark",
    "resnet_infer.Classifier().classify('a.jpg').label": "label",
    "resnet_infer.Clasifier()": "Clasifier",
}
"""A line of a program -> what mypy's message about it names."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and beside it the packages of this one."""
    pytest.importorskip("hatchling", reason="the extra `test`")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    alone = ("--no-deps", "--no-index")
    subprocess.run([*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=os.name != "nt")
    names = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    packages = Path(sysconfig.get_path("purelib", vars=names))
    subprocess.run([*pip, "install", *alone, "--target", packages, wheel], check=True)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return Path(sysconfig.get_path("scripts", vars=names)) / "python"


def mypy(python: Path, folder: Path, text: str) -> tuple[int, str]:
    (folder / "user.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "user.py"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_mypy_knows_the_types_of_every_public_name(installed: Path, tmp_path: Path) -> None:
    assert [name for name in resnet_infer.__all__ if USER.count(name) < 2] == []
    code, report = mypy(installed, tmp_path, USER)
    assert code == 0, report
    where: list[str] = [str(installed), "-c", "import resnet_infer; print(resnet_infer.__file__)"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(where, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert installed.parents[1] in Path(found.stdout.strip()).parents
    code, report = mypy(installed, tmp_path, "import resnet_infer\n\n" + "\n".join(WRONG) + "\n")
    lines = report.splitlines()
    for number, name in enumerate(WRONG.values(), 3):
        assert any(line.startswith(f"user.py:{number}: error") and name in line for line in lines), report


ZIPPED = """
import sys
import resnet_infer
from resnet_infer.models.spec import imagenet_classes
from resnet_infer.models.weights.package_files import present
from resnet_infer.data.feed import PHOTOGRAPHS
assert ".zip" in resnet_infer.__file__
with resnet_infer.Classifier("resnet20-cifar10") as classifier:
    print(classifier.classify(sys.argv[1])[0].label)
print(len(resnet_infer.read_spec(None).classes), len(imagenet_classes()[0]), len(list(present(PHOTOGRAPHS).iterdir())))
print(present(PHOTOGRAPHS).parents[1])
"""


def test_a_package_in_a_zip_file_finds_its_files(tmp_path: Path) -> None:
    """As Spark's --py-files, a zipapp or pex imports it."""
    packed = tmp_path / "packages.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for path in sorted((ROOT / "resnet_infer").rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                file.write(path, path.relative_to(ROOT))
    environment = {**os.environ, "PYTHONPATH": str(packed), zoo.VARIABLE: "", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", ZIPPED, str(PICTURES / "cat.jpg")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    label, counts, folder = done.stdout.split("\n")[:3]
    photographs = len(list((ROOT / "resnet_infer" / "data" / "photographs").iterdir()))
    assert (label, counts) == ("cat", f"200 1000 {photographs}")
    assert not Path(folder).exists(), "the copies are removed at the end"


def test_pyinstaller_finds_the_hook() -> None:
    pytest.importorskip("PyInstaller", reason="the extra `test`")
    from PyInstaller.utils.hooks import collect_data_files

    (folder,) = _pyinstaller.hook_folders()
    hook = Path(folder) / "hook-resnet_infer.py"
    found: dict[str, list[str]] = {}
    exec(compile(hook.read_text(encoding="utf-8"), str(hook), "exec"), found)
    data = {Path(source).name for source, _ in collect_data_files("resnet_infer")}
    assert {"resnet20-cifar10.onnx", "CRC32", "imagenet_classes.tsv", "html.css", "01-astronaut.jpg"} <= data
    assert {"resnet_infer.runtimes.onnxruntime", "resnet_infer.cli.commands.classify"} <= set(found["hiddenimports"])
    assert {"torch", "onnx"} <= set(found["excludedimports"])
    assert "onnxruntime" not in found["excludedimports"]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'hook-dirs = "{_pyinstaller.__name__}:{_pyinstaller.hook_folders.__name__}"' in text


def test_the_marker_of_types_is_there() -> None:
    assert (Path(resnet_infer.__file__).parent / "py.typed").read_text(encoding="utf-8") == ""
