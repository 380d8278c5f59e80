"""What one types who knows other tools: the command and the option that is meant, in words, with exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from resnet_infer import zoo
from resnet_infer.cli import slips
from resnet_infer.cli.main import COMMANDS, _examples, app
from resnet_infer.models.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import PICTURES, Outcome

Cli = Callable[..., Outcome]
CAT = PICTURES / "cat.jpg"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *(("predict", "classify"), ("infer", "classify"), ("val", "evaluate"), ("validate", "evaluate")),
        *(("test", "evaluate"), ("quantize", "export"), ("convert", "export"), ("bench", "benchmark")),
        *(
            ("info", "inspect"),
            ("list", "models"),
            ("doctor", "env"),
            ("PREDICT", "classify"),
            ("Classify", "classify"),
        ),
    ],
)
def test_a_command_of_other_tools_is_answered_with_ours_and_an_example(cli: Cli, typed: str, meant: str) -> None:
    done = cli(typed, "x.jpg")
    assert (done.code, done.out) == (2, "")
    assert f"there is no command '{typed}'; {meant} does that, e.g. resnet-infer {meant}" in done.err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("help", "resnet-infer --help lists the commands"),
        ("a photo.jpg", "to classify it: resnet-infer classify 'a photo.jpg'"),
        ("https://example.org/a", "to classify it: resnet-infer classify https://example.org/a"),
        ("model.ONNX", "to look into it: resnet-infer inspect model.ONNX"),
    ],
)
def test_a_file_in_the_place_of_a_command_is_answered_with_the_command_for_it(cli: Cli, typed: str, said: str) -> None:
    done = cli(typed)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_missing_argument_is_answered_with_an_example(cli: Cli) -> None:
    done = cli("classify")
    assert (done.code, done.out) == (2, "")
    assert "Missing argument 'INPUT...'. For example: resnet-infer classify photo.jpg" in done.err


def test_a_download_is_no_command_and_needs_none(cli: Cli) -> None:
    said = "there is no command 'download', and none is needed: a model is downloaded when it is first used"
    assert said in cli("download", "resnet50").err


def test_quantize_is_answered_with_an_example_of_int8(cli: Cli) -> None:
    assert "resnet-infer export resnet50 --precision int8 --calibration-data photos/" in cli("quantize").err


def test_every_answer_names_a_command_that_exists() -> None:
    assert set(slips.COMMANDS.values()) <= set(COMMANDS)
    assert not set(slips.COMMANDS) & set(COMMANDS)
    assert set(slips.NOTES) <= set(slips.COMMANDS)
    assert set(slips.EXTRA) <= set(COMMANDS)
    assert not set(slips.NEEDLESS) & {*COMMANDS, *slips.COMMANDS}
    for name, part in slips.SHOWN_BY.items():
        assert any(part in line for line in _examples(slips.COMMANDS[name]))


def test_the_letters_are_those_of_the_options() -> None:
    group = typer.main.get_command(app)
    found = {
        letter: item.opts[0]
        for name in COMMANDS
        for item in group.get_command(None, name).params  # type: ignore[attr-defined]
        for letter in item.opts
        if letter in slips.LETTERS
    }
    assert found == slips.LETTERS


def test_every_option_that_is_meant_exists_in_some_command() -> None:
    group = typer.main.get_command(app)
    known = {
        spelling
        for name in COMMANDS
        for item in group.get_command(None, name).params  # type: ignore[attr-defined]
        for spelling in item.opts
    }
    known |= {spelling for item in group.params for spelling in item.opts}
    meant = {text.partition(" ")[0] for text in slips.OPTIONS.values()} - {"INPUT"}
    assert meant - known == set()
    shown = {
        str(item.metavar)
        for name in COMMANDS
        for item in group.get_command(None, name).params  # type: ignore[attr-defined]
        if item.param_type_name == "argument"
    }
    assert {name for names in slips.ARGUMENTS.values() for name in names} <= shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("classify", CAT, "--batch", 8), "classify has no option --batch; it has --batch-size"),
        (("train", "x", "--batch=8"), "train has no option --batch; it has --batch-size"),
        (("classify", CAT, "--topk", 3), "it has --top-k"),
        (("classify", CAT, "--output-file", "x"), "it has --output"),
        (("classify", CAT, "--weights", "x.onnx"), "it has --model"),
        (
            ("classify", "--input", CAT),
            "what to classify is an argument, INPUT..., e.g. resnet-infer classify",
        ),
        (("classify", CAT, "--half"), "chosen when it is exported: resnet-infer export MODEL --precision fp16"),
        (("classify", CAT, "--int8"), "chosen when it is exported: resnet-infer export MODEL --precision int8"),
        (("classify", CAT, "--imgsz", 320), "the size of the images is part of the model"),
        (("classify", CAT, "--gpu"), "it has --device cuda"),
        (("export", "--fp16"), "it has --precision fp16"),
        (("export", "--int8"), "it has --precision int8"),
        (("export", "--model", "resnet50"), "the model is an argument, [MODEL], e.g. resnet-infer export resnet50"),
        (("evaluate", "--model", "x", "d"), "the model is an argument, [MODEL]... DATA"),
        (("evaluate", "x", "--data", "d"), "the data is an argument, [MODEL]... DATA"),
        (("evaluate", "d", "-p", "1-crop"), "it has --protocol"),
        (("serve", "-p", 80), "it has --port"),
        (("train", "d", "--lr", 0.1), "it has --peak-rate"),
        (("train", "d", "--imgsz", 64), "it has --crop"),
        (("train", "--model", "resnet50", "d"), "it has --arch NAME and --from MODEL"),
        (("train", "resnet50", "d"), "train takes DATA alone"),
        (("inspect", "a", "b"), "there is an argument too many, b: inspect takes one MODEL"),
        (("--model", "x", "classify", CAT), "the options of a command follow its name"),
        (("export", "--presicion", "fp16"), "did you mean --precision?"),
        (("export", "--opset", 13), "export has no option --opset; the opset of ONNX graphs is fixed"),
        (("classify", CAT, "--conf", 0.5), "every class is shown with its probability"),
        (("classify", CAT, "--conx", 0.5), "--conx; resnet-infer classify --help lists its options"),  # not --json
        (("classify", CAT, "-p", "fp16"), "resnet-infer export MODEL --precision"),
        (("export", "-m", "resnet50"), "the model is an argument, [MODEL], e.g. resnet-infer export resnet50"),
        (("-V",), "did you mean --version?"),
        (("--verion",), "did you mean --version?"),
        (
            ("classify", "source=a b.jpg", "model=x"),
            "arguments are not NAME=VALUE here: resnet-infer classify 'a b.jpg' -m x",
        ),
        (("train", "data=x", "epochs=3"), "NAME=VALUE here: resnet-infer train x --epochs 3"),
        (("import", "x.pth", "name=y"), "resnet-infer import x.pth --name y"),
        (("benchmark", "x", "-b", 1, 8), "several values of -b are written with commas: -b 1,8"),
        (("evaluate", "x", "d", "--scales", 224, 256), "--scales 224,256"),
        (("env", "--zzz"), "env has no option --zzz; resnet-infer env --help lists its options"),
    ],
)
def test_an_option_of_other_tools_is_answered_with_ours(cli: Cli, arguments: tuple[object, ...], said: str) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_range_without_an_end_is_written_as_one(cli: Cli) -> None:
    done = cli("classify", CAT, "-k", 0)
    assert (done.code, "0 is not in the range x>=1." in done.err) == (2, True)


def test_underscores_in_options_are_hyphens(cli: Cli) -> None:
    plain = cli("classify", CAT, "-m", "resnet20-cifar10", "--top-k", 2)
    assert cli("classify", CAT, "-m", "resnet20-cifar10", "--top_k", 2) == plain
    assert cli("classify", CAT, "-m", "resnet20-cifar10", "--top_k=2", "--on_error", "skip") == plain


@pytest.mark.parametrize("model", ["resnet20-cifar10", "resnet50", "resnet50.v2", "absent.onnx"])
def test_a_model_among_the_pictures_is_answered_with_the_option(cli: Cli, model: str) -> None:
    done = cli("classify", model, "-m", "resnet20-cifar10")
    assert done.code == 1
    assert f"error: {model}: this is a model, and no picture" in done.err
    assert f"hint: name it with --model {model}" in done.err


def test_a_file_with_an_equals_sign_is_an_argument(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model=x.jpg").write_bytes(CAT.read_bytes())
    done = cli("classify", "model=x.jpg", "-m", "resnet20-cifar10", "-k", 1)
    assert (done.code, "cat" in done.out) == (0, True)


def test_a_choice_is_taken_in_capital_letters(cli: Cli) -> None:
    plain = cli("classify", CAT, "-m", "resnet20-cifar10", "--format", "csv")
    assert cli("classify", CAT, "-m", "resnet20-cifar10", "--format", "CSV") == plain


def test_a_folder_is_no_model_and_the_run_in_it_is_named(cli: Cli, tmp_path: Path) -> None:
    done = cli("inspect", tmp_path)
    assert f"error: {tmp_path} is a folder, not a model\n  hint: a model is a file" in done.err
    for name in ("last.safetensors", "best.safetensors"):
        (tmp_path / name).touch()
    done = cli("classify", CAT, "-m", tmp_path)
    assert done.code == 1
    assert f"is a folder, not a model\n  hint: name the file: {tmp_path / 'best.safetensors'}" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "resnet20-cifar10"),
        ("evaluate", "absent/"),
        ("benchmark", "--scenario", "foo"),
        ("benchmark", "-b", "x"),
        ("serve", "--host", "256.0.0.1"),
        ("export", "-o", "model.xyz"),
    ],
    ids=" ".join,
)
def test_no_note_comes_before_a_refusal(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.code in (1, 2)
    assert done.err.startswith("error: ")


def test_a_model_of_a_newer_format_is_refused_before_its_export_is_noted(cli: Cli, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(zoo.checkpoint_file(zoo.SMALL))
    path = tmp_path / "n99.safetensors"
    save_checkpoint(checkpoint, path)
    content = path.read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    newer = header.replace(b'\\"format\\": 1,', b'\\"format\\":99,')
    assert newer != header
    path.write_bytes(content.replace(header, newer))
    done = cli("classify", CAT, "-m", path)
    assert (done.code, "format 99" in done.err, "exporting" in done.err) == (1, True, False)
