"""`resnet-infer benchmark`: the tables, JSON, the page, exit codes, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

from resnet_infer import zoo
from tests.conftest import PICTURES, Outcome

Cli = Callable[..., Outcome]
QUICK = ("--rounds", 2, "--seconds", 0.005)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine does."""
    monkeypatch.setattr("resnet_infer.benchmarking.environment.warnings", lambda found: [])


def test_tables_json_and_the_page_of_one_run(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "errors.json").write_text(
        json.dumps(
            {
                "results": [
                    {
                        "model": zoo.SMALL,
                        "runtime": {"runtime": "onnxruntime"},
                        "precision": "fp32",
                        "top1": {"error": 12.07, "interval": [11.4, 12.7]},
                    }
                ]
            }
        )
    )
    files = (
        "-o",
        tmp_path / "new" / "out.json",
        "--report",
        tmp_path / "out.html",
        "--errors",
        tmp_path / "errors.json",
    )
    done = cli("benchmark", "-b", "1,4", "--threads", "1", "--photos", PICTURES, "--null", *QUICK, *files)
    assert done.code == 0
    assert re.sub(r"warning: .* did not become stable\n", "", done.err) == "".join(
        f"wrote {tmp_path / name}\n" for name in ("new/out.json", "out.html")
    )
    first, second, third = done.out.split("\n\n")
    assert re.split(r"  +", first.splitlines()[1])[:5] == ["model", "runs on", "precision", "threads", "batch"]
    assert [line.split()[0] for line in first.splitlines()[2:]] == [zoo.SMALL] * 2 + [f"null:{zoo.SMALL}"] * 2
    assert "end to end" in second
    assert "process to first answer" in third
    found = json.loads((tmp_path / "new" / "out.json").read_text())
    assert [(row["model"], row["threads"], row["batch"]) for row in found["results"]] == [
        (zoo.SMALL, 1, 1),
        (zoo.SMALL, 1, 4),
        (f"null:{zoo.SMALL}", None, 1),
        (f"null:{zoo.SMALL}", None, 4),
    ]
    assert found["settings"]["pictures"] == {"source": str(PICTURES), "count": 4, "mean_kb": pytest.approx(50, abs=49)}
    assert found["environment"]["processor"]
    page = (tmp_path / "out.html").read_text()
    assert "12.07%" in page


def test_json_is_all_that_is_printed(cli: Cli) -> None:
    done = cli("benchmark", f"null:{zoo.SMALL}", *QUICK, "--json")
    assert done.code == 0
    (row,) = json.loads(done.out)["results"]
    assert row["opened"]["runtime"] == "null"
    assert row["stages"]["inference"]["calls"] > 100


def test_what_fails_is_said_and_the_others_go_on(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"no graph")
    done = cli("benchmark", tmp_path / "damaged.onnx", zoo.SMALL, *QUICK, "--report", tmp_path / "out.html")
    assert done.code == 1
    assert zoo.SMALL in done.out.splitlines()[2]
    assert re.search(r"^failed: damaged.onnx, batch 1: .*cannot load it", done.out, re.MULTILINE)
    assert "cannot load it" in (tmp_path / "out.html").read_text()
    alone = cli("benchmark", tmp_path / "damaged.onnx", *QUICK)
    assert alone.code == 1
    assert alone.out.startswith("failed: damaged.onnx")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("resnet51",), 1, "resnet51"),
        (("-b", "0"), 2, "a batch is at least 1, not 0"),
        (("-b", "1,x"), 2, "--batch-size takes numbers"),
        (("--threads", "0"), 2, "the number of threads is a whole one from 1 to"),
        (("--rounds", "0"), 2, "--rounds"),
        (("--seconds", "-1"), 2, "--seconds"),
        (("--runtime", "onxruntime"), 2, "did you mean onnxruntime"),
        (("--device", "npu"), 2, "there is no device 'npu'"),
        (("--photos", "nowhere"), 1, "nowhere"),
        (("--errors", "nowhere.json", "--report", "x.html"), 1, "nowhere.json: no JSON"),
        (("--include", __file__, "--report", "x.html"), 1, "no JSON can be read"),
        (("--report", "/proc/x.html"), 1, "cannot write /proc/x.html"),
        (("-o", "/proc/x.json"), 1, "cannot write /proc/x.json"),
        (("--bound", "0"), 2, "--bound does not go without --scenario"),
        (("--clients", "3"), 2, "--clients does not go without --scenario"),
        (("--scenario", "offline", "-b", "8", "--null"), 2, "--batch-size, --null do not go with --scenario"),
        (("--scenario", "offline", "a", "b"), 2, "one model"),
        (("--scenario", "offlin"), 2, "did you mean offline"),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(
    cli: Cli, arguments: tuple[str, ...], code: int, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("benchmark", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_the_page_s_inputs_need_a_page(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "errors.json").write_text("{}")
    done = cli("benchmark", "--errors", tmp_path / "errors.json")
    assert done.code == 2
    assert "--report" in done.err


def test_only_results_are_included(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"results": []}')
    done = cli("benchmark", "--include", tmp_path / "other.json", "--report", tmp_path / "page.html")
    assert done.code == 1
    assert "other.json is no result of `benchmark`" in done.err


def test_a_doubtful_machine_is_warned_of(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_infer.benchmarking.environment.warnings", lambda found: ["it is busy"])
    done = cli("benchmark", f"null:{zoo.SMALL}", *QUICK, "--json")
    assert "warning: it is busy\n" in done.err
    assert "it is busy" in json.loads(done.out)["warnings"]


class Fake:
    """In the place of what a scenario finds."""

    def __init__(self, valid: bool | None) -> None:
        self.valid = valid

    def to_json(self) -> dict[str, Any]:
        return {"scenario": "open-loop", "valid": self.valid, "figures": {}, "rates": [{"rate": 5, "p50_ms": 1.0}]}

    def table(self) -> str:
        return "a table"


@pytest.mark.parametrize(("valid", "code"), [(True, 0), (None, 0), (False, 1)])
def test_a_scenario_is_handed_what_was_asked(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, valid: bool | None, code: int
) -> None:
    asked: list[Any] = []

    def run(what: Any) -> Fake:
        asked.append(what)
        return Fake(valid)

    monkeypatch.setattr("resnet_infer.benchmarking.scenarios.run_scenario", run)
    monkeypatch.setattr("resnet_infer.benchmarking.scenarios.check_scenario", lambda what: None)
    done = cli(
        *("benchmark", f"onnxruntime:{zoo.SMALL}", "--scenario", "open-loop", "--rate", "5,7.5", "--threads", "2"),
        *("--seconds", "3", "--clients", "4", "--bound", "9", "--data", PICTURES, "--logs", tmp_path),
        *("--report", tmp_path / "out.html", "-o", tmp_path / "out.json"),
    )
    assert (done.code, done.out) == (code, "a table\n")
    (what,) = asked
    assert (what.name, what.model, what.runtime, what.threads) == ("open-loop", zoo.SMALL, "onnxruntime", 2)
    assert (what.rates, what.seconds, what.clients, what.bound_ms) == ((5.0, 7.5), 3.0, 4, 9.0)
    assert (what.data, what.output, what.accuracy, what.official) == (PICTURES, tmp_path, False, False)
    assert "Latency by rate" in (tmp_path / "out.html").read_text()
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["environment"]["processor"]
    assert isinstance(written["warnings"], list)


def test_what_is_remembered_is_what_auto_takes(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="is measured too (the extra `openvino`)")
    from resnet_infer.selection.profile import STORE

    done = cli("benchmark", "--remember", "-b", "1,2", *QUICK, "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["results"]
    assert [(row["runtime"], row["threads"], row["batch"]) for row in rows] == [
        (runtime, 1, batch) for batch in (1, 2) for runtime in ("onnxruntime", "openvino")
    ]
    assert "the machine profile remembers resnet20-cifar10.onnx, batches of 1: onnxruntime, openvino" in done.err
    assert [entry["batch"] for entry in STORE.entries()] == [1, 2]
    assert [len(trial["rounds"]) for trial in STORE.entries()[0]["trials"]] == [2, 2]
    assert STORE.entries()[0]["source"] == "benchmark --remember"


def test_a_profile_that_cannot_be_written_is_said(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "file"))
    done = cli("benchmark", "--remember", "--runtime", "onnxruntime", *QUICK)
    assert done.code == 0
    assert "the machine profile cannot be written: the cache is not writable" in done.err


def test_what_is_missing_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_infer.runtimes.registry import RuntimeInfo

    monkeypatch.setattr("resnet_infer.utils.cpu.flags", lambda: frozenset({"amx_int8"}))
    monkeypatch.setattr(RuntimeInfo, "is_installed", property(lambda row: row.name != "openvino"))
    done = cli("benchmark", zoo.DEFAULT, *QUICK)
    assert done.code == 0
    assert "with the runtime openvino, INT8 models answer faster on this processor: 2.2 times as fast" in done.err
