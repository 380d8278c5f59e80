"""What a first answer costs: the whole process against a bare script that does the same.

    python -m benchmarks.startup

Run it in an environment that has the extra `cpu` and no other, as those who classify have it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.paired import COMMAND, PYTHON, compare, peak_memory, save
from resnet_infer.zoo import DEFAULT, SMALL, VARIABLE, built_in

PHOTO = Path(__file__).parent.parent / "demo" / "pictures" / "cat.jpg"
BARE = """
import sys
import numpy, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
picture = Image.open(sys.argv[2]).convert("RGB")
size = session.get_inputs()[0].shape[1]
scale = int(sys.argv[3]) / min(picture.size)
picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
left, top = (picture.width - size) // 2, (picture.height - size) // 2
pixels = numpy.asarray(picture.crop((left, top, left + size, top + size)))[None]
logits = session.run(None, {"images": pixels})[0][0]
probabilities = numpy.exp(logits - logits.max())
probabilities /= probabilities.sum()
for index in numpy.argsort(-probabilities)[:5]:
    print(index, probabilities[index])
"""


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    os.environ.pop(VARIABLE, None)
    found, gates = {}, {}
    for name, model in ((DEFAULT, []), (SMALL, ["-m", SMALL])):
        ours = [COMMAND, "classify", str(PHOTO), *model]
        artifact = built_in(name, ".onnx")
        with OnnxRuntime(artifact, device="cpu") as runtime:
            resize = runtime.spec.input.resize
        theirs = [PYTHON, "-c", BARE, str(artifact), str(PHOTO), str(resize)]
        pair = compare(ours, theirs)
        memory = {"ours_peak_mb": round(peak_memory(ours), 1), "theirs_peak_mb": round(peak_memory(theirs), 1)}
        found[f"{name}: classify one photo / bare onnxruntime and PIL"] = {**pair.to_json(), **memory}
        gates[f"{name}: classify <= 1.4"] = pair.ratio <= 1.4
    help_page = compare([COMMAND, "--help"], [PYTHON, "-c", "import typer"])
    found["--help / python -c 'import typer'"] = help_page.to_json()
    save("startup", found, {**gates, "--help <= 2": help_page.ratio <= 2})


if __name__ == "__main__":
    main()
