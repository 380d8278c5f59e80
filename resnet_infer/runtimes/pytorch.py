"""The torch module behind the interface of a runtime: the reference in parity checks, and a peer in benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ModelError, RuntimeUnavailableError, UsageError, did_you_mean, first_line
from resnet_infer.extras import needs
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.runtimes.base import Images, Logits, Runtime, parse_device

with needs("train", "the torch runtime"):
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    from resnet_infer.models.network import ResNet

TorchPrecision = Literal["fp32", "tf32", "fp16", "bf16"]
"""What the network computes in. `fp32` is all of it: on CUDA torch's own default for convolutions is `tf32`."""

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchRuntime(Runtime):
    """A checkpoint as the module it was trained as, normalising as the spec defines it.

    As it comes it is the reference: float32, batch normalisation apart. The options make it as fast as torch is:
    `precision`; `fused` folds batch normalisation into the convolutions; `channels_last` keeps weights and maps in
    NHWC; `compile` hands the module to `torch.compile`, which needs a C++ compiler and compiles again for other
    batches. `device` is as in `OnnxRuntime`; `threads` sets torch's number for the whole process.
    """

    name = "torch"

    def __init__(
        self,
        model: Path | Checkpoint,
        *,
        device: str = "auto",
        threads: int | None = None,
        precision: TorchPrecision = "fp32",
        fused: bool = False,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        if precision not in _DTYPES:
            raise UsageError(
                f"the torch runtime has no precision {precision!r}" + did_you_mean(str(precision), _DTYPES),
                hint=f"known are {', '.join(get_args(TorchPrecision))}",
            )
        checkpoint = load_checkpoint(model) if isinstance(model, Path) else model
        spec = checkpoint.spec
        if spec.architecture is None:
            raise ModelError(f"{spec.name} has no architecture to build a module from")
        device = _device(device)
        if precision == "tf32" and device == "cpu":
            raise UsageError("a CPU has no tf32", hint="use fp32, bf16 or fp16, or a GPU")
        if threads is not None:
            torch.set_num_threads(threads)
        self.precision, self.fused, self.channels_last, self.compiled = precision, fused, channels_last, compile
        self._dtype = _DTYPES[precision]
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = _network(checkpoint, fused).to(device, self._dtype)
        self.network.to(memory_format=self._format)  # type: ignore[call-overload]  # torch's stubs lack it
        self.mean = torch.tensor(spec.input.mean).to(device)
        self.std = torch.tensor(spec.input.std).to(device)
        self._forward: Any = torch.compile(self.network) if compile else self.network
        crop = spec.input.crop if spec.input.per_pixel else None
        super().__init__(spec, device, (crop, crop))
        if compile:
            self._try()

    @torch.inference_mode()
    def _run(self, images: Images) -> Logits:
        # A copy: torch warns of arrays that are read-only, as those made of pictures are.
        pixels = torch.tensor(images, device=self.device).float() / 255
        x = ((pixels - self.mean) / self.std).permute(0, 3, 1, 2).to(self._dtype)
        with _products(self.precision) if self.device != "cpu" else nullcontext():
            logits: Logits = self._forward(x.contiguous(memory_format=self._format)).float().cpu().numpy()
        return logits

    def transfer(self, images: Images) -> bool:
        if self.device == "cpu":
            return False
        torch.tensor(images, device=self.device)
        torch.cuda.synchronize(self.device)
        return True

    def _try(self) -> None:
        """Compile for one picture. Raises `RuntimeUnavailableError` where torch cannot."""
        crop = self.spec.input.crop
        try:
            self._run(np.zeros((1, crop, crop, 3), np.uint8))
        except Exception as error:  # whatever the compilers behind torch.compile stumble over
            raise RuntimeUnavailableError(
                f"torch cannot compile {self.spec.name} here ({first_line(error)})",
                hint="install a C++ compiler, or leave `compile` out",
            ) from error

    def close(self) -> None:
        """Free the module."""
        super().close()
        del self.network, self._forward

    def describe(self) -> dict[str, Any]:
        """Besides version and threads: `precision`, `fused`, `channels_last`, `compiled`."""
        return {
            **super().describe(),
            "version": torch.__version__,
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "fused": self.fused,
            "channels_last": self.channels_last,
            "compiled": self.compiled,
        }


class Float64Network:
    """A checkpoint as its module in float64 on the CPU: what float32 is judged by."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._network = _network(checkpoint, fused=False).double()
        self._mean, self._std = (
            torch.tensor(value, dtype=torch.float64)
            for value in (checkpoint.spec.input.mean, checkpoint.spec.input.std)
        )

    @torch.inference_mode()
    def __call__(self, images: Images) -> NDArray[np.float64]:
        """Logits (N, classes) of `images`, uint8 (N, height, width, 3)."""
        pixels = (torch.tensor(images).double() / 255 - self._mean) / self._std
        logits: NDArray[np.float64] = self._network(pixels.permute(0, 3, 1, 2).contiguous()).numpy()
        return logits


def _network(checkpoint: Checkpoint, fused: bool) -> ResNet:
    arch = checkpoint.spec.architecture
    assert arch is not None
    network = ResNet(arch)
    tensors = {name: torch.tensor(value) for name, value in checkpoint.weights.items()}
    network.load_state_dict(tensors, strict=False)  # num_batches_tracked is not part of a checkpoint
    network.eval()
    if fused:
        for conv in arch.plan().convs():
            module, norm = network.get_submodule(conv.name), network.get_submodule(conv.norm)
            assert isinstance(module, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            network.set_submodule(conv.name, fuse_conv_bn_eval(module, norm))
            network.set_submodule(conv.norm, nn.Identity())
    return network


@contextmanager
def _products(precision: TorchPrecision) -> Iterator[None]:
    """Products of float32 on CUDA as `precision` says. The setting is the process's, so it is put back."""
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]  # as above
    before = conv.fp32_precision, matmul.fp32_precision
    conv.fp32_precision = matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        conv.fp32_precision, matmul.fp32_precision = before


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
