"""The peers' forms of one network, with the same weights.

python make_models.py CHECKPOINT ARTIFACT FOLDER RESIZE MEAN,MEAN,MEAN STD,STD,STD PHOTO...
"""

import re
import sys
from pathlib import Path

import numpy as np
import torchvision_ops  # noqa: F401
from PIL import Image
from safetensors.torch import load_file


def hugging_face(weights, folder, resize, mean, std):
    """A folder as `from_pretrained` takes it."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    names = (
        (r"^conv1\.", "resnet.embedder.embedder.convolution."),
        (r"^bn1\.", "resnet.embedder.embedder.normalization."),
        (r"^fc\.", "classifier.1."),
        (r"^layer(\d)\.(\d)\.", lambda found: f"resnet.encoder.stages.{int(found[1]) - 1}.layers.{found[2]}."),
        (r"\.downsample\.0\.", ".shortcut.convolution."),
        (r"\.downsample\.1\.", ".shortcut.normalization."),
        (r"(?<=\d)\.conv(\d)\.", lambda found: f".layer.{int(found[1]) - 1}.convolution."),
        (r"(?<=\d)\.bn(\d)\.", lambda found: f".layer.{int(found[1]) - 1}.normalization."),
    )
    state = {}
    for name, value in weights.items():
        for pattern, to in names:
            name = re.sub(pattern, to, name)
        state[name] = value
    model = ResNetForImageClassification(ResNetConfig(num_labels=len(weights["fc.bias"])))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    model.save_pretrained(folder)
    # It resizes the shorter side to 224 / crop_pct.
    ConvNextImageProcessor(
        size={"shortest_edge": 224}, crop_pct=224 / resize, resample=2, image_mean=mean, image_std=std
    ).save_pretrained(folder)


def nncf_int8(artifact, target, resize, photos):
    """INT8 for OpenVINO, by NNCF at its defaults."""
    import nncf
    import openvino

    def read(path):
        picture = Image.open(path).convert("RGB")
        scale = resize / min(picture.size)
        picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
        left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
        return np.asarray(picture.crop((left, top, left + 224, top + 224)))[None]

    dataset = nncf.Dataset([read(path) for path in photos])
    model = nncf.quantize(openvino.Core().read_model(artifact), dataset, subset_size=len(photos))
    openvino.save_model(model, target, compress_to_fp16=False)


if __name__ == "__main__":
    checkpoint, artifact, folder, resize, mean, std, *photos = sys.argv[1:]
    weights = load_file(checkpoint)
    mean, std = ([float(value) for value in text.split(",")] for text in (mean, std))
    hugging_face(weights, Path(folder) / "hugging-face", int(resize), mean, std)
    nncf_int8(artifact, Path(folder) / "nncf.xml", int(resize), photos)
