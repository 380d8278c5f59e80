"""The curves of runs: what is read, what is drawn, what is said of a broken run."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnet_infer import zoo
from resnet_infer.errors import DataError, MissingExtraError, ModelError, UsageError
from resnet_infer.models.checkpoint import Checkpoint, save_checkpoint
from resnet_infer.models.spec import Measured
from resnet_infer.training.curves import Run, draw, draw_panels, labels, read_run, spread
from tests.conftest import ROOT, Outcome

Cli = Callable[..., Outcome]
HEADER = ("seconds", "iteration", "rate", "train_error", "val_error")
ROWS = (
    (1, 100, 0.1, 60, 65),
    (2, 200, 0.1, 40.5, 44),
    (3, 300, 0.01, 30, ""),
    (4, 400, 0.001, 20, 28),
    (5, 500, 0.001, 19, 29),
)


def write(folder: Path, rows: Sequence[Sequence[object]] = ROWS, header: Sequence[str] = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder


def falling(name: str, final: float, count: int = 60, start: float = 80) -> Run:
    """A run whose validation error falls from `start` to `final`; the training error is below it."""
    iterations = tuple(range(1000, 1000 * count + 1, 1000))
    val = (*(final + (start - final) * 0.8**i for i in range(count - 1)), final)
    return Run(Path(name), name, iterations, tuple(0.7 * e for e in val), val, drops=(iterations[count // 2],))


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[..., str]:
    """Draw runs and give the SVG, in which the words stand as comments."""
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib (the extra `report`)")

    def svg(*runs: Run) -> str:
        draw(runs, tmp_path / "drawn.svg")
        return (tmp_path / "drawn.svg").read_text(encoding="utf-8")

    return svg


percent = st.floats(0, 100).map(lambda value: round(value, 2))


@given(
    st.dictionaries(st.integers(1, 10**6), st.tuples(percent, st.none() | percent), min_size=1, max_size=20),
    st.permutations(["iteration", "train_error", "val_error", "of_another_version"]),
)
def test_rows_are_read_by_the_names_of_columns(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[int, tuple[float, float | None]], header: list[str]
) -> None:
    rows = dict(sorted(rows.items()))
    cells = [
        {"iteration": i, "train_error": train, "val_error": "" if val is None else val, "of_another_version": "x"}
        for i, (train, val) in rows.items()
    ]
    run = read_run(write(tmp_path_factory.mktemp("run"), [[row[name] for name in header] for row in cells], header))
    assert run.iterations == tuple(rows)
    assert list(zip(run.train_error, run.val_error, strict=True)) == list(rows.values())
    assert (run.network, run.drops, run.test_error) == (None, (), None)


def test_rows_that_a_resumed_run_wrote_again_replace_the_first_ones(tmp_path: Path) -> None:
    again = ((4, 300, 0.1, 31, 35), (5, 400, 0.1, 21, 25))
    run = read_run(write(tmp_path, ROWS + again))
    assert run.iterations == (100, 200, 300, 400)
    assert run.train_error == (60, 40.5, 31, 21)


@pytest.mark.parametrize(
    ("schedule", "drops"), [("step", (200, 300)), ("plateau", (200, 300)), ("one-cycle", ()), ("cosine", ())]
)
def test_drops_of_the_learning_rate(tmp_path: Path, schedule: str, drops: tuple[int, ...]) -> None:
    write(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps({"schedule": schedule}))
    assert read_run(tmp_path).drops == drops


def test_checkpoints_tell_network_and_test_error(tmp_path: Path) -> None:
    source = zoo.checkpoint("resnet20-cifar10")
    untested = Checkpoint(source.spec.with_(measured=()), source.weights)
    save_checkpoint(untested, write(tmp_path) / "last.safetensors")
    assert (read_run(tmp_path).network, read_run(tmp_path).test_error) == ("resnet20", None)
    for name, error in (("data/val (validation)", None), ("data/test", 12.5)):
        tested = source.spec.with_(measured=(Measured(name, "native", 100, 12.5),))
        save_checkpoint(Checkpoint(tested, source.weights), tmp_path / "best.safetensors")
        assert read_run(tmp_path).test_error == error
    (tmp_path / "best.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match=r"best\.safetensors is damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column iteration, train_error"),
        (b"iteration,val_error\n1,2\n", "no column train_error"),
        (b"iteration,train_error\n", "has no rows"),
        (b"iteration,train_error\n100,50\n200,\n", "line 3: train_error is ''"),
        (b"iteration,train_error\n100,50\n200\n", "line 3: train_error is None"),
        (b"iteration,train_error\n100,50\nxy,40\n", "line 3: iteration is 'xy'"),
        (b"iteration,train_error\ninf,40\n", "line 2: iteration is 'inf'"),
        (b"iteration,train_error\n100,nan\n", "line 2: train_error is 'nan'"),
        (b"iteration,train_error,val_error\n100,5,101\n", "line 2: val_error is '101'"),
        (b"iteration,train_error\n\xff\xfe,5\n", "cannot be read"),
    ],
)
def test_a_broken_table_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_run(tmp_path)
    assert str(tmp_path / "metrics.csv") in caught.value.message
    assert message in caught.value.message


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\xff"])
def test_a_broken_recipe_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path)
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(DataError, match=r"recipe\.json is damaged"):
        read_run(tmp_path)


def test_runs_are_called_by_what_tells_them_apart() -> None:
    one, other, twin = falling("a/resnet20", 8), falling("b/resnet56", 7), falling("b/resnet20", 9)
    twin = Run(twin.folder, one.network, *(twin.iterations, twin.train_error, twin.val_error))
    assert labels([one, other]) == ["a/resnet20", "b/resnet56"]
    assert labels([Run(one.folder, None, (1,), (2.0,), (None,)), other]) == ["resnet20", "b/resnet56"]
    assert labels([one, twin]) == ["a/resnet20", "b/resnet20"]


def test_every_curve_has_its_colour_its_name_and_its_end(drawn: Callable[..., str]) -> None:
    runs = [falling("resnet20", 8.75), falling("plain20", 9.41), falling("resnet110", 6.43, count=50)]
    svg = drawn(*runs)
    for name in ("resnet20  8.8%", "plain20  9.4%", "resnet110  6.4%", "iteration (1e4)", "error (%)"):
        assert f"<!-- {name} -->" in svg
    for colour in ("#0072b2", "#d55e00", "#009e73"):
        assert svg.count(f"stroke: {colour}; stroke-width: 1.8") == 1
        assert svg.count(f"stroke-dasharray: 3.33,1.44; stroke-dashoffset: 0; stroke: {colour}; stroke-width: 0.9") == 1
    # The runs of 60,000 iterations drop at one place, that of 50,000 at another.
    assert svg.count("stroke: #999999") == 2
    assert "#cc79a7" not in svg


def test_what_is_not_there_is_not_explained(drawn: Callable[..., str]) -> None:
    whole = drawn(falling("a", 8))
    train_only = drawn(Run(Path("b"), "b", (10, 20), (50.0, 40.0), (None, None)))
    said = [
        {text for text in ("validation error", "learning rate drops") if text in svg} for svg in (whole, train_only)
    ]
    assert said == [{"validation error", "learning rate drops"}, set()]
    assert "<!-- iteration -->" in train_only
    assert "<!-- b  40.0% -->" in train_only


@pytest.mark.parametrize(
    ("runs", "top"),
    [
        ([falling("a", 8), falling("b", 14)], 20),  # as in the paper, although both begin at 80%
        ([falling("a", 8), falling("b", 30)], 90),
        ([falling("a", 8, count=4)], 90),
        ([Run(Path("a"), "a", (1,), (100.0,), (100.0,))], 100),
    ],
)
def test_the_scale_is_the_papers_where_the_curves_fit(drawn: Callable[..., str], runs: list[Run], top: int) -> None:
    svg = drawn(*runs)
    shown = [number for number in range(0, 101, 5) if f"<!-- {number} -->" in svg]
    assert max(shown) == top


@pytest.mark.parametrize("suffix", [".png", ".SVG"])
def test_the_same_runs_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib (the extra `report`)")
    panels = {"plain": [falling("plain20", 9)], "residual": [falling("resnet20", 8), falling("resnet56", 7)]}
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    draw_panels(panels, first)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red"}):
        draw_panels(panels, second)
    assert first.read_bytes() == second.read_bytes()
    if suffix == ".png":
        with Image.open(first) as picture:
            assert picture.width > 1.5 * picture.height > 900
    assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name}


@pytest.mark.parametrize("name", ["curves", "curves.jpg"])
def test_other_kinds_of_picture_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no kind of picture"):
        draw([falling("a", 8)], tmp_path / name)


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError) as caught:
        draw([falling("a", 8)], tmp_path / "a.png")
    assert "resnet-infer[report]" in str(caught.value.hint)


@given(st.lists(st.floats(0, 20), max_size=12), st.floats(0.1, 1.5))
def test_names_move_apart_and_no_further_than_they_must(wanted: list[float], gap: float) -> None:
    wanted.sort()
    places = spread(wanted, gap, 20)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(places))
    assert all(gap / 2 - 1e-9 <= place <= 20 - gap / 2 + 1e-9 for place in places)
    if all(b - a > gap for a, b in pairwise([-gap / 2, *wanted, 20 + gap / 2])):
        assert places == pytest.approx(wanted)


def test_the_command_draws_and_lists(tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib (the extra `report`)")
    whole, train_only = write(tmp_path / "whole"), write(tmp_path / "alone", [(1, 10, 0.1, 50, "")])
    done = cli("curves", whole, train_only, "-o", tmp_path / "deep" / "both.png")
    assert (done.code, done.err) == (0, f"wrote {tmp_path / 'deep' / 'both.png'}\n")
    assert (tmp_path / "deep" / "both.png").stat().st_size > 10_000
    header, first, second = (line.split() for line in done.out.splitlines())
    assert Counter(header)["error"] == 4
    assert first == [str(whole), "-", "500", "19.00%", "29.00%", "28.00%", "-"]
    assert second == [str(train_only), "-", "10", "50.00%", "-", "-", "-"]
    report = json.loads(cli("curves", whole, "-o", tmp_path / "one.svg", "--json").out)
    assert report == {
        "format": 1,
        "picture": str(tmp_path / "one.svg"),
        "runs": [
            {
                "run": str(whole),
                "network": None,
                "iterations": 500,
                "train_error": 19,
                "val_error": 29,
                "best_val_error": 28,
                "test_error": None,
            }
        ],
    }


def test_the_command_says_what_is_wrong(tmp_path: Path, cli: Cli) -> None:
    done = cli("curves", tmp_path, "-o", tmp_path / "x.png")
    assert done.code == 1
    assert f"{tmp_path} is no run" in done.err
    done = cli("curves", write(tmp_path / "run"), "-o", tmp_path / "x.gif")
    assert done.code == 2
    assert ".png or .svg" in done.err
    assert not list(tmp_path.glob("x.*"))


def test_curves_are_drawn_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib (the extra `report`)")
    arguments = ["curves", str(write(tmp_path / "run")), "-o", str(tmp_path / "x.png")]
    code = f"import sys; sys.modules['torch'] = None; from resnet_infer.cli.main import app; app({arguments!r})"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT, capture_output=True)
    assert (tmp_path / "x.png").exists()
