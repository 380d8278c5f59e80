"""The first answer of a process: the five best classes of one photo.

python first_answer.py SUBJECT CHECKPOINT ARTIFACT INT8-ARTIFACT FOLDER PHOTO
"""

from __future__ import annotations

import sys
from typing import Any


def read(photo: str) -> Any:
    """Return the centre of the photo, uint8 (1, 224, 224, 3)."""
    import numpy
    from PIL import Image

    picture = Image.open(photo).convert("RGB")
    scale = 256 / min(picture.size)
    picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
    left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
    return numpy.asarray(picture.crop((left, top, left + 224, top + 224)))[None]


def main() -> None:
    if len(sys.argv) != 7 or "--help" in sys.argv:  # without argparse, whose import would be timed too
        print(__doc__)
        sys.exit(0 if "--help" in sys.argv else 2)
    subject, checkpoint, artifact, int8, folder, photo = sys.argv[1:]
    if subject == "Hugging Face pipeline":
        from benchmarks.peer_programs.torchvision_ops import load_operators

        load_operators()
        from transformers import pipeline

        print(pipeline("image-classification", model=f"{folder}/hugging-face", device="cpu")(photo, top_k=5))
    elif subject == "torch eager":
        from benchmarks.peer_programs.torchvision_ops import load_operators

        load_operators()
        import torch
        from safetensors.torch import load_file
        from torchvision.models import resnet50

        network = resnet50().eval()
        network.load_state_dict(load_file(checkpoint), strict=False)
        with torch.inference_mode():
            pixels = torch.from_numpy(read(photo).copy()).permute(0, 3, 1, 2).float() / 255 - 0.45
            print(network(pixels).softmax(1).topk(5))
    elif subject.startswith("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(
            int8 if subject.endswith("INT8") else artifact, providers=["CPUExecutionProvider"]
        )
        print((-session.run(None, {"images": read(photo)})[0][0]).argsort()[:5])
    else:
        import openvino

        model = f"{folder}/nncf.xml" if "NNCF" in subject else artifact
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        print((-compiled({0: read(photo)})[0][0]).argsort()[:5])


if __name__ == "__main__":
    main()
