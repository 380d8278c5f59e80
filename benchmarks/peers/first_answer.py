"""The first answer of a process: the five best classes of one photo.

python first_answer.py SUBJECT CHECKPOINT ARTIFACT INT8-ARTIFACT FOLDER PHOTO
"""

import sys

subject, checkpoint, artifact, int8, folder, photo = sys.argv[1:]


def read():
    import numpy
    from PIL import Image

    picture = Image.open(photo).convert("RGB")
    scale = 256 / min(picture.size)
    picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
    left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
    return numpy.asarray(picture.crop((left, top, left + 224, top + 224)))[None]


if subject == "Hugging Face pipeline":
    import torchvision_ops
    from transformers import pipeline

    print(pipeline("image-classification", model=f"{folder}/hugging-face", device="cpu")(photo, top_k=5))
elif subject == "torch eager":
    import torch
    import torchvision_ops  # noqa: F401
    from safetensors.torch import load_file
    from torchvision.models import resnet50

    network = resnet50().eval()
    network.load_state_dict(load_file(checkpoint), strict=False)
    with torch.inference_mode():
        pixels = torch.from_numpy(read().copy()).permute(0, 3, 1, 2).float() / 255 - 0.45
        print(network(pixels).softmax(1).topk(5))
elif subject.startswith("onnxruntime"):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        int8 if subject.endswith("INT8") else artifact, providers=["CPUExecutionProvider"]
    )
    print((-session.run(None, {"images": read()})[0][0]).argsort()[:5])
else:
    import openvino

    model = f"{folder}/nncf.xml" if "NNCF" in subject else artifact
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    print((-compiled({0: read()})[0][0]).argsort()[:5])
