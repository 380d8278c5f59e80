"""Check everything that this package does on an NVIDIA GPU, the most valuable first, in few minutes.

    python -m benchmarks.gpu --prepare
    python -m benchmarks.gpu --minutes 10
    python -m benchmarks.gpu --dry-run

Each step is a process of its own with a time limit. Its JSON is written as it goes into FOLDER, so nothing is lost when
time runs out, and a later call continues with the steps that are not done. `--prepare` needs no GPU: it makes the
models that the steps use. `--dry-run` takes every step with stand-ins on the CPU. gpu.md says what each step tells and
needs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DONE = ("passed", "failed")
"""States of a step that is not taken again, unless it is named."""
LEAST_SECONDS = 5
"""A step is not begun with less time left."""
QUERY = "name,driver_version,mig.mode.current,clocks.sm,clocks.mem,temperature.gpu,power.draw,memory.used"


@dataclass(frozen=True)
class Step:
    """A step: its function in `gpu_steps` is called as `name` says, with _ for -.

    `needs` are the modules without which it is skipped, beside those of a plain installation.
    """

    name: str
    seconds: int
    needs: tuple[str, ...]
    tells: str


STEPS = (
    Step("machine", 25, (), "driver, MIG, clocks, versions, env"),
    Step("driver", 40, ("cuda",), "Gpu: copies, graphs, leaks, memory, wrong numbers, UUIDs"),
    Step("torch", 90, ("torch",), "torch runtime: error and pictures/s by precision; flags; threads"),
    Step("torch-tests", 60, ("torch", "pytest"), "the tests that need CUDA"),
    Step("broken", 40, ("torch",), "an error that lasts: what every call says, whether the process ends"),
    Step("ort-start", 60, ("onnxruntime",), "CUDA in ONNX Runtime with and without preload_dlls, and by ours"),
    Step("ort-precision", 60, ("onnxruntime", "onnx"), "FP32 and FP16 by use_tf32: error and ms"),
    Step("ort-shapes", 60, ("onnxruntime",), "batches 8, 8, 8 against 8, 7, 8 by search mode; operators on the CPU"),
    Step("ort-ours", 60, ("onnxruntime",), "OnnxRuntime: parity, threads, batches 1 to 9, pictures/s"),
    Step(
        "trt-fp32", 90, ("tensorrt", "cuda", "onnx", "onnxruntime"), "engine: build, prove, sizes, graphs, pictures/s"
    ),
    Step("trt-fp16", 90, ("tensorrt", "cuda", "onnx", "onnxruntime"), "the same in FP16"),
    Step("trt-int8", 90, ("tensorrt", "cuda", "onnx", "onnxruntime"), "the same in INT8"),
    Step("trt-resnet50", 120, ("tensorrt", "cuda", "onnx", "onnxruntime"), "ResNet-50 in FP16; the timing cache twice"),
    Step("serving", 60, ("bentoml", "onnxruntime"), "serve: answers as classify, requests/s, metrics, its end"),
    Step("train-fp32", 40, ("torch",), "200 steps: loss, pictures/s"),
    Step("train-bf16", 40, ("torch",), "the same in bf16, eager"),
    Step("train-compiled", 60, ("torch",), "the same in bf16, compiled; CUDA graphs that were skipped"),
    Step("train-fp16", 40, ("torch",), "the same in fp16, scaled"),
    Step("train-resume", 60, ("torch",), "a run that is stopped and resumed"),
)
"""In the order of their worth."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all steps together; default: 10")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="for results; default: benchmarks/results/gpu")
    parser.add_argument("--only", metavar="STEP", nargs="+", choices=[step.name for step in STEPS], help="these, again")
    parser.add_argument("--prepare", action="store_true", help="make the models, without a GPU, and end")
    parser.add_argument("--dry-run", action="store_true", help="take every step with stand-ins on the CPU")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out = arguments.out or (
        Path(tempfile.mkdtemp(prefix="gpu-dry-run-")) if arguments.dry_run else ROOT / "benchmarks" / "results" / "gpu"
    )
    out.mkdir(parents=True, exist_ok=True)
    if arguments.prepare or arguments.step:
        from benchmarks import gpu_steps

        gpu_steps.run(arguments.step, out.absolute(), arguments.dry_run)
        return
    end = time.monotonic() + 60 * arguments.minutes
    for step in STEPS:
        take(step, out.absolute(), end, arguments.dry_run, arguments.only)
    print(table(out))
    sys.exit(any(read(out, step).get("state") not in ("passed", "skipped") for step in STEPS))


def take(step: Step, out: Path, end: float, dry: bool, only: list[str] | None) -> None:
    """Take a step in a process of its own, unless it is done or there is no time, and write what became of it."""
    before = read(out, step)
    if (only and step.name not in only) or (not only and before.get("state") in DONE and before["dry_run"] == dry):
        return
    absent = [] if dry else [name for name in step.needs if importlib.util.find_spec(name) is None]
    left = end - time.monotonic()
    if absent or left < LEAST_SECONDS:
        state = f"skipped: no {', '.join(absent)}" if absent else "no time left"
        write(out, step, {"state": state.partition(":")[0], "why": state, "dry_run": dry})
        print(f"{step.name}: {state}", file=sys.stderr, flush=True)
        return
    write(out, step, {"state": "running", "dry_run": dry})
    command = [sys.executable, "-m", "benchmarks.gpu", "--step", step.name, "--out", str(out)]
    begin, gpu, limit = time.monotonic(), ask_gpu(), min(step.seconds, left)
    log = out / f"{step.name}.log"
    with open(log, "wb") as said:
        process = subprocess.Popen(
            [*command, "--dry-run"] if dry else command,
            cwd=ROOT,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # also what the step itself has started
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
    found = read(out, step)
    text = log.read_text(encoding="utf-8", errors="replace")
    if code is None:
        found.update(state="too slow", why=f"it did not end in {limit:.0f} s")
    elif code:
        found.update(state="crashed", why=(text.strip().splitlines() or [""])[-1][:300], exit_code=code)
    found.update(seconds=round(time.monotonic() - begin, 1), gpu_before=gpu, gpu_after=ask_gpu())
    found["skipped_cuda_graphs"] = text.count("skipping cudagraphs")
    write(out, step, found)
    print(f"{step.name}: {found['state']} in {found['seconds']} s {found.get('why', '')}", file=sys.stderr, flush=True)


def ask_gpu() -> list[str] | None:
    """Clocks, temperature and the like, a line for each GPU; None without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return None


def read(out: Path, step: Step) -> dict[str, Any]:
    """What is known of a step; empty for one that was not begun."""
    try:
        found: dict[str, Any] = json.loads((out / f"{step.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def write(out: Path, step: Step, found: dict[str, Any]) -> None:
    """Write what is known of a step, whole or not at all."""
    temporary = out / f".{step.name}.json"
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out / f"{step.name}.json")


def table(out: Path) -> str:
    """A line for every step: state, seconds, and its most telling figures."""
    rows = [f"{'step':<15}{'state':<13}{'s':>7}  what it says"]
    for step in STEPS:
        found = read(out, step)
        state = f"{found.get('state', 'not begun')}{' (dry)' if found.get('dry_run') else ''}"
        told = found.get("why") or found.get("says") or step.tells
        rows.append(f"{step.name:<15}{state:<13}{found.get('seconds', ''):>7}  {told}")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
