"""ResNet-50 beside its peers, with the same weights: inference alone, JPEG files to top-5, and the first answer.

    python -m benchmarks.peers PHOTOS [batch1|batch8|batch32|pipeline|loader|timm|start]...

PHOTOS is a folder of photographs and nothing else. Without a part all are measured, which takes 30 minutes; figures of
parts that are not measured stay in the result, unless they are of other subjects. The peers are installed in an
environment of their own. Every subject is a process of its own that lives throughout a part; they are asked in turn, in
a random order each round, so that a drift of the machine falls on all, and each waits after its turn until its threads
sleep. Processors with AMX have a file of results of their own. Afterwards `python -m benchmarks.peers_table` writes the
table.

`resnet-infer FP32` and `INT8` are what `--runtime auto` chooses for a service, with all extras installed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.paired import COMMAND, PYTHON, RESULTS, ROOT, save, seconds
from benchmarks.peer_programs.arguments import precision
from benchmarks.serving import int8
from benchmarks.untrained import resnet50
from resnet_infer.benchmarking.latency.statistics import paired_ratio
from resnet_infer.models.checkpoint import SUFFIX
from resnet_infer.models.weights.download import cache_folder
from resnet_infer.utils.cpu import flags

PROGRAMS = ROOT / "benchmarks" / "peer_programs"
PEERS = (
    *("torch", "torchvision", "timm", "transformers", "optimum", "optimum-intel"),
    *("onnxruntime", "openvino", "nncf", "onnx"),
    *("pillow", "numpy", "safetensors"),
)
ROUNDS = {1: 24, 8: 14, 32: 6}
"""By the batch: what is quick is measured more often."""
STARTS = 5
SECONDS = 0.8
SLICE, SLICES = 250, 4
"""Photos are decoded that many at a time, and so often."""
CALIBRATION = 100

OURS = ("resnet-infer FP32", "resnet-infer INT8")
OURS_OPENVINO = ("resnet-infer FP32, openvino", "resnet-infer INT8, openvino") if find_spec("openvino") else ()
INFERENCE = (
    *("torch eager", "torch channels_last", "torch.compile", "onnxruntime FP32", "openvino FP32", "optimum FP32"),
    *("torch bf16", "torch.compile bf16", "openvino bf16"),
    *("onnxruntime INT8", "onnxruntime INT8 (quantize_static)", "openvino INT8 (NNCF)", *OURS, *OURS_OPENVINO),
    *(("resnet-infer bf16, openvino",) if OURS_OPENVINO else ()),
)
MOST = 1.05
"""Most that ours may take of the time of the fastest peer of its precision: the upper end of the interval."""
PIPELINE = ("Hugging Face, batch 1", "Hugging Face, batch 8")
LOADER = ("torch eager + DataLoader, batch 8", "torch eager + DataLoader, batch 32")
TIMM = ("timm, batch 8",)
START = ("Hugging Face pipeline", "torch eager", "onnxruntime FP32", "onnxruntime INT8", "openvino FP32")
PARTS = ("batch1", "batch8", "batch32", "pipeline", "loader", "timm", "start")


def environment() -> str:
    """The python of an environment with the peers, made once and kept in the cache."""
    folder = cache_folder() / "benchmarks" / "peers"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        constraints = ROOT / "constraints.txt"
        install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints, *PEERS]
        subprocess.run(install, check=True)
        (folder / "ready").touch()
    return str(python)


class Bench:
    """The network in every form, and the photos."""

    def __init__(self, folder: Path) -> None:
        from resnet_infer.runtimes.onnxruntime import OnnxRuntime

        self.photos = sorted(folder.iterdir())
        self.artifact = resnet50(folder)
        self.int8 = int8(self.artifact, self.photos)
        self.models = cache_folder() / "benchmarks" / "peers-models"
        with OnnxRuntime(self.artifact, device="cpu") as runtime:
            geometry = runtime.spec.input
        self.geometry = [str(geometry.resize), *(",".join(map(str, each)) for each in (geometry.mean, geometry.std))]
        self.files = [*map(str, (self.artifact.with_suffix(SUFFIX), self.artifact, self.int8, self.models))]
        self.python = environment()
        # Nothing is downloaded, reported, or left outside of the cache; the programs import from the checkout.
        compiled = str(cache_folder() / "benchmarks" / "peers-compiled")
        os.environ.update(CI="true", HF_HUB_OFFLINE="1", TORCHINDUCTOR_CACHE_DIR=compiled, PYTHONPATH=str(ROOT))
        if not (self.models / "ready").exists():
            self.models.mkdir(exist_ok=True)
            files = [self.files[0], self.files[1], self.files[3], *self.geometry]
            script = str(PROGRAMS / "make_models.py")
            subprocess.run([self.python, script, *files, *map(str, self.photos[:CALIBRATION])], check=True)
            (self.models / "ready").touch()

    def python_of(self, subject: str) -> str:
        return PYTHON if subject.startswith("resnet-infer") else self.python

    @contextmanager
    def asked(self, script: str, subject: str, *more: str) -> Iterator[Any]:
        """A process that gives a line for a line."""
        command = [self.python_of(subject), str(PROGRAMS / script), subject, *self.files, *more]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            questions, answers = process.stdin, process.stdout
            assert questions is not None
            assert answers is not None

            def ask(line: str) -> Any:
                print(line, file=questions, flush=True)
                answer = answers.readline()
                if not answer:
                    raise RuntimeError(f"{subject} gave no answer: {' '.join(command[:3])}")
                return json.loads(answer)

            yield ask
            questions.close()

    def inference(self, batch: int) -> dict[str, Any]:
        """Milliseconds of a call on `batch` pictures."""
        times: dict[str, list[float]] = {subject: [] for subject in INFERENCE}
        with ExitStack() as stack:
            ask = {subject: stack.enter_context(self.asked("inference.py", subject)) for subject in INFERENCE}
            for subject in INFERENCE:
                ask[subject](f"{batch} 0")
            for order in shuffled(INFERENCE, ROUNDS[batch]):
                for subject in order:
                    times[subject].append(ask[subject](f"{batch} {SECONDS}"))
        found: dict[str, Any] = {
            subject: {"ms": round(statistics.median(each), 3), "ms, each": [round(ms, 3) for ms in each]}
            for subject, each in times.items()
        }
        for own in (name for name in INFERENCE if name.startswith("resnet-infer")):
            kind = precision(own)
            peers = [name for name in INFERENCE if not name.startswith("resnet-infer") and precision(name) == kind]
            fastest = min(peers, key=lambda name: statistics.median(times[name]))
            ratio = paired_ratio(times[own], times[fastest])
            found[own] |= {
                "fastest peer": fastest,
                "ratio": round(ratio.value, 3),
                "interval": [round(end, 3) for end in ratio.interval or ()],
            }
        return found

    def pictures(self, ours: Sequence[str], peers: Sequence[str]) -> dict[str, Any]:
        """Pictures a second from files to top-5, and how often the best class is that of ours in FP32."""
        subjects = (*ours, *peers)
        spent: dict[str, list[float]] = {subject: [] for subject in subjects}
        best: dict[str, list[int]] = {subject: [] for subject in subjects}
        names = [*self.geometry, *map(str, self.photos)]
        with ExitStack() as stack:
            ask = {subject: stack.enter_context(self.asked("pictures.py", subject, *names)) for subject in subjects}
            for subject in subjects:  # nothing is measured before all are ready
                ask[subject]("0 1 2 3 4 5 6 7")
            for number, order in enumerate(shuffled(subjects, SLICES)):
                line = " ".join(str(i % len(self.photos)) for i in range(number * SLICE, (number + 1) * SLICE))
                for subject in order:
                    found = ask[subject](line)
                    spent[subject].append(found["seconds"])
                    best[subject] += found["best"]
        result: dict[str, Any] = {}
        for subject in subjects:
            same = [a == b for a, b in zip(best[subject], best[OURS[0]], strict=True)]
            result[subject] = {
                "pictures_per_s": round(SLICE * SLICES / sum(spent[subject]), 1),
                "pictures_per_s, each": [round(SLICE / each, 1) for each in spent[subject]],
                "best class as resnet-infer FP32": round(sum(same) / len(same), 4),
            }
        for own in ours:
            for peer in peers:
                ratios = [theirs / mine for mine, theirs in zip(spent[own], spent[peer], strict=True)]
                result[own][f"times {peer}"] = round(statistics.median(ratios), 2)
                result[own][f"times {peer}, each"] = [round(ratio, 2) for ratio in ratios]
        return {"pictures": SLICE * SLICES, **result}

    def start(self) -> dict[str, Any]:
        """Seconds of a whole process that answers for one photo."""
        photo = str(self.photos[0])
        commands = {
            subject: [self.python, str(PROGRAMS / "first_answer.py"), subject, *self.files, photo] for subject in START
        }
        for subject in (*OURS, *OURS_OPENVINO):
            model = self.int8 if "INT8" in subject else self.artifact
            runtime = "openvino" if "openvino" in subject else "onnxruntime"
            commands[subject] = [COMMAND, "classify", photo, "-m", str(model), "--runtime", runtime]
        spent: dict[str, list[float]] = {subject: [] for subject in commands}
        for command in commands.values():
            seconds(command)
        for order in shuffled(tuple(commands), STARTS):
            for subject in order:
                spent[subject].append(seconds(commands[subject]))
        return {
            subject: {"s": round(statistics.median(each), 3), "s, each": [round(value, 3) for value in each]}
            for subject, each in spent.items()
        }

    def versions(self) -> dict[str, str]:
        code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {PEERS!r}}}))"
        done = subprocess.run([self.python, "-c", code], check=True, capture_output=True, text=True)
        found: dict[str, str] = json.loads(done.stdout)
        return found


def shuffled(items: Sequence[str], rounds: int) -> Iterator[Sequence[str]]:
    """The items in a random order for each round, the same in every run."""
    source = random.Random(rounds)
    for _ in range(rounds):
        yield source.sample(items, len(items))


def gates(result: dict[str, Any]) -> dict[str, bool]:
    """What is to hold, for the parts that there are."""
    found: dict[str, bool] = {}
    for part, peers in (("pipeline", PIPELINE), ("loader", LOADER)):
        if part not in result:
            continue
        for own, least in zip(OURS, (2, 4), strict=True):
            worst = min(result[part][own][f"times {peer}"] for peer in peers)
            found[f"{own} >= {least} times {peers[0].partition(',')[0]}"] = worst >= least
    for part in (name for name in PARTS if name.startswith("batch") and name in result):
        for own in (*OURS, "resnet-infer bf16, openvino"):
            if own in result[part]:
                upper = max(result[part][own]["interval"] or [float("inf")])
                found[f"{part}: {own} takes at most {MOST} of the fastest peer's time"] = upper <= MOST
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="a folder of photographs and nothing else")
    parser.add_argument("parts", metavar="PART", nargs="*", help=f"of {' '.join(PARTS)}; default: all")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {' '.join(sorted(unknown))}")
    bench = Bench(options.photos.resolve())
    name = "peers-amx" if "amx_int8" in flags() else "peers"
    path = RESULTS / f"{name}.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    result = {
        name: part for name, part in result.items() if not name.startswith("batch") or set(INFERENCE) <= set(part)
    }
    result["peers"] = bench.versions()
    for part in parts:
        if part.startswith("batch"):
            result[part] = bench.inference(int(part.removeprefix("batch")))
        elif part == "start":
            result[part] = bench.start()
        elif part == "pipeline":
            result[part] = bench.pictures((*OURS, *OURS_OPENVINO), PIPELINE)
        else:
            result[part] = bench.pictures(OURS, {"loader": LOADER, "timm": TIMM}[part])
        result[part]["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    save(name, result, gates(result))


if __name__ == "__main__":
    main()
