"""A classifier on LitServe; `run_litserve.py` serves it.

https://lightning.ai/docs/litserve/features/batching
"""

import os
from collections.abc import Sequence
from io import BytesIO

import litserve
import numpy as np
import onnxruntime
from fastapi import Request
from numpy.typing import NDArray
from PIL import Image


class Plain(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["ARTIFACT"], options, providers=["CPUExecutionProvider"])
        self.size = self.session.get_inputs()[0].shape[1]
        self.resize = int(os.environ["RESIZE"])

    # LitServe reads a form where the annotation is `Request`, which has to be a class and not its name.
    def decode_request(self, request: Request) -> NDArray[np.uint8]:
        picture = Image.open(BytesIO(request["image"].file.read())).convert("RGB")
        scale = self.resize / min(picture.size)
        picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
        left, top = (picture.width - self.size) // 2, (picture.height - self.size) // 2
        return np.asarray(picture.crop((left, top, left + self.size, top + self.size)))

    def batch(self, inputs: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.stack(inputs)

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.session.run(None, {"images": pixels})[0]
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: NDArray[np.float32] = probabilities / probabilities.sum(axis=1, keepdims=True)
        return found

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(output)

    def encode_response(self, row: NDArray[np.float32]) -> dict[str, float]:
        return {str(i): float(row[i]) for i in np.argsort(-row)[:5]}
