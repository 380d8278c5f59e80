"""Packages that are missing, broken, or installed twice: each is named, and following the hint mends it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from resnet_infer.errors import BrokenPackageError, MissingExtraError, ModelError
from resnet_infer.utils import extras
from resnet_infer.utils.extras import DISTRIBUTIONS, EXTRAS, conflict, install_command, needs, writers

FAULTS = {
    "undefined symbol": "raise ImportError('/x/libcore.so: undefined symbol: _ZN3c105Error')",
    "dlopen": "raise OSError('libcudart.so.12: cannot open shared object file: No such file or directory')",
    "half installed": "import sys; sys.nothing_of_that_name",
    "from nowhere": "from json import nothing_of_that_name",
    "another numpy": "raise ImportError('numpy.core.multiarray failed to import')",
    "another numpy, by size": "raise ValueError('numpy.dtype size changed, may indicate binary incompatibility')",
    "without a word": "raise ImportError",
    "descriptors": "raise TypeError('Descriptors cannot be created directly')",
    "a dependency": "import a_package_that_is_missing",
    "a static block": "raise ImportError('cannot load any more object with static TLS')",
    "an assertion": "assert False",
    "a system error": "raise SystemError('initialization of _core raised unreported exception')",
}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder that is searched for packages before all others; no package that is optional has been imported."""
    known = {module for modules in EXTRAS.values() for module in modules}
    before = dict(sys.modules)
    for name in before:
        if name.partition(".")[0] in known:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in list(sys.modules):
        if name.partition(".")[0] in known and name not in before:
            del sys.modules[name]


def plant(folder: Path, module: str, source: str) -> None:
    (folder / module).mkdir()
    (folder / module / "__init__.py").write_text(source)


def metadata(folder: Path, *names: str) -> None:
    for name in names:
        place = folder / f"{name.replace('-', '_')}-1.2.3.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")


@pytest.mark.parametrize(("extra", "module"), [(extra, module) for extra in EXTRAS for module in EXTRAS[extra]])
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_a_package_raises_is_named_with_its_cause_and_a_way_out(
    planted: Path, extra: str, module: str, fault: str
) -> None:
    plant(planted, module, FAULTS[fault])
    metadata(planted, DISTRIBUTIONS[module][0])
    with pytest.raises(BrokenPackageError) as caught, needs(extra, "doing this"):
        __import__(module)
    message, hint = caught.value.message, str(caught.value.hint)
    assert message.startswith(f"doing this needs the package {module}, which cannot be imported (")
    cause = caught.value.__cause__
    assert cause is not None
    assert (str(cause) or "built for another version of numpy") in message
    assert "pip install" in hint
    assert "this should not happen" not in str(caught.value)
    if "numpy" in message:
        assert "numpy" in hint


@pytest.mark.parametrize("module", sorted({name for names in EXTRAS.values() for name in names} - {"cuda"}))
def test_an_empty_folder_that_is_left_is_no_package(planted: Path, module: str) -> None:
    """After uninstalling one of two distributions that share it: Python imports a folder as a package of nothing."""
    (planted / module).mkdir()
    (planted / module / "left.txt").touch()
    extra = next(extra for extra in EXTRAS if module in EXTRAS[extra])
    for names in ((), (DISTRIBUTIONS[module][0],)):
        metadata(planted, *names)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(extras, "_names", lambda _, names=names: list(names))
            patch.setattr(sys, "path", [str(planted)])
            sys.modules.pop(module, None)
            with (
                pytest.raises(BrokenPackageError, match="only an empty folder is left") as caught,
                needs(extra, "this"),
            ):
                assert __import__(module).__version__
            expected = "--force-reinstall" if names else install_command(extra)
        assert expected in str(caught.value.hint)


def test_a_missing_package_is_no_broken_one(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match="onnx, which is not installed") as caught, needs("export", "this"):
        import onnx  # noqa: F401
    assert not isinstance(caught.value, BrokenPackageError)


def test_our_own_mistakes_stay_themselves() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), needs("export", "this"):
        __import__("resnet_infer.no_such_module")
    with pytest.raises(ZeroDivisionError), needs("export", "this"):
        print(1 / 0)
    with pytest.raises(ModelError), needs("export", "this"):
        raise ModelError("as it is")


@pytest.mark.parametrize("second", DISTRIBUTIONS["onnxruntime"][1:])
def test_two_distributions_of_one_module_are_uninstalled_together(
    planted: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    monkeypatch.setattr(sys, "path", [str(planted)])
    metadata(planted, "onnxruntime")
    assert conflict("onnxruntime") is None
    for extra in ("gpu", "gpu-cu12"):
        assert install_command(extra) == f'pip uninstall -y onnxruntime && pip install "resnet-infer[{extra}]"'
    assert install_command("cpu") == 'pip install "resnet-infer[cpu]"'
    metadata(planted, second)
    for extra in ("cpu", "gpu", "gpu-cu12"):
        assert install_command(extra) == f'pip uninstall -y onnxruntime {second} && pip install "resnet-infer[{extra}]"'
        assert install_command(extra) in str(conflict("onnxruntime"))
    assert install_command("export") == 'pip install "resnet-infer[export]"'


def test_a_package_that_only_requires_another_is_no_second_one(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(planted)])
    metadata(planted, "tensorrt", "tensorrt-cu13")
    assert (writers("tensorrt"), conflict("tensorrt")) == (["tensorrt-cu13 1.2.3"], None)
    metadata(planted, "tensorrt-cu12")
    assert "tensorrt-cu13 and tensorrt-cu12 write into the same folder" in str(conflict("tensorrt"))


def test_tensorrt_of_one_package_is_that_package(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(planted)])
    metadata(planted, "tensorrt")
    assert writers("tensorrt") == ["tensorrt 1.2.3"]


def wheel(folder: Path, name: str, *, files: dict[str, str], requires: dict[str, str] | None = None) -> None:
    """A wheel as pip installs it."""
    stem = f"{name.replace('-', '_')}-1.20.0"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.20.0\n"
    for extra, needed in (requires or {}).items():
        about += f"Provides-Extra: {extra}\nRequires-Dist: {needed}; extra == '{extra}'\n"
    contents = {
        **files,
        f"{stem}.dist-info/METADATA": about,
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*contents, f"{stem}.dist-info/RECORD"))
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as packed:
        for path, text in {**contents, f"{stem}.dist-info/RECORD": record}.items():
            packed.writestr(path, text)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="commands of a POSIX shell")
@pytest.mark.parametrize("extra", ["cpu", "gpu", "gpu-cu12"])
def test_following_the_hint_leaves_a_package_that_works(extra: str, tmp_path: Path) -> None:
    """pip itself, in an environment of its own, with small wheels that share a folder as ONNX Runtime's do."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in ("onnxruntime", "onnxruntime-gpu"):
        wheel(shelf, name, files={"onnxruntime/__init__.py": f"__version__ = '1.20.0'\nwheel = {name!r}\n"})
    needed = {"cpu": "onnxruntime", "gpu": "onnxruntime-gpu", "gpu-cu12": "onnxruntime-gpu"}
    wheel(shelf, "resnet-infer", files={}, requires=needed)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    settings = {
        **os.environ,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(shelf),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    settings.pop("PYTHONPATH", None)
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE"):
        settings.pop(variable, None)

    def shell(command: str) -> None:
        subprocess.run(command, shell=True, env=settings, check=True, capture_output=True, timeout=120)

    def imported() -> str:
        code = "import onnxruntime; print(getattr(onnxruntime, 'wheel', 'nothing'))"
        done = subprocess.run([python, "-c", code], env=settings, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() or "nothing"

    shell("pip install onnxruntime onnxruntime-gpu")
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(site)])
        command = install_command(extra)
        shell(command)
        assert conflict("onnxruntime") is None
    assert imported() == needed[extra]
    # Uninstalling one of two by hand leaves nothing, and a plain installation does not bring it back.
    shell("pip install onnxruntime onnxruntime-gpu && pip uninstall -y onnxruntime && pip install onnxruntime-gpu")
    assert imported() == "nothing"
    shell("pip install --force-reinstall --no-deps onnxruntime-gpu")
    assert imported() == "onnxruntime-gpu"
