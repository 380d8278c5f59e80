"""A classifier as BentoML's documentation shows one: a batchable method that takes pictures.

https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html
"""

import os

import bentoml
import numpy as np
import onnxruntime
from PIL import Image
from PIL.Image import Image as PILImage


@bentoml.service(resources={"cpu": str(os.cpu_count())}, traffic={"timeout": 60})
class Plain:
    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(os.environ["ARTIFACT"], providers=["CPUExecutionProvider"])
        self.size = self.session.get_inputs()[0].shape[1]
        self.resize = int(os.environ["RESIZE"])

    @bentoml.api(batchable=True)
    def classify(self, images: list[PILImage]) -> list[dict[str, float]]:
        pixels = np.stack([self.prepare(image.convert("RGB")) for image in images])
        logits = self.session.run(None, {"images": pixels})[0]
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        best = np.argsort(-probabilities, axis=1)[:, :5]
        return [{str(i): float(row[i]) for i in top} for row, top in zip(probabilities, best, strict=True)]

    def prepare(self, picture: PILImage) -> np.ndarray:
        scale = self.resize / min(picture.size)
        picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
        left, top = (picture.width - self.size) // 2, (picture.height - self.size) // 2
        return np.asarray(picture.crop((left, top, left + self.size, top + self.size)))
