"""JPEG files to their five best classes, by one subject: for a line of numbers on stdin, one of JSON on stdout.

python pictures.py SUBJECT CHECKPOINT ARTIFACT INT8-ARTIFACT FOLDER RESIZE MEAN,MEAN,MEAN STD,STD,STD PHOTO...

The line on stdin numbers the photos. The answer has the seconds and the best class of each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peer_programs.arguments import add_geometry, subject_parser
from benchmarks.peer_programs.torchvision_ops import load_operators

Answer = Callable[[Sequence[str]], list[int]]
"""The best class of each file."""
WORKERS = 2


def from_loader(network: Any, transform: Callable[[Any], Any], batch: int) -> Answer:
    """What an evaluation script does: a data set of files, a DataLoader, the network in eager mode."""
    import torch
    from PIL import Image

    class Files(torch.utils.data.Dataset[Any]):
        def __init__(self, paths: Sequence[str]) -> None:
            self.paths = paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.open(self.paths[index]).convert("RGB"))

    def answer(paths: Sequence[str]) -> list[int]:
        best: list[int] = []
        loader = torch.utils.data.DataLoader(Files(paths), batch_size=batch, num_workers=WORKERS)
        with torch.inference_mode():
            for images in loader:
                best += network(images).softmax(1).topk(5).indices[:, 0].tolist()
        return best

    return answer


def of_hugging_face(given: argparse.Namespace, size: int) -> Answer:
    load_operators()
    from transformers import pipeline

    classify = pipeline("image-classification", model=f"{given.folder}/hugging-face", device="cpu")

    def answer(paths: Sequence[str]) -> list[int]:
        return [int(found[0]["label"].rpartition("_")[2]) for found in classify(paths, batch_size=size, top_k=5)]

    return answer


def of_timm(given: argparse.Namespace, size: int) -> Answer:
    load_operators()
    from safetensors.torch import load_file
    from timm import create_model
    from timm.data import create_transform

    network = create_model("resnet50").eval()
    network.load_state_dict(load_file(given.checkpoint), strict=False)
    transform = create_transform(
        224, interpolation="bilinear", crop_pct=224 / given.resize, mean=given.mean, std=given.std
    )
    return from_loader(network, transform, size)


def of_torchvision(given: argparse.Namespace, size: int) -> Answer:
    load_operators()
    from safetensors.torch import load_file
    from torchvision import transforms
    from torchvision.models import resnet50

    network = resnet50().eval()
    network.load_state_dict(load_file(given.checkpoint), strict=False)
    steps = [
        transforms.Resize(given.resize),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(given.mean, given.std),
    ]
    return from_loader(network, transforms.Compose(steps), size)


def of_ours(given: argparse.Namespace) -> Answer:
    from resnet_infer import Classifier, Picture

    sys.setswitchinterval(0.0005)  # as `resnet-infer classify` does
    classifier = Classifier(
        given.int8 if "INT8" in given.subject else given.artifact,
        runtime="openvino" if "openvino" in given.subject else "onnxruntime",
        device="cpu",
        throughput=True,
    )

    def answer(paths: Sequence[str]) -> list[int]:
        found = classifier.stream(Picture(path, Path(path)) for path in paths)
        return [item.predictions[0].index for item in found]

    return answer


PEERS = {"Hugging Face": of_hugging_face, "timm": of_timm, "torch eager + DataLoader": of_torchvision}


def main() -> None:
    parser = subject_parser(__doc__)
    add_geometry(parser)
    given = parser.parse_args()
    peer, _, size = given.subject.rpartition(", batch ")
    answer = PEERS[peer](given, int(size)) if peer in PEERS else of_ours(given)
    for line in sys.stdin:
        paths = [given.photos[int(number)] for number in line.split()]
        begin = time.perf_counter()
        best = answer(paths)
        print(json.dumps({"seconds": time.perf_counter() - begin, "best": best}), flush=True)


if __name__ == "__main__":
    main()
