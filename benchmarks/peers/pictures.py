"""JPEG files to their five best classes, by one subject: for a line of numbers on stdin, one of JSON on stdout.

python pictures.py SUBJECT CHECKPOINT ARTIFACT INT8-ARTIFACT FOLDER RESIZE MEAN,MEAN,MEAN STD,STD,STD PHOTO...

The line on stdin numbers the photos. The answer has the seconds and the best class of each.
"""

import json
import sys
import time

subject, checkpoint, artifact, int8, folder, resize, mean, std, *photos = sys.argv[1:]
MEAN, STD = ([float(value) for value in text.split(",")] for text in (mean, std))
WORKERS = 2


def from_loader(network, transform, batch):
    """What an evaluation script does: a data set of files, a DataLoader, the network in eager mode."""
    import torch
    from PIL import Image

    class Files(torch.utils.data.Dataset):
        def __init__(self, paths):
            self.paths = paths

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, index):
            return transform(Image.open(self.paths[index]).convert("RGB"))

    def answer(paths):
        best = []
        loader = torch.utils.data.DataLoader(Files(paths), batch_size=batch, num_workers=WORKERS)
        with torch.inference_mode():
            for images in loader:
                best += network(images).softmax(1).topk(5).indices[:, 0].tolist()
        return best

    return answer


peer, _, size = subject.rpartition(", batch ")
if peer == "Hugging Face":
    import torchvision_ops
    from transformers import pipeline

    classify = pipeline("image-classification", model=f"{folder}/hugging-face", device="cpu")

    def answer(paths):
        return [int(found[0]["label"].rpartition("_")[2]) for found in classify(paths, batch_size=int(size), top_k=5)]

elif peer == "timm":
    import torchvision_ops
    from safetensors.torch import load_file
    from timm import create_model
    from timm.data import create_transform

    network = create_model("resnet50").eval()
    network.load_state_dict(load_file(checkpoint), strict=False)
    answer = from_loader(
        network,
        create_transform(224, interpolation="bilinear", crop_pct=224 / int(resize), mean=MEAN, std=STD),
        int(size),
    )
elif peer == "torch eager + DataLoader":
    import torchvision_ops  # noqa: F401
    from safetensors.torch import load_file
    from torchvision import transforms
    from torchvision.models import resnet50

    network = resnet50().eval()
    network.load_state_dict(load_file(checkpoint), strict=False)
    answer = from_loader(
        network,
        transforms.Compose(
            [
                transforms.Resize(int(resize)),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        ),
        int(size),
    )
else:
    from pathlib import Path

    from resnet_infer import Classifier, Picture

    sys.setswitchinterval(0.0005)  # as `resnet-infer classify` does
    classifier = Classifier(
        int8 if "INT8" in subject else artifact,
        runtime="openvino" if "openvino" in subject else "onnxruntime",
        device="cpu",
        throughput=True,
    )

    def answer(paths):
        return [found.predictions[0].index for found in classifier.stream(Picture(path, Path(path)) for path in paths)]


for line in sys.stdin:
    paths = [photos[int(number)] for number in line.split()]
    begin = time.perf_counter()
    best = answer(paths)
    print(json.dumps({"seconds": time.perf_counter() - begin, "best": best}), flush=True)
