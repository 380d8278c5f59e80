"""Names of files and folders that are not UTF-8, which a run meets and writes down."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.errors import DataError  # noqa: E402
from resnet_infer.models.checkpoint import load_checkpoint  # noqa: E402
from resnet_infer.training.input.splits import open_splits  # noqa: E402
from resnet_infer.training.loop.options import Options  # noqa: E402
from tests.conftest import Outcome  # noqa: E402
from tests.training.runs import rows, trainer  # noqa: E402

Cli = Callable[..., Outcome]
LATIN = os.fsdecode(b"caf\xe9")
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="every file name is UTF-8 there")


@pytest.fixture
def latin(folder: Path, tmp_path: Path) -> Path:
    """The coloured squares in a folder, and some of them in files, whose names are Latin-1."""
    place = tmp_path / LATIN
    shutil.copytree(folder, place)
    for path in sorted(place.rglob("1*.png")):
        path.rename(path.with_name(f"{LATIN}{path.name}"))
    return place


@pytest.mark.parametrize("data_in", ["memory", "files"])
def test_a_run_writes_down_names_that_are_not_utf8(latin: Path, tmp_path: Path, data_in: str) -> None:
    run = tmp_path / f"run {LATIN}"
    options = Options(precision="fp32", data_in=data_in, workers=0)  # type: ignore[arg-type]
    spec = trainer(latin, run, options=options, iterations=4, augmentation="area").run()
    assert load_checkpoint(run / "best.safetensors").spec == spec
    assert spec.name == "resnet8-caf\\udce9"
    assert spec.measured[0].dataset == "caf\\udce9/test"
    assert len(rows(run)) == 1
    assert b"caf\xe91.png" in (run / "split.csv").read_bytes()
    assert (run / "curves.png").exists()


def test_a_run_of_such_names_is_gone_on_with(latin: Path, tmp_path: Path, cli: Cli) -> None:
    command = ("train", latin, "--arch", "resnet8", "--recipe", "cifar10-short", "-b", 16, "-o", tmp_path / "run")
    assert cli(*command, "--iterations", 3).code == 0
    done = cli(*command, "--iterations", 3, "--resume")
    assert done.code == 2
    assert "holds a finished run" in done.err
    assert "should not happen" not in done.err


def test_classes_that_are_not_utf8_are_refused_before_the_first_step(latin: Path, tmp_path: Path, cli: Cli) -> None:
    """They would be in every answer of the model."""
    for split in ("train", "test"):
        (latin / split / "blue").rename(latin / split / LATIN)
    with pytest.raises(DataError, match=r"classes whose names are not UTF-8: 'caf\\udce9'"):
        open_splits(latin)
    done = cli("train", latin, "--arch", "resnet8", "--recipe", "cifar10-short", "-o", tmp_path / "run")
    assert done.code == 1
    assert "'caf\\udce9'" in done.err
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_evaluation_and_import_take_such_names(
    latin: Path, folder: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(folder, tmp_path / "run", iterations=4).run()
    best = load_checkpoint(tmp_path / "run" / "best.safetensors")
    model = shutil.copy(tmp_path / "run" / "best.safetensors", tmp_path / f"{LATIN}.safetensors")
    kept = ("--report", tmp_path / "report.html", "--answers", tmp_path / "rows.jsonl", "--json")
    for resumed in ((), ("--resume",)):
        done = cli("evaluate", model, latin, "--runtime", "torch", "--split", "test", *kept, *resumed)
        assert done.code == 0, done.err
    assert "caf\\\\udce9" in done.out
    weights = tmp_path / f"w{LATIN}.pth"
    torch.save({name: torch.from_numpy(value.copy()) for name, value in best.weights.items()}, weights)
    (tmp_path / "labels.txt").write_text("blue\ngreen\nred\n")
    monkeypatch.chdir(tmp_path)
    done = cli(
        *("import", weights, "--arch", "resnet8", "--shortcut", "A", "--padding", "append"),
        *("--labels", "labels.txt", "--json"),
    )
    assert done.code == 0, done.err
    imported = load_checkpoint(tmp_path / "wcaf\\udce9.safetensors")
    assert imported.spec.name == "wcaf\\udce9"
    assert imported.spec.provenance["source_file"] == "wcaf\\udce9.pth"
