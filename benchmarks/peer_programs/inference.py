"""Pure inference of one subject: a line "BATCH SECONDS" on stdin, the median milliseconds of a call on stdout.

python inference.py SUBJECT CHECKPOINT ARTIFACT INT8-ARTIFACT FOLDER
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peer_programs.arguments import precision, subject_parser
from benchmarks.peer_programs.torchvision_ops import load_operators

Call = Callable[[], Any]
Prepare = Callable[[NDArray[np.uint8]], Call]
"""Makes a call on a batch of images, uint8 (batch, 224, 224, 3)."""


def of_torch(given: argparse.Namespace) -> Prepare:
    load_operators()
    import torch
    from safetensors.torch import load_file
    from torchvision.models import resnet50

    torch._inductor.config.freezing = True
    network: Any = resnet50().eval()
    network.load_state_dict(load_file(given.checkpoint), strict=False)
    eager = given.subject == "torch eager"
    bf16 = "bf16" in given.subject
    if not eager:
        network = network.to(memory_format=torch.channels_last)
    if given.subject.startswith("torch.compile"):
        network = torch.compile(network)

    def prepare(pictures: NDArray[np.uint8]) -> Call:
        # Normalised beforehand: this is the network alone.
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - 0.45
        x = x.contiguous(memory_format=torch.contiguous_format if eager else torch.channels_last)

        def call() -> Any:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return network(x).float().numpy()

        return call

    return prepare


def of_onnxruntime(given: argparse.Namespace) -> Prepare:
    import onnxruntime

    path = given.int8 if given.subject.endswith("INT8") else given.artifact
    if "quantize_static" in given.subject:
        path = f"{given.folder}/quantize_static.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pictures: lambda: session.run(["logits"], {"images": pictures})[0]


def of_openvino(given: argparse.Namespace) -> Prepare:
    import openvino

    compiled = openvino.Core().compile_model(
        f"{given.folder}/nncf.xml" if "NNCF" in given.subject else given.artifact,
        "CPU",
        {"PERFORMANCE_HINT": "LATENCY"} | ({} if "bf16" in given.subject else {"INFERENCE_PRECISION_HINT": "f32"}),
    )

    def prepare(pictures: NDArray[np.uint8]) -> Call:
        request = compiled.create_infer_request()
        return lambda: request.infer({0: pictures}, share_inputs=True)[0]

    return prepare


def of_optimum(given: argparse.Namespace) -> Prepare:
    load_operators()
    import torch
    from optimum.intel import OVModelForImageClassification

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    network = OVModelForImageClassification.from_pretrained(
        f"{given.folder}/hugging-face", export=True, ov_config=settings
    )

    def prepare(pictures: NDArray[np.uint8]) -> Call:
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - 0.45
        x = x.contiguous()
        return lambda: network(pixel_values=x).logits.numpy()

    return prepare


def of_ours(given: argparse.Namespace) -> Prepare:
    from resnet_infer.runtimes.registry import open_runtime
    from resnet_infer.selection.select import Work, open_chosen

    path = Path(given.int8 if "INT8" in given.subject else given.artifact)

    def prepare(pictures: NDArray[np.uint8]) -> Call:
        if "openvino" in given.subject:
            compute = {"FP32": "fp32", "bf16": "bf16"}.get(precision(given.subject), "auto")
            runtime = open_runtime(path, runtime="openvino", device="cpu", compute=compute)
        else:
            runtime, _ = open_chosen(path, Work("service", batch=len(pictures), device="cpu"))
        return lambda: runtime(pictures)

    return prepare


def settle() -> None:
    """Wait until the threads of this process sleep, at most a second: they would take the cores of the next subject."""
    end = time.perf_counter() + 1
    while time.perf_counter() < end:
        busy = time.process_time()
        time.sleep(0.02)
        if time.process_time() - busy < 0.001:
            return


def main() -> None:
    given = subject_parser(__doc__).parse_args()
    if given.subject.startswith("torch"):
        prepare = of_torch(given)
    elif given.subject.startswith("onnxruntime"):
        prepare = of_onnxruntime(given)
    elif given.subject.startswith("openvino"):
        prepare = of_openvino(given)
    elif given.subject.startswith("optimum"):
        prepare = of_optimum(given)
    else:
        prepare = of_ours(given)
    calls: dict[int, Call] = {}
    for line in sys.stdin:
        batch, seconds = int(line.split()[0]), float(line.split()[1])
        if batch not in calls:
            noise = np.random.default_rng(0).integers(0, 256, (batch, 28, 28, 3), np.uint8)
            calls[batch] = prepare(noise.repeat(8, 1).repeat(8, 2))
            calls[batch]()
        call = calls[batch]
        times: list[float] = []
        call()
        while len(times) < 2 or sum(times) < seconds:
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        settle()
        print(1000 * statistics.median(times), flush=True)


if __name__ == "__main__":
    main()
