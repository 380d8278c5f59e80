"""OpenVINO's own artifacts, `model.xml` and `model.bin`: what is read of them without it, and what it runs."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.errors import MissingExtraError, ModelError
from resnet_infer.models.spec import METADATA_KEY
from resnet_infer.runtimes import openvino_ir
from resnet_infer.runtimes.artifacts import check_contents, digest, model_parts, read_onnx_spec, read_size, read_spec
from resnet_infer.runtimes.registry import open_runtime, runtime_class
from tests.conftest import PICTURES

try:
    from resnet_infer.runtimes import openvino as ours
except (ImportError, MissingExtraError):
    pytest.skip("needs OpenVINO (the extra `openvino`)", allow_module_level=True)

FP32, INT8 = zoo.built_in(zoo.SMALL, ".onnx"), zoo.built_in(zoo.DEFAULT, ".onnx")
Photos = Callable[..., NDArray[np.uint8]]


def convert(source: Path, target: Path, *, half: bool = False, info: dict[str, str] | None = None) -> Path:
    """Convert an ONNX artifact as OpenVINO's own tools do. `info` are further entries beside the spec."""
    import openvino

    graph = ours.CORE.read_model(source)
    for key, value in (info or {}).items():
        graph.set_rt_info(value, [openvino_ir.RT_INFO, key])
    openvino.save_model(graph, target, compress_to_fp16=half)
    return target


def with_digest(source: Path, target: Path) -> Path:
    """Convert an ONNX artifact, and record the SHA-256 of the weights."""
    sha256 = hashlib.sha256(openvino_ir.weights_path(convert(source, target)).read_bytes()).hexdigest()
    return convert(source, target, info={openvino_ir.DIGEST_KEY: sha256})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small built-in model, whose weights have a digest. Not to be changed."""
    return with_digest(FP32, tmp_path_factory.mktemp("ir") / "model.xml")


@pytest.fixture(scope="module")
def images(photos: Photos) -> NDArray[np.uint8]:
    return photos(4, 32)


@pytest.fixture(scope="module")
def expected(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with open_runtime(FP32, runtime="openvino") as opened:
        return opened(images)


@pytest.fixture
def ir(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return copy(whole, tmp_path / "model.xml")


def copy(source: Path, target: Path) -> Path:
    for one, other in zip(openvino_ir.ir_parts(source), openvino_ir.ir_parts(target), strict=True):
        other.write_bytes(one.read_bytes())
    return target


def edit(path: Path, old: str, new: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new), encoding="utf-8")


def refusal(path: Path, *, only_contents: bool = False) -> str:
    """The error of all that reads the file, which is the same; with `only_contents`, of what reads the weights."""
    for read in () if only_contents else (read_spec, read_size):
        with pytest.raises(ModelError):
            read(path)
    with pytest.raises(ModelError) as checked:
        check_contents(path)
    with pytest.raises(ModelError) as opened:
        open_runtime(path)
    assert str(checked.value) == str(opened.value)
    return str(checked.value)


# What is read


@pytest.mark.parametrize("source", [FP32, INT8], ids=["fp32", "int8"])
def test_an_ir_is_its_onnx_file(source: Path, tmp_path: Path, photos: Photos) -> None:
    path = with_digest(source, tmp_path / "model.v2.xml")
    assert read_spec(path) == read_onnx_spec(source)
    assert read_size(path) == read_size(source)
    check_contents(path)
    assert model_parts(path) == (path, tmp_path / "model.v2.bin")
    with (
        open_runtime(path, device="cpu", threads=1) as opened,
        open_runtime(source, runtime="openvino", threads=1) as old,
    ):
        assert (opened.name, opened.spec, opened.size) == ("openvino", read_spec(path), read_size(path))
        assert opened.describe() == old.describe()
        views = photos(3, opened.spec.input.crop)
        np.testing.assert_array_equal(opened(views), old(views))


def test_openvino_is_not_imported_to_read(whole: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "sys.modules.update(dict.fromkeys(('openvino', 'onnx', 'onnxruntime', 'torch')))\n"
        "from resnet_infer.runtimes.artifacts import check_contents, read_size, read_spec\n"
        "path = Path(sys.argv[1])\n"
        "check_contents(path)\n"
        "print(read_spec(path).name, read_size(path))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(whole)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{zoo.SMALL} (32, 32)\n", "")


def test_weights_that_openvino_halves_are_half_precision(
    tmp_path: Path, images: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    """By default, `openvino.save_model` and `ovc` store the weights in float16, and leave the spec as it is."""
    path = convert(FP32, tmp_path / "model.xml", half=True)
    assert read_spec(path) == read_onnx_spec(FP32).with_(precision="fp16")
    with open_runtime(path) as opened:
        assert opened.spec == read_spec(path)
        about = opened.describe()
        assert (about["precision"], about["computes"]) == ("fp16", "f32")
        off = np.abs(opened(images) - expected).max() / expected.std()
    assert 1e-6 < off < 1e-2


@pytest.mark.parametrize(
    "names",
    [
        ["Straße", "日本 🐱"],
        ["a \"quoted\" 'name'", "<tag> & &amp;"],
        ["line\nfeed\r\n", "\ttab  "],
        [f"class {number} é" for number in range(1000)],
        ["x" * 100_000, "y"],
    ],
)
def test_any_class_name_survives(names: list[str], tmp_path: Path) -> None:
    import openvino

    spec = read_onnx_spec(FP32).with_(architecture=None, classes=tuple(names))
    path = convert(FP32, tmp_path / "model.xml", info={METADATA_KEY: spec.dumps()})
    assert read_spec(path) == spec
    again = tmp_path / "again.xml"
    openvino.save_model(ours.CORE.read_model(path), again, compress_to_fp16=False)
    assert read_spec(again) == spec


def test_an_older_ir_names_its_output_where_it_is_computed(ir: Path) -> None:
    if "output_names" in ir.read_text(encoding="utf-8"):  # OpenVINO 2025.0 itself does not write it
        edit(ir, ' output_names="logits"', "")
    assert read_size(ir) == (32, 32)
    (output,) = openvino_ir.read_ir(ir).outputs
    assert str(output) == "logits, float32 [any, 10]"


def test_open_sides_are_any_size(ir: Path) -> None:
    content = ir.read_text(encoding="utf-8")
    head, found, rest = content.partition("</layer>")
    ir.write_text(head.replace("<dim>32</dim>", "<dim>-1</dim>") + found + rest, encoding="utf-8")
    assert read_size(ir) == (None, None)


def test_a_graph_that_does_not_fit_its_spec_is_refused(ir: Path) -> None:
    content = ir.read_text(encoding="utf-8")
    head, found, rest = content.partition("</layer>")
    ir.write_text(head.replace("U8", "FP32").replace('"u8"', '"f32"') + found + rest, encoding="utf-8")
    message = "its input is images, float32 [any, 32, 32, 3], and pictures are uint8 [any, height, width, 3]"
    assert read_spec(ir).name == zoo.SMALL
    for refused in (read_size, check_contents, open_runtime):
        with pytest.raises(ModelError, match=re.escape(message)):
            refused(ir)


def test_the_digest_is_of_both_files(ir: Path) -> None:
    found = {digest(ir)}
    for part in openvino_ir.ir_parts(ir):
        part.write_bytes(part.read_bytes() + b"\n")
        found.add(digest(ir))
    assert len(found) == 3


# What is refused


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no element found"),
        (b"no model", "syntax error"),
        (b"<html></html>", "its root is html, not net"),
        (b"<net></net>", "it has no output"),
        (b'<!DOCTYPE net [<!ENTITY a "b">]><net>&a;</net>', "it has a document type"),
        (b"<net><layers><layer/></layers></net>", "it lacks 'type'"),
        (b"<net>" + b"<a>" * 100, "its elements are nested too deep"),
        (b"<net>" + b"<a/>" * 1000, "it has too many elements"),
        (b'<net><data offset="-8" size="8"/></net>', "'-8' is no number"),
        (b'<net><data offset="' + b"9" * 5000 + b'" size="8"/></net>', "is no number"),
        (b"<net>\xff</net>", "not well-formed"),
        ("<net/>".encode("utf-32"), "not well-formed"),
    ],
)
def test_what_is_no_ir_is_named(content: bytes, problem: str, ir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_ir, "_MOST_ELEMENTS", 1000)
    ir.write_bytes(content)
    message = refusal(ir)
    assert message.startswith(f"{ir} is damaged, or no OpenVINO IR (")
    assert problem in message


def test_a_file_that_is_too_large_is_not_read(ir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_ir, "_MAX_XML", 1000)
    assert f"{ir} cannot be read (its " in refusal(ir)


def test_a_missing_file_is_named(ir: Path) -> None:
    weights = openvino_ir.weights_path(ir)
    weights.unlink()
    assert f"{ir} lacks its weights model.bin" in refusal(ir)
    weights.mkdir()
    assert f"{ir} lacks its weights model.bin" in refusal(ir)
    ir.unlink()
    assert refusal(ir).splitlines()[0] == f"{ir} does not exist"


def test_a_foreign_ir_is_to_be_adopted(ir: Path) -> None:
    edit(ir, METADATA_KEY, "other.key")
    message = refusal(ir)
    assert f"{ir} carries no model spec" in message
    assert "resnet-infer import FILE.onnx" in message


def test_a_damaged_spec_is_named(ir: Path) -> None:
    edit(ir, "{&quot;format&quot;", "{&quot;mat&quot;")
    assert f"{ir}: its spec is damaged" in refusal(ir)


@pytest.mark.parametrize("change", [-1, -100_000, 1, 100_000])
def test_weights_of_another_length_are_refused(change: int, ir: Path) -> None:
    """OpenVINO would ignore what is too much, which are the weights of another model: in FP32 instead of FP16, say."""
    weights = openvino_ir.weights_path(ir)
    content = weights.read_bytes()
    weights.write_bytes(content[:change] if change < 0 else content + bytes(change))
    message = refusal(ir)
    assert "model.bin is damaged, or belongs to another model than model.xml: it has " in message
    assert f"has {len(content) + change:,} bytes, and the graph's constants take {len(content):,}\n" in message


def test_weights_of_another_model_are_refused(ir: Path) -> None:
    """Of the same length: only the digest tells them apart."""
    weights = openvino_ir.weights_path(ir)
    weights.write_bytes(weights.read_bytes()[::-1])
    assert read_spec(ir).name == zoo.SMALL
    message = refusal(ir, only_contents=True)
    assert "model.bin is damaged, or belongs to another model than model.xml: the SHA-256 differs" in message


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_of_the_weights_is_found(data: st.DataObject, ir: Path, whole: Path) -> None:
    copy(whole, ir)
    weights = openvino_ir.weights_path(ir)
    content = bytearray(weights.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    weights.write_bytes(content)
    assert "the SHA-256 differs" in refusal(ir, only_contents=True)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_part_of_the_xml_is_refused(share: float, ir: Path, whole: Path) -> None:
    content = whole.read_bytes().rstrip()
    ir.write_bytes(content[: int(share * len(content))])
    assert "is damaged, or no OpenVINO IR" in refusal(ir)


EDITS = st.tuples(
    st.floats(0, 1, exclude_max=True), st.sampled_from(["byte", "digit", "cut", "repeat"]), st.integers(1, 255)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDITS, min_size=1, max_size=3))
def test_a_changed_xml_is_refused_or_runs(
    edits: list[tuple[float, str, int]], ir: Path, whole: Path, images: NDArray[np.uint8]
) -> None:
    """No other exception, no crash of OpenVINO, and no logits of another shape."""
    copy(whole, ir)
    content = bytearray(whole.read_bytes())
    end = content.index(b"<rt_info>") - 1000  # each edit cuts at most 255 bytes
    for share, kind, value in edits:
        place = int(share * end)
        if kind == "byte":
            content[place] ^= value
        elif kind == "cut":
            del content[place : place + value]
        elif kind == "repeat":
            content[place:place] = content[place : place + value]
        elif found := re.compile(rb"\d").search(content, place):
            content[found.start()] = ord("0") + value % 10
    ir.write_bytes(content)
    try:
        with open_runtime(ir, threads=1) as opened:
            logits = opened(images)
        assert read_size(ir) == opened.size
        assert logits.shape == (len(images), 10)
    except ModelError:
        pass


@pytest.mark.parametrize("number", [2**63 - 1, 2**64 - 8, 2**64 + 8])
@pytest.mark.parametrize("key", ["offset", "size"])
def test_openvino_never_reads_past_the_weights(key: str, number: int, ir: Path) -> None:
    """Also where the sum of offset and size has more than 64 bits."""
    content = ir.read_text(encoding="utf-8")
    ir.write_text(re.sub(rf'{key}="\d+"', f'{key}="{number}"', content, count=1), encoding="utf-8")
    assert re.match(r".*/model\.(bin|xml) is damaged, or ", refusal(ir))


# Once it is open


def test_files_that_change_do_not_change_an_open_model(
    ir: Path, images: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    with open_runtime(ir) as opened:
        np.testing.assert_array_equal(opened(images), expected)
        for part in openvino_ir.ir_parts(ir):
            with open(part, "r+b") as file:
                file.write(b"\xff" * part.stat().st_size)
        np.testing.assert_array_equal(opened(images), expected)
        for part in openvino_ir.ir_parts(ir):
            os.truncate(part, 0)
        np.testing.assert_array_equal(opened(images), expected)


CHANGED = """
import sys
from pathlib import Path
import numpy as np, os
from resnet_infer.errors import ModelError
from resnet_infer.runtimes.registry import open_runtime
path, changed = map(Path, sys.argv[1:])
images = np.zeros((1, 32, 32, 3), np.uint8)
runtime = open_runtime(path)
expected = runtime(images)
def fork(way):
    child = os.fork()
    if not child:
        way()
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def same():
    assert np.array_equal(runtime(images), expected)
def refused():
    try: runtime(images)
    except ModelError as error: assert f"{changed} has changed since it was opened" in str(error), error
    else: raise AssertionError
assert fork(same) == 7
os.utime(changed, (0, 0))
assert fork(refused) == 7
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("part", [0, 1], ids=["xml", "bin"])
def test_a_forked_child_finds_that_a_file_has_changed(part: int, ir: Path) -> None:
    command = [sys.executable, "-c", CHANGED, str(ir), str(openvino_ir.ir_parts(ir)[part])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


# On the command line


def command(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "resnet_infer", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def run(*arguments: Any) -> str:
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_take_an_ir(ir: Path) -> None:
    size = sum(part.stat().st_size for part in openvino_ir.ir_parts(ir))
    shown = run("inspect", ir)
    assert f"size                {size / 1e6:.1f} MB" in shown
    assert zoo.SMALL in shown
    assert "cat" in run("classify", PICTURES / "cat.jpg", "--model", ir)
    assert "PASS" in run("compare", ir, FP32, "-n", "8")


def test_the_weights_are_no_output(ir: Path) -> None:
    done = command("evaluate", ir, PICTURES, "--answers", openvino_ir.weights_path(ir))
    assert done.returncode == 2
    assert "model.bin is there already and is no file of answers" in done.stderr


def test_another_runtime_does_not_open_an_ir(ir: Path) -> None:
    with pytest.raises(ModelError, match="the runtime onnxruntime does not open it"):
        runtime_class(ir, "onnxruntime")
