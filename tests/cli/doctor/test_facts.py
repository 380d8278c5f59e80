"""The interpreter, the versions that are allowed, who wrote which file, the cache and its state."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from resnet_infer.cli.doctor import facts
from resnet_infer.models.weights.cache import seal


def test_the_interpreter_is_named_with_its_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = facts.interpreter()
    assert (found["path"], found["prefix"]) == (sys.executable, sys.prefix)
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    assert facts.interpreter()["kind"] == "system"
    monkeypatch.setattr(sys, "base_prefix", "/elsewhere")
    assert facts.interpreter()["kind"] == "venv"
    (tmp_path / "conda-meta").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert facts.interpreter()["kind"] == "conda"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert facts.interpreter()["kind"] == "frozen"


@pytest.mark.parametrize(
    ("version", "bounds", "expected"),
    [
        ("0.28.0", ">=0.15.4,<0.29", True),
        ("0.29", "<0.29,>=0.15.4", False),
        ("0.29.1", ">=0.15.4,<0.29", False),
        ("0.9", ">=0.15.4", False),
        ("1.19", ">=1.19.0", True),
        ("2.13.0+cpu", ">=2.10", True),
        ("1.19.0rc1", ">=1.19", True),
        ("0.15.1", "!=0.15.1", False),
        ("4.1", "", True),
    ],
)
def test_bounds_of_versions(version: str, bounds: str, expected: bool) -> None:
    assert facts.allowed(version, bounds) is expected


def test_a_version_that_is_not_allowed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"numpy": "1.25", "typer": "0.29.1", "onnx": "1.16.0", "pytest": "1"}
    monkeypatch.setattr(facts, "all_installed", lambda names: [f"{n} {versions[n]}" for n in names if n in versions])
    lines = ["numpy>=1.26", "typer<0.29,>=0.15.4", 'onnx>=1.16; extra == "export"', "pytest>=8; extra == 'test'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: lines)
    assert list(facts.outside_range()) == [("numpy", "1.25", ">=1.26"), ("typer", "0.29.1", "<0.29,>=0.15.4")]


@pytest.mark.parametrize(("version", "found"), [("1.26.0", False), ("1.27.1", True), ("1.28", False), ("1.20", True)])
def test_a_version_that_one_of_two_extras_allows_is_allowed(
    monkeypatch: pytest.MonkeyPatch, version: str, found: bool
) -> None:
    monkeypatch.setattr(facts, "all_installed", lambda names: [f"{name} {version}" for name in names])
    lines = ["onnxruntime-gpu[cuda,cudnn]>=1.28; extra == 'gpu'"]
    lines += ["onnxruntime-gpu[cuda,cudnn]<1.27,>=1.21; extra == 'gpu-cu12'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: lines)
    assert list(facts.outside_range()) == ([("onnxruntime-gpu", version, ">=1.28")] if found else [])


def test_the_file_that_wins_is_told_by_the_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    folder = tmp_path / "onnxruntime"
    (folder / "capi").mkdir(parents=True)
    library = folder / "capi" / "onnxruntime_pybind11_state.so"
    for name, python, compiled in (("onnxruntime", "1", "one"), ("onnxruntime-gpu", "2", "two")):
        (folder / "__init__.py").write_text(python)
        library.write_text(compiled)
        about = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        paths = {"onnxruntime/__init__.py": folder / "__init__.py", f"onnxruntime/capi/{library.name}": library}
        record = [f"{path},sha256={facts._record_hash(file)},1" for path, file in paths.items()]
        (about / "RECORD").write_text("\n".join(record))
    both = {"__init__.py": "onnxruntime-gpu", library.name: "onnxruntime-gpu"}
    assert facts.owners("onnxruntime", str(folder)) == both
    (folder / "__init__.py").write_text("1")
    assert facts.owners("onnxruntime", str(folder)) == {**both, "__init__.py": "onnxruntime"}
    library.write_text("neither")
    assert facts.owners("onnxruntime", str(folder)) == {"__init__.py": "onnxruntime"}
    assert facts.owners("onnxruntime", None) == {}


def test_the_cache_is_described_with_its_damaged_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "cache"
    monkeypatch.setenv("RESNET_INFER_CACHE", str(place))
    found = facts.cache()
    assert (found["folder"], found["exists"], found["writable"], found["files"]) == (str(place), False, True, 0)
    good, damaged, bare = (place / "artifacts" / f"{name}.onnx" for name in ("good", "damaged", "bare"))
    good.parent.mkdir(parents=True)
    for path in (good, damaged, bare):
        path.write_bytes(b"1234")
    seal(good)
    seal(damaged)
    damaged.write_bytes(b"12345")
    found = facts.cache()
    assert (found["exists"], found["files"], found["bytes"], found["error"]) == (True, 3, 13, None)
    assert (found["damaged"], found["without_digest"]) == ([str(damaged)], [str(bare)])
    assert facts.cache() == json.loads(json.dumps(found))


def test_a_cache_below_a_file_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "file" / "cache"))
    found = facts.cache()
    assert found["writable"] is False


def test_a_user_without_a_home_folder_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_INFER_CACHE", "~nobody_of_this_name/cache")
    found = facts.cache()
    assert found["folder"] is None
    assert "has no home folder" in found["error"]
    assert "RESNET_INFER_CACHE" in found["hint"]


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    assert facts.writable(tmp_path)
    assert facts.writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert not facts.writable(tmp_path / "file")
    assert not facts.writable(tmp_path / "file" / "below")


def test_the_home_folder_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("USERPROFILE", "/home/ada")
    report = {"a": "/home/ada", "b": ["x /home/ada/y: z", "/home/adam"], "c": {"/home/ada/k": 1}, "d": None}
    assert facts.without_home(report) == {"a": "~", "b": ["x ~/y: z", "/home/adam"], "c": {"~/k": 1}, "d": None}
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setenv("USERPROFILE", "/")
    assert facts.without_home("/home/ada") == "/home/ada"


def test_there_may_be_no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.path.isdir(str(facts.temporary_folder()))

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    assert facts.temporary_folder() is None
