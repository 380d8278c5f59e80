"""Import each package in a child process, and answer with each runtime there.

A package with a broken native library may crash the process, print to its streams or never return. The parent reports
that and goes on. This module must not import anything heavy at its top level: the parent and every child import it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from resnet_infer.errors import ResnetInferError, RuntimeUnavailableError
from resnet_infer.runtimes import processes
from resnet_infer.runtimes.registry import RUNTIMES, RuntimeInfo, load, open_runtime
from resnet_infer.utils import extras, strict_json

LIMIT = 60.0
"""Seconds after which a child process is ended. Importing torch from a cold disk takes up to half of that."""
MOST_CHILDREN = 4
"""Most child processes at a time; torch takes 300 MB in each."""
TOLERANCE = 0.01
"""Largest difference of a logit from `LOGITS`. Rounding differs by 1e-5 between runtimes, TF32 by about 1e-3."""
LOGITS = (2.5242, -1.3641, 0.6473, 1.0790, 1.0856, -1.1326, 0.0062, -0.8363, -0.1292, -1.8828)
"""Logits of the small built-in model for `_images`, computed with ONNX Runtime on a CPU."""
_IMPORTS = {"cuda": "resnet_infer.runtimes.tensorrt.cuda", "bentoml": "_bentoml_sdk"}
"""Package -> the module whose import loads the package's compiled parts, where the package itself does not."""

Event = dict[str, Any]
"""What a child reports of one step: `step` (`import` or a device), `seconds`, and `error` and `hint` or `skipped`."""


def packages() -> dict[str, str | None]:
    """Return the packages to import, each with the extra that brings it, or None for one that is always needed."""
    known: dict[str, str | None] = {}
    for extra, modules in extras.EXTRAS.items():
        for module in modules:
            known.setdefault(module, extra)
    return {**known, **dict.fromkeys(CORE)}


CORE = ("numpy", "PIL", "safetensors", "rich", "filelock", "platformdirs")
"""Modules that every installation needs, without those that have been imported before the command runs."""


def runtime_of(module: str) -> RuntimeInfo | None:
    """Return the runtime that is called as its package is, or None."""
    return next((row for row in RUNTIMES if row.name == module), None)


def needs_gpu(module: str) -> bool:
    """Return whether importing the package without a GPU may end the process: its runtime computes on GPUs only."""
    row = runtime_of(module)
    return row is not None and "cpu" not in row.devices


def probe(modules: Iterable[str]) -> dict[str, list[Event]]:
    """Return for each package the events of its steps: its import, and a device for each that its runtime has."""
    from concurrent.futures import ThreadPoolExecutor

    from resnet_infer.models.weights.download import scratch_folder
    from resnet_infer.utils.cpu import usable_cores

    names, scratch = list(modules), scratch_folder()
    with ThreadPoolExecutor(max_workers=min(usable_cores(), MOST_CHILDREN)) as pool:
        return dict(zip(names, pool.map(lambda module: run_child(module, scratch), names), strict=True))


def run_child(module: str, scratch: Path | None = None, limit: float = LIMIT) -> list[Event]:
    """Return the events of one package from a child process, with an error for the step in which it ended early.

    Packages that write when they are imported do so in the folder `scratch`. `limit` is in seconds.
    """
    try:
        command = [*processes.command(__name__), module]
    except RuntimeUnavailableError:  # a frozen program has no interpreter to start
        return list(examine(module))
    environment = {
        "ORT_DISABLE_TELEMETRY": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        **({"MPLCONFIGDIR": str(scratch)} if scratch else {}),
        **os.environ,
        **({"BENTOML_HOME": str(scratch)} if scratch else {}),
    }
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=environment, timeout=limit)
        out, ended = done.stdout, processes.ending(done.returncode, done.stderr) if done.returncode else None
    except subprocess.TimeoutExpired as error:
        out, ended = error.stdout or b"", f"its process did not end within {limit:g} seconds"
    except OSError as error:
        out, ended = b"", f"no process can be started to import it: {error.strerror or error}"
    events: list[Event] = [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]
    if ended is not None:
        step = next(name for name in [*steps(module), "end"] if name not in {event["step"] for event in events})
        seconds = round(time.perf_counter() - start, 2)
        events.append({"step": step, "seconds": seconds, "error": f"{module}: {ended}", "hint": reinstall(module)})
    return events


def reinstall(module: str) -> str:
    """Return the command that installs the distribution of a package again."""
    names = extras.all_installed(extras.DISTRIBUTIONS.get(module) or (extras.OTHERS.get(module, module),))
    name = names[0].partition(" ")[0] if names else module
    return f"pip install --force-reinstall --no-deps {name}"


def steps(module: str) -> list[str]:
    """Return the names of the steps in which a package is examined."""
    row = runtime_of(module)
    return ["import", *(row.devices if row else ())]


def main() -> None:
    """Examine the package that the command line names, and write its events as JSON lines to stdout."""
    channel = processes.answer_channel()
    for event in examine(sys.argv[1]):
        channel.write(strict_json.dumps(event).encode() + b"\n")
        channel.flush()


def examine(module: str) -> Iterator[Event]:
    """Yield the events of a package: its import, and an answer on each device if it is a runtime's."""
    event = _timed("import", lambda: _import(module))
    yield event
    row = runtime_of(module)
    if "error" in event or row is None:
        return
    for device in row.devices:
        yield _timed(device, lambda device=device: _answer(row, device))  # type: ignore[misc]


def _timed(step: str, action: Callable[[], Event]) -> Event:
    """Run one step, and return its event."""
    start = time.perf_counter()
    found: Event
    try:
        found = action()
    except Exception as error:  # a library that does not load may raise anything
        known = error if isinstance(error, ResnetInferError) else extras.explain(error, "resnet-infer")
        message = known.message if known else processes.reason(error)
        found = {"error": message, **({"hint": known.hint} if known and known.hint else {})}
    return {"step": step, "seconds": round(time.perf_counter() - start, 2), **found}


def _import(module: str) -> Event:
    """Import a package as this package does, and return its version, folder and whether it was built for CUDA."""
    row, extra = runtime_of(module), packages()[module]
    with extras.needs(extra, "resnet-infer") if extra else nullcontext():
        if row is not None:
            load(row.opener)
        import_module(_IMPORTS.get(module, module))
        found = import_module(module)
        file = getattr(found, "__file__", None)
        if file is None and module not in _IMPORTS:  # Python imports an empty folder as a namespace package
            raise AttributeError("it has no file", name=module, obj=found)
    providers: list[str] = getattr(found, "get_available_providers", list)()
    return {
        "version": str(getattr(found, "__version__", "")) or None,
        "folder": os.path.dirname(file) if file else None,
        "providers": providers,
        "cuda": "CUDAExecutionProvider" in providers or bool(getattr(getattr(found, "version", None), "cuda", None)),
    }


def _answer(row: RuntimeInfo, device: str) -> Event:
    """Open the small built-in model with a runtime, and compare its answer with the known one."""
    import numpy as np

    from resnet_infer.models.weights.builtin import require_whole
    from resnet_infer.zoo import SMALL, built_in

    files = [path for path in (built_in(SMALL, suffix) for suffix in row.suffixes or ()) if path.exists()]
    if not files:
        return {"skipped": f"no built-in model is of a form that {row.name} opens ({', '.join(row.suffixes or ())})"}
    require_whole(files[0])
    with open_runtime(_model(files[0]), runtime=row.name, device=device) as runtime:
        logits = runtime(_images())[0]
    far = float(np.abs(logits - np.array(LOGITS)).max())
    if not far <= TOLERANCE:
        return {"error": f"{row.name} answers wrongly on {device}: a logit is off by {far:.2g}"}
    return {"answers": True}


def _model(path: Path) -> Any:
    """Return what a runtime opens: the path of an artifact, or a loaded checkpoint."""
    from resnet_infer.models.checkpoint import SUFFIX, load_checkpoint

    return load_checkpoint(path) if path.suffix == SUFFIX else path


def _images() -> Any:
    """Return one image, uint8 (1, 32, 32, 3): gradients, which need no random generator."""
    import numpy as np

    y, x = np.mgrid[:32, :32]
    return np.stack([8 * x, 8 * y, 255 - 4 * (x + y)], axis=-1).astype(np.uint8)[None]
