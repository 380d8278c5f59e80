"""The torch module behind the interface of a runtime: the reference in parity checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnet_infer.errors import ModelError, RuntimeUnavailableError
from resnet_infer.extras import needs
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.runtimes.base import Images, Logits, Runtime, parse_device

with needs("train", "the torch runtime"):
    import torch

    from resnet_infer.models.network import ResNet


class TorchRuntime(Runtime):
    """A checkpoint as the module it was trained as, float32, normalising as the spec defines it.

    `device` is as in `OnnxRuntime`; `threads` sets torch's number for the whole process.
    """

    name = "torch"

    def __init__(self, model: Path | Checkpoint, *, device: str = "auto", threads: int | None = None) -> None:
        checkpoint = load_checkpoint(model) if isinstance(model, Path) else model
        spec = checkpoint.spec
        if spec.architecture is None:
            raise ModelError(f"{spec.name} has no architecture to build a module from")
        device = _device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        self.network = ResNet(spec.architecture)
        tensors = {name: torch.tensor(value) for name, value in checkpoint.weights.items()}
        self.network.load_state_dict(tensors, strict=False)  # num_batches_tracked is not part of a checkpoint
        self.network.eval().to(device)
        self.mean = torch.tensor(spec.input.mean).to(device)
        self.std = torch.tensor(spec.input.std).to(device)
        crop = spec.input.crop if spec.input.per_pixel else None
        super().__init__(spec, device, (crop, crop))

    @torch.inference_mode()
    def _run(self, images: Images) -> Logits:
        # A copy: torch warns of arrays that are read-only, as those made of pictures are.
        pixels = torch.tensor(images, device=self.device).float() / 255
        logits: Logits = self.network(((pixels - self.mean) / self.std).permute(0, 3, 1, 2)).cpu().numpy()
        return logits

    def close(self) -> None:
        """Free the module."""
        super().close()
        del self.network

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "version": torch.__version__, "threads": torch.get_num_threads()}


def _device(device: str) -> str:
    """The device that will be used, as torch names it."""
    kind, number = parse_device(device)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cpu" or (kind == "auto" and not count):
        return "cpu"
    if number >= count:
        raise RuntimeUnavailableError(
            f"{device} was asked for, and torch has {count or 'no'} CUDA devices here", hint="use --device cpu"
        )
    return f"cuda:{number}"
