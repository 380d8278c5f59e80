"""Pure inference of one subject: a line "BATCH SECONDS" on stdin, the median milliseconds of a call on stdout.

python inference.py SUBJECT CHECKPOINT ARTIFACT INT8-ARTIFACT FOLDER
"""

import statistics
import sys
import time

import numpy as np

subject, checkpoint, artifact, int8, folder = sys.argv[1:]


def torch_call(pictures):
    import torch

    if subject == "torch eager":
        network = NETWORK
    elif subject == "torch channels_last":
        network = NETWORK.to(memory_format=torch.channels_last)
    else:
        network = torch.compile(NETWORK.to(memory_format=torch.channels_last))
    # Normalised beforehand: this is the network alone.
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - 0.45
    x = x.contiguous(memory_format=torch.contiguous_format if subject == "torch eager" else torch.channels_last)

    def call():
        with torch.inference_mode():
            return network(x).numpy()

    return call


def onnxruntime_call(pictures):
    return lambda: SESSION.run(["logits"], {"images": pictures})[0]


def openvino_call(pictures):
    request = COMPILED.create_infer_request()
    return lambda: request.infer({0: pictures}, share_inputs=True)[0]


if subject.startswith("torch"):
    import torch
    import torchvision_ops  # noqa: F401
    from safetensors.torch import load_file
    from torchvision.models import resnet50

    torch._inductor.config.freezing = True
    NETWORK = resnet50().eval()
    NETWORK.load_state_dict(load_file(checkpoint), strict=False)
    prepare = torch_call
elif subject.startswith("onnxruntime"):
    import onnxruntime

    SESSION = onnxruntime.InferenceSession(
        int8 if subject.endswith("INT8") else artifact, providers=["CPUExecutionProvider"]
    )
    prepare = onnxruntime_call
elif subject.startswith("openvino"):
    import openvino

    COMPILED = openvino.Core().compile_model(
        f"{folder}/nncf.xml" if "NNCF" in subject else artifact,
        "CPU",
        {"PERFORMANCE_HINT": "LATENCY"} | ({} if "bf16" in subject else {"INFERENCE_PRECISION_HINT": "f32"}),
    )
    prepare = openvino_call
else:
    from pathlib import Path

    from resnet_infer.runtimes.registry import open_runtime

    name = "openvino" if "openvino" in subject else "onnxruntime"
    options = {"bf16": True} if "bf16" in subject else {}
    RUNTIME = open_runtime(Path(int8 if "INT8" in subject else artifact), runtime=name, device="cpu", **options)

    def prepare(pictures):
        return lambda: RUNTIME(pictures)


calls = {}
for line in sys.stdin:
    batch, seconds = int(line.split()[0]), float(line.split()[1])
    if batch not in calls:
        noise = np.random.default_rng(0).integers(0, 256, (batch, 28, 28, 3), np.uint8)
        calls[batch] = prepare(noise.repeat(8, 1).repeat(8, 2))
        calls[batch]()
    call, times = calls[batch], []
    call()
    while len(times) < 2 or sum(times) < seconds:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    print(1000 * statistics.median(times), flush=True)
