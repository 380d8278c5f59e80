"""A classifier on LitServe, with its batching and a process for every core, each on one thread.

https://lightning.ai/docs/litserve/features/batching
"""

import os
import sys
from io import BytesIO

import litserve
import numpy as np
import onnxruntime
from fastapi import Request
from PIL import Image


class Plain(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["ARTIFACT"], options, providers=["CPUExecutionProvider"])
        self.size = self.session.get_inputs()[0].shape[1]
        self.resize = int(os.environ["RESIZE"])

    def decode_request(self, request: Request) -> np.ndarray:
        picture = Image.open(BytesIO(request["image"].file.read())).convert("RGB")
        scale = self.resize / min(picture.size)
        picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
        left, top = (picture.width - self.size) // 2, (picture.height - self.size) // 2
        return np.asarray(picture.crop((left, top, left + self.size, top + self.size)))

    def batch(self, inputs: list) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        logits = self.session.run(None, {"images": pixels})[0]
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def unbatch(self, output: np.ndarray) -> list:
        return list(output)

    def encode_response(self, row: np.ndarray) -> dict:
        return {str(i): float(row[i]) for i in np.argsort(-row)[:5]}


if __name__ == "__main__":
    port, workers = map(int, sys.argv[1:])
    api = Plain(max_batch_size=8, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", access_log=False)
