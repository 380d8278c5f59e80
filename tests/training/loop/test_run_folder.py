"""A folder holds one run: bound to its pictures, closed to a second process, outside of the data."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.errors import UsageError
from resnet_infer.models.checkpoint import load_checkpoint, save_checkpoint
from resnet_infer.training.input import split_record
from resnet_infer.training.loop.signals import Stopped
from tests.conftest import Outcome
from tests.training.runs import same, trainer

Cli = Callable[..., Outcome]
QUICK = (
    *("--arch", "resnet8", "--recipe", "cifar10-short", "--iterations", 4, "-b", 16, "--validation", 0),
    *("--resize", 16, "--crop", 16),
)


def stopped(data: Path, run: Path) -> None:
    """A run that was stopped after its first epoch."""

    def stop(line: str) -> None:
        if "iteration" in line:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped):
        trainer(data, run, log=stop).run()


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> Path:
    """A copy of `folder` to change, without its test split."""
    return Path(shutil.copytree(folder / "train", tmp_path / "data"))


def delete(data: Path) -> None:
    (data / "red" / "20.png").unlink()


def replaced_by_another(data: Path) -> None:
    """As many pictures as before."""
    (data / "red" / "20.png").rename(data / "red" / "30.png")


def add(data: Path) -> None:
    shutil.copy(data / "red" / "20.png", data / "red" / "99.png")


def swap_classes(data: Path) -> None:
    (data / "red").rename(data / "other")
    (data / "blue").rename(data / "red")
    (data / "other").rename(data / "blue")


def relabel(data: Path) -> None:
    (data / "red" / "20.png").rename(data / "green" / "20 of red.png")


def edit(data: Path) -> None:
    """Same name, size of the picture and class."""
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(data / "red" / "20.png")


def rename_class(data: Path) -> None:
    (data / "red").rename(data / "scarlet")


CHANGES: dict[Callable[[Path], None], str] = {
    delete: "1 gone (red/20.png)",
    replaced_by_another: "1 gone (red/20.png)",
    add: "1 new (red/99.png)",
    swap_classes: " of other content (blue/0.png, ",
    relabel: "1 new (green/20 of red.png)",
    edit: "1 of other content (red/20.png)",
    rename_class: "classes was ['blue', 'green', 'red'], is ['blue', 'green', 'scarlet']",
}


@pytest.mark.parametrize("read_at_most", [1 << 30, 0], ids=["by content", "by size"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_stopped_run_does_not_go_on_with_other_pictures(
    data: Path, tmp_path: Path, change: Callable[[Path], None], read_at_most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_record, "READ_AT_MOST", read_at_most)
    stopped(data, tmp_path / "run")
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    change(data)
    with pytest.raises(UsageError, match="holds another run") as error:
        trainer(data, tmp_path / "run").run()
    assert CHANGES[change] in error.value.message
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_pictures_that_change_sides_are_named(folder: Path, tmp_path: Path) -> None:
    stopped(folder, tmp_path)
    with pytest.raises(UsageError, match=r"validation was 8, is 9; .*moved between training and validation"):
        trainer(folder, tmp_path, validation=9).run()


def test_the_same_pictures_elsewhere_go_on(data: Path, tmp_path: Path) -> None:
    stopped(data, tmp_path / "run")
    elsewhere = tmp_path / "elsewhere" / "data"
    shutil.copytree(data, elsewhere)
    trainer(elsewhere, tmp_path / "run").run()
    trainer(data, tmp_path / "whole").run()
    same(tmp_path / "run" / "last.safetensors", tmp_path / "whole" / "last.safetensors")


def test_the_split_is_left_as_a_table(folder: Path, tmp_path: Path) -> None:
    run = trainer(folder, tmp_path)
    run.run()
    record = split_record.SplitRecord.read(tmp_path)
    assert [row[0] for row in record.rows] == ["train"] * 64 + ["validation"] * 8
    assert {row[-1] for row in record.rows if row[0] == "validation"} == {
        sample.name
        for sample in run.data.validation.samples  # type: ignore[union-attr]
    }
    assert record == split_record.SplitRecord.of(run.data)


@pytest.mark.parametrize("kind", ["equal", "as long"])
def test_pictures_on_both_sides_are_said(kind: str, data: Path, tmp_path: Path) -> None:
    """Equal ones only: not those of equal size and another content."""
    both = tmp_path / "both"
    for split in ("train", "val"):
        shutil.copytree(data, both / split)
    for path in (both / "val").rglob("*.png"):
        level = 255 if path.name == "0.png" and kind == "equal" else int(path.stem)
        noise = np.random.default_rng([level, len(path.parent.name)]).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(noise).save(path)
    if kind == "equal":
        shutil.copy(both / "train" / "red" / "20.png", both / "val" / "red" / "0.png")
    said: list[str] = []
    trainer(both, tmp_path / "run", said.append, validation=None).run()
    lines = [line for line in said if "trained on too" in line]
    expected = (
        ["1 of the validation pictures are trained on too (e.g. red/0.png = red/20.png)"] if kind == "equal" else []
    )
    assert [line.partition(":")[0] for line in lines] == expected


HOLD = """
import sys, time
from pathlib import Path
import torch
from resnet_infer.training.distributed import World
from resnet_infer.training.loop.state import RunFolder
with RunFolder(Path(sys.argv[1])).locked(World(torch.device("cpu"))):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_while_the_first_lives_and_no_longer(folder: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another run is writing to") as error:
            trainer(folder, tmp_path).run()
        assert "-o" in str(error.value)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        holder.kill()
    trainer(folder, tmp_path).run()


def test_what_another_run_or_program_left_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    trainer(folder, tmp_path / "run").run()
    (tmp_path / "run" / "last.safetensors").unlink()
    with pytest.raises(UsageError, match=r"best.safetensors is not of this run, which would replace it"):
        trainer(folder, tmp_path / "run").run()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.csv").write_text("name,value\nmine,1\n")
    with pytest.raises(UsageError, match=r"metrics.csv is no table of a run"):
        trainer(folder, tmp_path / "other").run()


def test_a_run_that_died_between_its_first_best_and_its_first_save_begins_again(folder: Path, tmp_path: Path) -> None:
    stopped(folder, tmp_path)
    assert load_checkpoint(tmp_path / "best.safetensors").notes
    (tmp_path / "last.safetensors").unlink()
    trainer(folder, tmp_path).run()
    finished = load_checkpoint(tmp_path / "best.safetensors")
    assert not finished.notes
    (tmp_path / "last.safetensors").unlink()
    save_checkpoint(finished, tmp_path / "best.safetensors")


@pytest.mark.parametrize("place", ["", "run", "red/run"])
def test_a_run_inside_of_the_data_is_refused(data: Path, cli: Cli, place: str) -> None:
    before = sorted(data.rglob("*"))
    done = cli("train", data, *QUICK, "-o", data / place)
    assert done.code == 2
    assert "lies inside of the data" in done.err
    assert "-o" in done.err
    assert sorted(data.rglob("*")) == before


def test_a_link_into_the_data_is_inside_of_it(data: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "link").symlink_to(data / "red")
    assert "lies inside of the data" in cli("train", data, *QUICK, "-o", tmp_path / "link" / "run").err


def test_every_run_without_a_folder_gets_a_new_one(
    folder: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for now in (1_800_000_000, 1_800_000_001):
        monkeypatch.setattr("resnet_infer.cli.commands.train.time.time", lambda now=now: now)
        done = cli("train", folder, *QUICK)
        assert done.code == 0, done.err
        (line,) = (line for line in done.err.splitlines() if "the same command with -o" in line)
        where = line.partition(" -o ")[2].partition(" ")[0]
        assert (tmp_path / where / "best.safetensors").exists()
    assert len(os.listdir(tmp_path / "runs")) == 2
