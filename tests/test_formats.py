"""Files of every version are read for ever, newer ones refused by name; what is written fits docs/formats."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_infer.benchmarking.report import results_file
from resnet_infer.converters.precision.calibration import Calibration
from resnet_infer.errors import DataError, ModelError, ResnetInferError
from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.models.checkpoint import load_checkpoint, save_checkpoint
from resnet_infer.models.format_version import FileFormat
from resnet_infer.models.spec import METADATA_KEY, ModelSpec
from resnet_infer.runtimes.artifacts import read_spec
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.runtimes.tensorrt.engine_file import EngineInfo, read_engine, sidecar_path
from tests.conftest import DEMO, ROOT

Cli = Callable[..., Any]
FORMATS = ROOT / "docs" / "formats"
VERSIONS = sorted(path for path in (ROOT / "tests" / "formats").iterdir() if path.is_dir())
MODELS = ("model.safetensors", "model.onnx", "model.int8.onnx", "model.fp16.xml")
RESULTS = ("benchmark", "compare", "evaluate", "export")
NEWER = {"format": 99}
UPGRADE = "hint: upgrade resnet-infer"


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the files of a version."""
    return Path(shutil.copytree(request.param, tmp_path / "kept"))


def change(path: Path, **fields: Any) -> dict[str, Any]:
    """Set fields of a JSON document."""
    value = {**json.loads(path.read_text(encoding="utf-8")), **fields}
    path.write_text(json.dumps(value), encoding="utf-8")
    return value


def change_spec(path: Path, **fields: Any) -> None:
    """Set fields of the spec in a checkpoint or an artifact."""
    if path.suffix == ".onnx":
        onnx = pytest.importorskip("onnx", reason="changes the metadata (the extra `export`)")
        model = onnx.load(path)
        (entry,) = (item for item in model.metadata_props if item.key == METADATA_KEY)
        entry.value = json.dumps({**json.loads(entry.value), **fields})
        onnx.save(model, path)
    elif path.suffix == ".xml":
        text = path.read_text(encoding="utf-8")
        added = "".join(f"{json.dumps(key)}: {json.dumps(value)}, " for key, value in fields.items() if key != "format")
        found = re.sub(r"\{&quot;format&quot;: 1, ", lambda _: _spec_start(fields, added), text, count=1)
        assert found != text
        path.write_text(found, encoding="utf-8")
    else:
        change_notes(path, METADATA_KEY, fields)


def _spec_start(fields: dict[str, Any], added: str) -> str:
    return ('{"format": ' + str(fields.get("format", 1)) + ", " + added).replace('"', "&quot;")


def change_notes(path: Path, key: str, fields: dict[str, Any]) -> None:
    """Set fields of a JSON document in the header of a safetensors file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    notes = header["__metadata__"]
    notes[key] = json.dumps({**json.loads(notes[key]), **fields})
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def notes(path: Path, key: str) -> dict[str, Any]:
    """Read a JSON document in the header of a safetensors file."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    value: dict[str, Any] = json.loads(header["__metadata__"][key])
    return value


# Models


@pytest.mark.parametrize("name", MODELS)
def test_models_of_every_version_answer_as_they_did(kept: Path, name: str) -> None:
    if name.endswith(".xml"):
        pytest.importorskip("openvino", reason="runs the IR (the extra `openvino`)")
    if name.endswith(".safetensors"):
        pytest.importorskip("torch", reason="runs the checkpoint (the extra `train`)")
    recorded = json.loads((kept / "logits.json").read_text())
    spec = read_spec(kept / name)
    assert spec.classes == ("blue", "green", "red")
    assert spec.class_ids == ("n00000001", "n00000002", "n00000003")
    assert (spec.input.resize, spec.input.interpolation, spec.input.exif) == (16, "bicubic", False)
    assert spec.provenance["licence"] == "Apache-2.0"
    side = spec.input.crop
    pixels = np.random.default_rng(recorded["seed"]).integers(0, 256, (4, side, side, 3), np.uint8)
    with open_runtime(kept / name, device="cpu") as runtime:
        found = runtime(pixels)
    tolerance = 0.05 if "int8" in name or "fp16" in name else 1e-3
    np.testing.assert_allclose(found, recorded["logits"][name], atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_a_newer_format_is_refused_by_name(kept: Path, name: str) -> None:
    change_spec(kept / name, **NEWER)
    with pytest.raises(ModelError) as caught:
        read_spec(kept / name)
    assert caught.value.message == f"{kept / name} is of format 99 of the model spec; this resnet-infer reads up to 1"
    assert UPGRADE in str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_a_newer_model_that_says_so_is_read(kept: Path, name: str) -> None:
    change_spec(kept / name, format=99, reads_from=1, colour="red")
    spec = read_spec(kept / name)
    assert spec.unknown == {"format": 99, "reads_from": 1, "colour": "red"}
    written = json.loads(spec.with_(name="other").dumps())
    assert [*written.items()][:3] == [("format", 99), ("reads_from", 1), ("name", "other")]
    assert written["colour"] == "red"


def test_the_command_says_it(cli: Cli, kept: Path) -> None:
    change_spec(kept / "model.onnx", **NEWER)
    done = cli("classify", DEMO / "coffee.jpg", "-m", kept / "model.onnx")
    assert done.code == 1
    assert "model.onnx is of format 99 of the model spec; this resnet-infer reads up to 1" in done.err
    assert UPGRADE in done.err


def test_unknown_fields_of_a_spec_go_from_file_to_file(kept: Path, cli: Cli) -> None:
    pytest.importorskip("torch", reason="exports a checkpoint against torch (the extra `train`)")
    architecture = {**notes(kept / "model.safetensors", METADATA_KEY)["architecture"], "note": [1, {"a": None}]}
    planted = {"format": 2, "reads_from": 1, "colour": {"of": "the planted field"}}
    change_spec(kept / "model.safetensors", architecture=architecture, **planted)
    expected = {**planted, "architecture": {"note": [1, {"a": None}]}}
    again = kept / "again.safetensors"
    checkpoint = load_checkpoint(kept / "model.safetensors")
    save_checkpoint(replace(checkpoint, spec=checkpoint.spec.with_(name="other")), again)
    assert read_spec(again).unknown == expected
    assert cli("export", again, "-o", kept / "again.onnx").code == 0
    assert read_spec(kept / "again.onnx").unknown == expected
    assert json.loads(cli("inspect", kept / "again.onnx", "--json").out)["spec"]["colour"] == expected["colour"]


def test_inside_of_input_an_unknown_field_is_known_to_a_newer_version_or_misspelt(kept: Path) -> None:
    spec = read_spec(kept / "model.onnx")
    odd = {**spec.input.to_json(), "gamma": 2.2}
    text = json.dumps({"format": 1, **spec.to_json(), "input": odd})
    with pytest.raises(ModelError, match=r"model\.onnx: its spec cannot be used: input has an unknown field, 'gamma'"):
        ModelSpec.loads(text, "model.onnx")
    other = json.dumps({"format": 1, **spec.to_json(), "architecture": {"name": "resnet8", "dilation": 2}})
    with pytest.raises(ModelError, match="architecture has an unknown field, 'dilation'"):
        ModelSpec.loads(other, "model.onnx")
    measured = [{**vars(spec.measured[0]), "date": "2030-01-01"}]
    text = json.dumps({"format": 2, "reads_from": 1, **spec.to_json(), "input": odd, "measured": measured})
    read = ModelSpec.loads(text, "model.onnx")
    assert json.loads(read.dumps()) == json.loads(text)
    plain = json.loads(read.with_(input=spec.input).dumps())
    assert "gamma" not in plain["input"]
    assert plain["measured"] == measured


@pytest.mark.parametrize("fields", [{"format": 0}, {"format": "1"}, {"format": 1, "reads_from": 2}, {"reads_from": []}])
def test_a_version_that_is_none_is_damage(kept: Path, fields: dict[str, Any]) -> None:
    change_spec(kept / "model.safetensors", **fields)
    with pytest.raises(ModelError, match="its spec is damaged"):
        read_spec(kept / "model.safetensors")


def test_a_reader_of_version_3_reads_what_is_meant_for_it() -> None:
    form = FileFormat("thing", 3)
    assert not form.check({"format": 1}, "x")
    assert not form.check({"format": 3}, "x")
    assert form.check({"format": 5, "reads_from": 3}, "x")
    with pytest.raises(ModelError, match="x is of format 5 of the thing; this resnet-infer reads up to 3"):
        form.check({"format": 5, "reads_from": 4}, "x")
    assert form.unknown({"format": 2, "a": 1, "b": [{"c": 1, "d": 2}]}, {"a": 0, "b": [{"c": 0}]}) == {
        "b": {"0": {"d": 2}}
    }
    assert form.compose({"a": 1}, reads_from=1) == {"format": 3, "reads_from": 1, "a": 1}
    assert form.compose({"a": 1}, reads_from=3) == form.compose({"a": 1}) == {"format": 3, "a": 1}
    assert form.compose({"a": 1}, {"format": 5, "reads_from": 3}) == {"format": 5, "reads_from": 3, "a": 1}


# Sidecar and calibration


def test_sidecars_of_every_version(kept: Path) -> None:
    engine, sidecar = kept / "model.engine", kept / "model.engine.json"
    _, info = read_engine(engine)
    assert (info.tensorrt, info.batch, info.spec.name) == ("10.3.0", (1, 8, 64), "small")
    spec = json.loads(sidecar.read_text())["spec"]
    before = change(sidecar, colour="red", layers={"int8": 3}, spec={**spec, "shade": 1})
    info = EngineInfo.load(sidecar)
    assert info.unknown == {"colour": "red"}
    replace(info, gpu="other").save(sidecar_path(engine))
    assert json.loads(sidecar.read_text()) == {**before, "gpu": "other"}
    change(sidecar, **NEWER)
    with pytest.raises(ModelError, match="is of format 99 of the engine sidecar; this resnet-infer reads up to 1"):
        read_engine(engine)


def test_calibrations_of_every_version(kept: Path, cli: Cli) -> None:
    pytest.importorskip("torch", reason="exports a checkpoint against torch (the extra `train`)")
    path = kept / "model.int8.calibration.json"
    assert len(Calibration.load(path).pictures) == 12
    ranges = json.loads(path.read_text())["ranges"]
    tensor = next(iter(ranges))
    ranges[tensor]["unsigned"]["other"] = [-1, 1]
    before = change(path, colour="red", ranges=ranges)
    arguments = ("--calibration-data", path, "--check-data", kept / "data.zip", "--max-drop", 100)
    done = cli("export", kept / "model.onnx", "-o", kept / "new.onnx", "--precision", "int8", *arguments)
    assert done.code == 0, done.err
    assert json.loads((kept / "new.calibration.json").read_text()) == before
    assert "ranges" not in Calibration.load(path).scaled(2).unknown
    change(path, **NEWER)
    with pytest.raises(ModelError, match="is of format 99 of the calibration; this resnet-infer reads up to 1"):
        Calibration.load(path)


# Answers of an evaluation


def head(path: Path, **fields: Any) -> dict[str, Any]:
    """Set fields of the first line."""
    first, _, others = path.read_text(encoding="utf-8").partition("\n")
    value = {**json.loads(first), **fields}
    path.write_text(json.dumps(value) + "\n" + others, encoding="utf-8")
    return value


def as_here(path: Path, model: Path) -> None:
    """Put the runtime of this machine into the first line: another one would be another evaluation."""
    with open_runtime(model, device="cpu") as runtime:
        settings = {key: value for key, value in runtime.describe().items() if key not in ("threads", "spin")}
    (old,) = head(path)["the models"]
    head(path, **{"the models": [{"sha256": old["sha256"], **settings}]})


def test_answers_of_every_version_go_on(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = kept / "answers.jsonl"
    as_here(answers, kept / "model.onnx")
    planted = head(answers, colour="red")
    before = answers.read_text()
    config = EvaluationConfig(device="cpu", threads=1, answers=answers, resume=True)
    monkeypatch.chdir(kept)
    found = evaluate(["model.onnx"], Path("data.zip"), config)
    assert (found.resumed, found.pictures) == (9, 18)
    assert not [text for text in found.warnings if "was begun by" in text]
    assert answers.read_text().startswith(before)
    recorded = json.loads((kept / "evaluate.json").read_text())["results"][0]
    assert found.results[0].top1.wrong == recorded["top1"]["wrong"]
    assert head(answers) == planted


def test_answers_of_another_version_of_the_package_go_on_and_it_is_said(kept: Path) -> None:
    answers = kept / "answers.jsonl"
    as_here(answers, kept / "model.onnx")
    head(answers, **{"the version": "0.0.9"})
    config = EvaluationConfig(device="cpu", threads=1, answers=answers, resume=True)
    found = evaluate([str(kept / "model.onnx")], kept / "data.zip", config)
    assert found.resumed == 9
    assert [text for text in found.warnings if f"{answers} was begun by resnet-infer 0.0.9" in text]


def test_answers_of_a_newer_format_are_refused_by_name(kept: Path) -> None:
    answers = kept / "answers.jsonl"
    head(answers, **NEWER)
    before = answers.read_bytes()
    with pytest.raises(DataError, match="is of format 99 of the answers of an evaluation; this resnet-infer reads up"):
        evaluate(
            [str(kept / "model.onnx")], kept / "data.zip", EvaluationConfig(device="cpu", answers=answers, resume=True)
        )
    head(answers, format="x")
    with pytest.raises(DataError, match="is damaged: format is a whole number"):
        evaluate(
            [str(kept / "model.onnx")], kept / "data.zip", EvaluationConfig(device="cpu", answers=answers, resume=True)
        )
    assert len(answers.read_bytes().splitlines()) == len(before.splitlines())


# Results


def test_results_of_every_version_are_drawn(kept: Path, cli: Cli, tmp_path: Path) -> None:
    for name in ("benchmark", "evaluate"):
        change(kept / f"{name}.json", colour="red")
    page = tmp_path / "page.html"
    done = cli(
        *("benchmark", "--rounds", 1, "--seconds", 0.01, "--report", page),
        *("--include", kept / "benchmark.json", "--errors", kept / "evaluate.json"),
    )
    assert done.code == 0, done.err
    assert "model.int8" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RESULTS)
def test_results_of_a_newer_format_are_refused_by_name(kept: Path, name: str) -> None:
    path = kept / f"{name}.json"
    change(path, format=1)
    assert results_file.read(path)["format"] == 1
    change(path, **NEWER)
    with pytest.raises(DataError, match=rf"{name}\.json is of format 99 of the results; this resnet-infer reads up to"):
        results_file.read(path)


# Runs


def go_on(kept: Path) -> Any:
    """Go on with the run of a version, in `kept / "run"`."""
    pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
    from resnet_infer.models.architectures import architecture
    from resnet_infer.training.input.splits import open_splits
    from resnet_infer.training.loop.options import Options
    from resnet_infer.training.loop.trainer import Trainer
    from resnet_infer.training.recipes import get_recipe

    options: dict[str, Any] = {"arch": "resnet8", "iterations": 4, "batch_size": 9, "validation": 6, "peak_rate": 0.1}
    recipe = get_recipe("cifar10-short", **options, resize=16, crop=16)
    splits = open_splits(kept / "data.zip", validation=6)
    lines: list[str] = []
    run = Trainer(architecture("resnet8", 3), recipe, splits, kept / "run", options=Options("fp32"), log=lines.append)
    run.run()
    return lines


def test_runs_of_every_version_go_on_and_keep_what_is_unknown(kept: Path) -> None:
    run, key = kept / "run", "resnet_infer.training"
    before = notes(run / "last.safetensors", key)
    assert before["state"]["iteration"] == 2
    state, identity = {**before["state"], "shade": 1}, {**before["identity"], "hue": [2]}
    identity["recipe"] = {**identity["recipe"], "mixup": 0.0}
    change_notes(run / "last.safetensors", key, {"colour": "red", "state": state, "identity": identity})
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    with open(run / "metrics.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["light", *header], *(["7", *row] for row in rows)])
    lines = go_on(kept)
    assert any("going on with" in line and "iteration 2" in line for line in lines)
    after = notes(run / "last.safetensors", key)
    assert (after["format"], after["colour"], after["state"]["shade"], after["identity"]) == (1, "red", 1, identity)
    assert (after["state"]["iteration"], after["state"]["finished"]) == (4, True)
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(row["iteration"], row["light"]) for row in table] == [("2", "7"), ("4", "")]
    assert dict(zip(header, rows[0], strict=True)).items() <= table[0].items()


def test_a_run_of_a_newer_format_is_refused_by_name(kept: Path) -> None:
    change_notes(kept / "run" / "last.safetensors", "resnet_infer.training", NEWER)
    with pytest.raises(DataError, match=r"last\.safetensors is of format 99 of the training run; this resnet-infer"):
        go_on(kept)
    (kept / "run" / "last.safetensors").unlink()
    change_notes(kept / "run" / "best.safetensors", "resnet_infer.training", NEWER)
    with pytest.raises(DataError, match=r"best\.safetensors is of format 99 of the training run"):
        go_on(kept)


def test_curves_of_every_version(kept: Path, cli: Cli) -> None:
    pytest.importorskip("matplotlib", reason="draws (the extra `report`)")
    change(kept / "run" / "recipe.json", colour_of="red")
    done = cli("curves", kept / "run", "-o", kept / "curves.svg", "--json")
    assert json.loads(done.out)["runs"][0]["iterations"] == 2
    change(kept / "run" / "recipe.json", **NEWER)
    done = cli("curves", kept / "run", "-o", kept / "curves.svg")
    assert done.code == 1
    assert "recipe.json is of format 99 of the training run; this resnet-infer reads up to 1" in done.err


# Schemas


@pytest.fixture(scope="module")
def validators() -> dict[str, Any]:
    """Schema -> what validates by it."""
    jsonschema = pytest.importorskip("jsonschema", reason="validates by the schemas (the extra `test`)")
    referencing = pytest.importorskip("referencing", reason="validates by the schemas (the extra `test`)")
    schemas = {path.name.partition(".")[0]: json.loads(path.read_text()) for path in FORMATS.glob("*.schema.json")}
    resources = [(value["$id"], referencing.Resource.from_contents(value)) for value in schemas.values()]
    registry = referencing.Registry().with_resources(resources)
    for value in schemas.values():
        jsonschema.Draft202012Validator.check_schema(value)
    return {name: jsonschema.Draft202012Validator(value, registry=registry) for name, value in schemas.items()}


def documents(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the schema and the value of each document in a folder of a version."""
    for name in ("model.safetensors", "run/last.safetensors", "run/best.safetensors"):
        yield "spec", notes(folder / name, METADATA_KEY)
    for name in ("model.onnx", "model.int8.onnx", "model.fp16.xml"):
        yield "spec", json.loads(read_spec(folder / name).dumps())
    yield "engine", json.loads((folder / "model.engine.json").read_text())
    yield "calibration", json.loads((folder / "model.int8.calibration.json").read_text())
    for line in (folder / "answers.jsonl").read_text().splitlines():
        yield "answers", json.loads(line)
    for name in ("last", "best"):
        yield "run-state", notes(folder / "run" / f"{name}.safetensors", "resnet_infer.training")
    for name in ("profile", "proofs"):
        yield name, json.loads((folder / f"{name}.json").read_text())
    yield "run-recipe", json.loads((folder / "run" / "recipe.json").read_text())
    for name in ("benchmark", "evaluate", "compare"):
        value = json.loads((folder / f"{name}.json").read_text())
        yield name, value if name != "compare" else {"format": 1, **value}


def planted(schema: dict[str, Any], value: Any) -> Iterator[tuple[str, Any]]:
    """Yield copies of a document with a fault each: a field is of another type, or a required one is lost."""
    if isinstance(value, dict):
        for key in schema.get("properties", {}).keys() & value.keys():
            odd: Any = "text" if isinstance(value[key], dict | list) else [[True]]
            yield f"{key} is {odd}", {**value, key: odd}
            for fault, inner in planted(schema["properties"][key], value[key]):
                yield f"{key}: {fault}", {**value, key: inner}
        for key in schema.get("required", ()):
            yield f"no {key}", {name: item for name, item in value.items() if name != key}
    elif isinstance(value, list) and value and isinstance(schema.get("items"), dict):
        yield from ((f"[0] {fault}", [inner, *value[1:]]) for fault, inner in planted(schema["items"], value[0]))
    elif isinstance(value, list):
        for place, inner in enumerate(schema.get("prefixItems", ())):
            yield f"[{place}] is text", [*value[:place], "text", *value[place + 1 :]]
            yield from ((f, [*value[:place], i, *value[place + 1 :]]) for f, i in planted(inner, value[place]))


def require_strict(validator: Any, value: Any) -> None:
    """Check that a document fits its schema, and does not with a fault in any of its fields."""
    assert [error.message for error in validator.iter_errors(value)] == []
    schemas = validator.schema.get("oneOf", ()) if "properties" not in validator.schema else (validator.schema,)
    (schema,) = (one for one in schemas if one["type"] == ("object" if isinstance(value, dict) else "array"))
    faults = list(planted(schema, value))
    assert len(faults) > 2
    assert [fault for fault, wrong in faults if validator.is_valid(wrong)] == []


def test_files_of_every_version_fit_the_schemas(validators: dict[str, Any]) -> None:
    for folder in VERSIONS:
        for name, value in documents(folder):
            require_strict(validators[name], value)


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ("classify", ("classify", DEMO, DEMO / "none.jpg", "--format", "json")),
        ("models", ("models", "--json")),
        ("model", ("models", "resnet50", "--json")),
        ("cache", ("cache", "--json")),
        ("cache", ("cache", "clear", "--json")),
        ("env", ("env", "--json")),
        ("inspect", ("inspect", "model.onnx", "--json")),
        ("inspect", ("inspect", "model.engine", "--json")),
        ("export", ("export", "model.safetensors", "-o", "again.onnx", "--json")),
        ("compare", ("compare", "model.onnx", "model.int8.onnx", "data.zip", "-n", 8, "--json")),
        ("evaluate", ("evaluate", "model.onnx", "data.zip", "--json")),
        ("paper", ("evaluate", "--paper", "--json")),
        ("benchmark", ("benchmark", "model.onnx", "--rounds", 1, "--seconds", 0.01, "--json")),
        ("load", ("benchmark", "model.onnx", "--scenario", "closed-loop", "--seconds", 0.2, "--json")),
        ("curves", ("curves", "run", "-o", "curves.svg", "--json")),
    ],
)
def test_what_commands_print_fits_its_schema(
    kept: Path,
    cli: Cli,
    validators: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    schema: str,
    arguments: tuple[Any, ...],
) -> None:
    monkeypatch.chdir(kept)
    value = json.loads(cli(*arguments).out)
    assert next(iter(value.items())) == ("format", 1)
    require_strict(validators[schema], value)


def test_what_is_written_now_fits_its_schema(
    kept: Path, cli: Cli, validators: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="trains (the extra `train`)")
    from safetensors.numpy import save_file

    monkeypatch.chdir(kept)
    weights = load_checkpoint(Path("model.safetensors")).weights
    save_file(dict(weights), "plain.safetensors")
    Path("labels.txt").write_text("blue\ngreen\nred\n")
    arguments: tuple[Any, ...] = ("--labels", "labels.txt", "-o", "imported.safetensors")
    done = cli("import", "plain.safetensors", "--arch", "resnet8", "--padding", "append", *arguments, "--json")
    assert done.code == 0, done.err
    require_strict(validators["import"], json.loads(done.out))
    arguments = ("--precision", "int8", "--max-drop", 100, "--calibration-data", "data.zip", "--json")
    done = cli("export", "model.safetensors", "-o", "new.onnx", *arguments)
    assert done.code == 0, done.err
    require_strict(validators["export"], json.loads(done.out))
    Path("answers.jsonl").unlink()
    evaluate(["model.onnx"], Path("data.zip"), EvaluationConfig(device="cpu", threads=1, answers=Path("answers.jsonl")))
    shutil.rmtree("run")
    go_on(kept)
    shutil.copy("run/last.safetensors", "run/best.safetensors")  # in a finished run it has no state
    found = list(documents(Path()))
    stated = [name for name, value in found if isinstance(value, dict) and "format" in value]
    assert {"spec", "engine", "calibration", "answers", "run-state", "run-recipe"} <= {*stated}
    for name, value in found:
        if name not in ("benchmark", "evaluate", "compare"):
            require_strict(validators[name], value)


def test_the_machine_s_documents_of_every_version_are_read(
    kept: Path, monkeypatch: pytest.MonkeyPatch, validators: dict[str, Any]
) -> None:
    from resnet_infer.selection import profile, proof
    from resnet_infer.selection.machine import Machine, Model

    (kept / "cache" / "machine").mkdir(parents=True)
    for name in ("profile.json", "proofs.json"):
        shutil.copy(kept / name, kept / "cache" / "machine" / name)
    monkeypatch.setenv("RESNET_INFER_CACHE", str(kept / "cache"))
    model = Model(kept / "model.int8.onnx")
    (entry,) = profile.STORE.entries()
    monkeypatch.setattr(Machine, "here", lambda: Machine(entry["processor"], tuple(entry["flags"]), entry["cores"]))
    monkeypatch.setattr(profile, "versions", lambda names: entry["versions"])
    best = profile.best_known(model, 8)
    assert best is not None
    assert (best.timing.runtime, best.ratio) == ("openvino", 2.0)
    (verdict,) = proof.STORE.entries()
    key = {name: verdict[name] for name in proof.STORE.key}
    assert proof.STORE.find(key) == verdict
    assert (verdict["passed"], verdict["failures"]) == (True, [])
    assert profile.remember(model, 1, [profile.Timing("onnxruntime", 1, 2, 1.0)], source="a test")
    require_strict(validators["profile"], json.loads(profile.STORE.path.read_text()))
    assert proof.STORE.add(verdict, lambda other: other == verdict)
    require_strict(validators["proofs"], json.loads(proof.STORE.path.read_text()))


# Another program's artifact


def test_the_artifact_of_the_page_is_read(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validators: dict[str, Any]
) -> None:
    pytest.importorskip("onnx", reason="writes the artifact (the extra `export`)")
    (code,) = re.findall(r"^```python\n(.*?)^```$", (FORMATS / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    for name, colour in (("dark", 20), ("light", 230)):
        Image.new("RGB", (60, 40), (colour,) * 3).save(f"{name}.png")
        done = cli("classify", f"{name}.png", "-m", "light-or-dark.onnx", "-f", "jsonl")
        assert done.code == 0, done.err
        assert json.loads(done.out)["predictions"][0]["label"] == name
    assert cli("inspect", "light-or-dark.onnx").code == 0
    require_strict(validators["spec"], json.loads(read_spec(Path("light-or-dark.onnx")).dumps()))


def test_the_page_names_every_schema() -> None:
    text = (FORMATS / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\(([a-z-]+\.schema\.json)\)", text))
    assert named == {path.name for path in FORMATS.glob("*.schema.json")}


def test_errors_of_newer_formats_are_of_the_package() -> None:
    assert issubclass(FileFormat("x").error, ResnetInferError)
