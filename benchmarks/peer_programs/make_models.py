"""The peers' forms of one network, with the same weights.

python make_models.py CHECKPOINT ARTIFACT FOLDER RESIZE MEAN,MEAN,MEAN STD,STD,STD PHOTO...
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.peer_programs.arguments import add_geometry
from benchmarks.peer_programs.torchvision_ops import load_operators


def hugging_face(
    weights: Mapping[str, Any], folder: Path, resize: int, mean: Sequence[float], std: Sequence[float]
) -> None:
    """A folder as `from_pretrained` takes it."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    names: tuple[tuple[str, Any], ...] = (
        (r"^conv1\.", "resnet.embedder.embedder.convolution."),
        (r"^bn1\.", "resnet.embedder.embedder.normalization."),
        (r"^fc\.", "classifier.1."),
        (r"^layer(\d)\.(\d)\.", lambda found: f"resnet.encoder.stages.{int(found[1]) - 1}.layers.{found[2]}."),
        (r"\.downsample\.0\.", ".shortcut.convolution."),
        (r"\.downsample\.1\.", ".shortcut.normalization."),
        (r"(?<=\d)\.conv(\d)\.", lambda found: f".layer.{int(found[1]) - 1}.convolution."),
        (r"(?<=\d)\.bn(\d)\.", lambda found: f".layer.{int(found[1]) - 1}.normalization."),
    )
    state: dict[str, Any] = {}
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


def read(path: str, resize: int) -> NDArray[np.uint8]:
    """The centre crop of a photo, uint8 (1, 224, 224, 3)."""
    picture: Image.Image = Image.open(path).convert("RGB")
    scale = resize / min(picture.size)
    picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
    left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
    return np.asarray(picture.crop((left, top, left + 224, top + 224)))[None]


def nncf_int8(artifact: str, target: Path, resize: int, photos: Sequence[str]) -> None:
    """INT8 for OpenVINO, by NNCF at its defaults."""
    import nncf
    import openvino

    dataset = nncf.Dataset([read(path, resize) for path in photos])
    model = nncf.quantize(openvino.Core().read_model(artifact), dataset, subset_size=len(photos))
    openvino.save_model(model, target, compress_to_fp16=False)


def onnxruntime_int8(artifact: str, target: Path, resize: int, photos: Sequence[str]) -> None:
    """INT8 for ONNX Runtime, by its own quantize_static: QDQ, per channel, as its documentation advises."""
    from onnxruntime import quantization

    class Photos(quantization.CalibrationDataReader):  # type: ignore[misc]
        """The photos, one after the other."""

        def __init__(self) -> None:
            self.left = iter(photos)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            path = next(self.left, None)
            return None if path is None else {"images": read(path, resize)}

    quantization.quantize_static(
        artifact, target, Photos(), per_channel=True, op_types_to_quantize=["Conv", "Add", "Gemm", "MaxPool"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=".safetensors")
    parser.add_argument("artifact", metavar="ARTIFACT", help=".onnx in FP32")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where they are written")
    add_geometry(parser)
    given = parser.parse_args()
    load_operators()
    from safetensors.torch import load_file

    hugging_face(load_file(given.checkpoint), given.folder / "hugging-face", given.resize, given.mean, given.std)
    nncf_int8(given.artifact, given.folder / "nncf.xml", given.resize, given.photos)
    onnxruntime_int8(given.artifact, given.folder / "quantize_static.onnx", given.resize, given.photos)


if __name__ == "__main__":
    main()
