"""Which runtime answers where `auto` was asked for: chosen by profile or rule, proved once, and said."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.classifier import Classifier
from resnet_infer.errors import MissingExtraError, ModelError, RuntimeUnavailableError
from resnet_infer.runtimes import registry
from resnet_infer.runtimes.base import Images, Logits, Runtime
from resnet_infer.selection import proof, rules, select
from resnet_infer.selection.machine import Model
from resnet_infer.selection.profile import Timing, remember
from resnet_infer.selection.rules import Rule
from resnet_infer.selection.select import Work, choose, open_chosen
from resnet_infer.utils import cpu
from resnet_infer.verification.tolerances import RUNTIMES
from tests.conftest import DEMO

pytest.importorskip("onnxruntime", reason="the default runtime (the extra `cpu`)")
from resnet_infer.runtimes.onnxruntime import OnnxRuntime

pytestmark = pytest.mark.usefixtures("notes_on_stderr")
INT8 = zoo.built_in(zoo.DEFAULT, ".onnx")
FP32 = zoo.built_in(zoo.SMALL, ".onnx")
MANY = Work("many", batch=8)
CHANGE: list[Callable[[NDArray[np.float32]], NDArray[np.float32]]] = [lambda logits: logits]
"""What the runtime `other` does to its logits."""


class Other(OnnxRuntime):
    """Answers as ONNX Runtime does, with a fault where one is planted."""

    name = "other"

    def _run(self, images: Images) -> Logits:
        return CHANGE[0](super()._run(images)).astype(np.float32)


@pytest.fixture(autouse=True)
def other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A second runtime for `.onnx`, which a rule says is faster, and a cache of its own."""
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    row = replace(
        registry.get_runtime("onnxruntime"),
        name="other",
        opener="tests.selection.test_select:Other",
        reader=None,
        devices=("cpu",),
    )
    monkeypatch.setattr(registry, "RUNTIMES", (*registry.RUNTIMES, row))
    monkeypatch.setattr(select, "RUNTIMES", (*registry.RUNTIMES[:1], row))
    monkeypatch.setitem(registry._BY_NAME, "other", row)
    rule = Rule("other", frozenset(), frozenset(), ("int8", "fp32"), ("many", "service"), 50, 2.0, "2 times as fast")
    monkeypatch.setattr(rules, "RULES", (replace(rule, stems=("imagenet", "cifar", None)),))
    monkeypatch.setattr(select, "may_use_gpu", lambda: False)
    CHANGE[0] = lambda logits: logits
    return tmp_path / "cache" / "machine" / "proofs.json"


def answers(path: Path = INT8, work: Work = MANY) -> str:
    """The runtime that answers."""
    opened, choice = open_chosen(path, work, threads=1)
    with opened:
        assert opened.name == choice.runtime
        return opened.name


# What answers


@pytest.mark.parametrize("path", [INT8, FP32])
def test_another_runtime_answers_after_its_proof_which_is_made_once(
    path: Path, other: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answers(path) == "other"
    said = capsys.readouterr().err
    assert f"other answers for {path.name} from now on; by the rules it is faster on this processor" in said
    assert "It agrees with onnxruntime on 16 pictures" in said
    monkeypatch.setattr(proof, "_compare", None)
    assert answers(path) == "other"
    assert capsys.readouterr().err == ""
    (entry,) = json.loads(other.read_text())["entries"]
    assert (entry["runtime"], entry["passed"], entry["failures"], entry["pictures"]) == ("other", True, [], 16)


FAULTS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "noise": lambda logits: logits + np.random.default_rng(0).normal(0, 0.3, logits.shape) * logits.std(),
    "classes permuted": lambda logits: np.roll(logits, 1, axis=1),
    "one class lost": lambda logits: np.where(np.arange(logits.shape[1]) == logits.argmax(), -9, logits),
    "twice as large": lambda logits: 2 * logits,
    "images permuted": lambda logits: logits[::-1],
    "the first image for all": lambda logits: np.repeat(logits[:1], len(logits), axis=0),
    "not finite": lambda logits: np.where(np.arange(logits.shape[1]) == 3, np.nan, logits),
    "constant": lambda logits: np.zeros_like(logits),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", [INT8, FP32], ids=["int8", "fp32"])
def test_a_runtime_that_answers_otherwise_is_not_trusted(
    path: Path, fault: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    CHANGE[0] = FAULTS[fault]
    for _ in range(2):  # the second time by the verdict that is kept
        assert answers(path) == "onnxruntime"
        said = capsys.readouterr().err
        assert f"other does not answer for {path.name} as onnxruntime does, so onnxruntime answers (" in said
        assert "the logit error is" in said or "not finite" in said
        monkeypatch.setattr(proof, "_compare", None)


@pytest.mark.skipif(cpu.usable_cores() < 2, reason="one core has no second copy")
@pytest.mark.parametrize("fault", [True, False])
def test_a_service_proves_its_copy_with_one_thread_too(fault: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_infer.serving.inference.deployment import Deployment
    from resnet_infer.serving.settings import Settings

    sound = Other._run

    def run(self: Other, images: Images) -> Logits:
        logits = sound(self, images)
        return np.roll(logits, 1, axis=1) if fault and self.describe()["threads"] == 1 else logits

    monkeypatch.setattr(Other, "_run", run)
    deployment = Deployment(Settings(model=str(INT8)))
    try:
        names = deployment.runtime.name, deployment._one_thread.name
        assert deployment.choice is not None
        assert (*names, deployment.choice.runtime) == (("onnxruntime",) * 3 if fault else ("other",) * 3)
    finally:
        deployment.close()


def test_small_noise_is_caught_in_fp32_alone() -> None:
    CHANGE[0] = lambda logits: logits + np.random.default_rng(0).normal(0, 0.01, logits.shape) * logits.std()
    assert answers(INT8) == "other"
    assert answers(FP32) == "onnxruntime"


def test_a_runtime_that_raises_is_not_trusted(capsys: pytest.CaptureFixture[str]) -> None:
    CHANGE[0] = lambda logits: logits[:, :3]
    assert answers() == "onnxruntime"
    assert "other, which would be faster here, cannot be used: " in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeUnavailableError("forked"), MissingExtraError("gone"), ModelError("odd")])
def test_a_runtime_that_cannot_be_opened_gives_way(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(Other, "__init__", refuse)
    assert answers() == "onnxruntime"
    assert f"other, which would be faster here, cannot be used: {error}; so onnxruntime answers" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "work",
    [Work("single"), replace(MANY, images=49), replace(MANY, device="cuda"), replace(MANY, device="cuda:1")],
)
def test_the_default_answers(work: Work, other: Path) -> None:
    assert choose(INT8, work).runtime == "onnxruntime"
    assert not other.exists()


def test_a_gpu_that_may_be_used_keeps_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "may_use_gpu", lambda: True)
    for device in ("auto", "AUTO", " auto"):
        assert choose(INT8, replace(MANY, device=device)).runtime == "onnxruntime"
    assert choose(INT8, replace(MANY, device="cpu")).runtime == "other"


def test_the_profile_goes_before_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_infer.selection.profile.versions", lambda names: dict.fromkeys(names, "1"))
    monkeypatch.setattr("resnet_infer.selection.profile.versions_of", lambda kept: dict.fromkeys(kept, "1"))
    remember(Model(INT8), 8, [Timing("other", 1, 2, 30.0), Timing("onnxruntime", 1, 2, 20.0)], source="a test")
    found = choose(INT8, MANY)
    assert (found.runtime, found.is_default) == ("onnxruntime", True)
    assert "it was measured to be fastest here (batch 8, 2 side by side: 20 ms)" in found.reason
    remember(Model(INT8), 8, [Timing("other", 1, 2, 10.0), Timing("onnxruntime", 1, 2, 20.0)], source="a test")
    assert "2.00 times as fast as onnxruntime here" in choose(INT8, MANY).reason
    assert choose(INT8, replace(MANY, images=10)).runtime == "onnxruntime"


def test_why_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "resnet_infer"):
        choose(INT8, Work("single"))
    assert "the runtime is onnxruntime: it is the default for .onnx files" in caplog.text


def test_what_would_be_faster_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.RuntimeInfo, "is_installed", False)
    found = choose(INT8, MANY)
    assert found.is_default
    assert found.missing
    assert "2 times as fast" in found.missing
    assert found.log() == [found.missing]
    assert choose(INT8, Work("single")).log() == []


# The proof


def test_sound_runtimes_are_far_from_the_limits() -> None:
    openvino = pytest.importorskip("openvino", reason="compares it (the extra `openvino`)")
    assert openvino
    for path in (INT8, FP32):
        with registry.open_runtime(path, runtime="openvino", threads=1) as candidate:
            found = proof.prove(Model(path), candidate)
        assert not found.failures
        assert found.error is not None
        assert 5 * found.error < (RUNTIMES[candidate.spec.precision].error or 0)


@pytest.mark.parametrize("part", ["digest", "processor", "versions", "compute", "resnet-infer"])
def test_a_verdict_of_something_else_is_not_used(part: str, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answers() == "other"
    document = json.loads(other.read_text())
    document["entries"][0][part] = {"versions": {}}.get(part, "another")
    other.write_text(json.dumps(document))
    capsys.readouterr()
    assert answers() == "other"
    assert "from now on" in capsys.readouterr().err
    assert len(json.loads(other.read_text())["entries"]) == 2


def test_a_verdict_of_an_unknown_version_is_not_kept(
    other: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(proof, "versions", lambda names: {**dict.fromkeys(names, "1"), "other": ""})
    assert answers() == "other"
    assert not other.exists()
    CHANGE[0] = FAULTS["classes permuted"]  # as after an update
    assert answers() == "onnxruntime"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "entries": [{}]}'])
def test_damaged_verdicts_are_made_again(text: str, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other.parent.mkdir(parents=True)
    other.write_text(text)
    assert answers() == "other"
    assert capsys.readouterr().err.count(f"{other} is damaged, so it is not used") == 1
    assert len(json.loads(other.read_text())["entries"]) == 1


def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert answers() == "other"
        assert "from now on" in capsys.readouterr().err
    CHANGE[0] = FAULTS["classes permuted"]
    assert answers() == "onnxruntime"


TWO = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from resnet_infer.utils import cpu
from resnet_infer.utils.console import on_stderr
from resnet_infer.selection.rules import RULES
from resnet_infer.selection.select import Work, open_chosen
flags = cpu.flags() | RULES[0].flags
cpu.flags = lambda: flags
sys.stdin.readline()
with on_stderr():
    opened, choice = open_chosen(Path(sys.argv[2]), Work("many", batch=8, device="cpu"), threads=1)
print(opened.name)
"""


def test_of_two_processes_one_compares_and_the_other_waits(other: Path) -> None:
    pytest.importorskip("openvino", reason="is compared (the extra `openvino`)")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, os.getcwd(), str(INT8)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
    outcomes = [child.communicate(timeout=120) for child in children]
    assert [out.strip() for out, _ in outcomes] == ["openvino", "openvino"]
    assert sorted(err.count("from now on") for _, err in outcomes) == [0, 1]
    assert len(json.loads(other.read_text())["entries"]) == 1


# Where it is used


def test_a_classifier_chooses_for_many_images_only(other: Path) -> None:
    with Classifier(INT8) as classifier:
        assert classifier.runtime.name == "onnxruntime"
    assert not other.exists()
    with Classifier(INT8, throughput=True, expected=10) as classifier:
        assert classifier.runtime.name == "onnxruntime"
    with Classifier(INT8, throughput=True, runtime="onnxruntime") as classifier:
        assert classifier.runtime.name == "onnxruntime"
    with Classifier(INT8, throughput=True, spin=False) as classifier:
        assert classifier.runtime.name == "onnxruntime"
    with Classifier(INT8, throughput=True) as classifier:
        assert classifier.runtime.name == "other"
        assert classifier.classify(DEMO / "coffee.jpg", top_k=1)[0].label == "espresso"


def test_a_copy_chooses_where_it_is_opened(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickled classifier may be opened on another machine, where another runtime was never compared."""
    with Classifier(INT8, throughput=True, device="cpu") as classifier:
        assert classifier.runtime.name == "other"
        kept = pickle.dumps(classifier)
        with copy.copy(classifier) as again:
            assert (again.runtime.name, again.lanes) == ("other", classifier.lanes)
    other.unlink()
    CHANGE[0] = FAULTS["classes permuted"]
    with pickle.loads(kept) as again:
        assert again.runtime.name == "onnxruntime"
    monkeypatch.setattr(rules, "RULES", ())
    with pickle.loads(kept) as again:
        assert again.runtime.name == "onnxruntime"


@pytest.mark.parametrize(("count", "runtime"), [(2, None), (60, "other")])
def test_the_command_counts_the_images(
    count: int, runtime: str | None, cli: Callable[..., Any], tmp_path: Path, other: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(count):
        os.link(DEMO / "coffee.jpg", folder / f"{number}.jpg")
    done = cli("classify", folder, "-m", INT8, "-f", "csv")
    assert done.code == 0
    assert ("other answers for" in done.err) == (runtime is not None)
    assert other.exists() == (runtime is not None)
    assert len(done.out.splitlines()) == 5 * count + 1


def test_evaluate_and_compare_keep_the_default(monkeypatch: pytest.MonkeyPatch, other: Path) -> None:
    from resnet_infer.evaluation.targets.local import open_model

    asked: list[Runtime] = []
    monkeypatch.setattr("resnet_infer.evaluation.targets.local.map_classes", lambda *given: None)
    model = open_model(str(INT8), None, None)  # type: ignore[arg-type]
    asked.append(model.classifier.runtime)
    assert [runtime.name for runtime in asked] == ["onnxruntime"]
    assert not other.exists()
    model.classifier.close()


def test_a_service_chooses_and_says_why(other: Path) -> None:
    from resnet_infer.serving.inference.deployment import Deployment
    from resnet_infer.serving.settings import Settings

    deployment = Deployment(Settings(model=str(INT8)))
    try:
        assert deployment.runtime.name == deployment._one_thread.name == "other"
        assert deployment.choice
        assert deployment.choice.reason == "by the rules it is faster on this processor: 2 times as fast"
        assert deployment.choice.log() == [f"other answers: {deployment.choice.reason}"]
    finally:
        deployment.close()
    named = Deployment(Settings(model=str(INT8), runtime="onnxruntime"))
    assert (named.runtime.name, named.choice) == ("onnxruntime", None)
    named.close()


def test_a_benchmark_measures_what_a_service_would_take() -> None:
    from resnet_infer.benchmarking.latency.subjects import entries

    assert [row.subject.runtime for row in entries([str(INT8)], [1, 8])] == ["other", "other"]
    assert [row.subject.runtime for row in entries([str(INT8)], [8], as_default=True)] == ["auto"]
    assert [row.subject.runtime for row in entries([f"onnxruntime:{INT8}"], [8])] == ["onnxruntime"]


def test_a_benchmark_says_once_what_would_be_faster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from resnet_infer.benchmarking.latency.subjects import entries

    monkeypatch.setattr(registry.RuntimeInfo, "is_installed", False)
    entries([str(INT8), str(FP32)], [1, 8], device="cpu")
    assert capsys.readouterr().err.count("2 times as fast") == 1


def test_the_flags_of_the_processor_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    (rule,) = rules.RULES
    monkeypatch.setattr(rules, "RULES", (replace(rule, flags=frozenset({"planted"})),))
    assert choose(INT8, MANY).runtime == "onnxruntime"
    monkeypatch.setattr(cpu, "flags", lambda: frozenset({"planted"}))
    assert choose(INT8, MANY).runtime == "other"
