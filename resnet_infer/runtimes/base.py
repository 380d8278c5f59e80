"""What every runtime is: uint8 pictures in, float32 logits out, all checks in one place."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ModelError, UsageError, did_you_mean
from resnet_infer.models.spec import ModelSpec

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]
RuntimeT = TypeVar("RuntimeT", bound="Runtime")


def parse_device(device: str) -> tuple[str, int]:
    """`auto`, `cpu`, `cuda` or `cuda:N` as its kind and N, 0 where there is none. Raises `UsageError` for others."""
    match = re.fullmatch(r"(auto|cpu|cuda)|cuda:([0-9]+)", device)
    if match is None:
        raise UsageError(
            f"there is no device {device!r}" + did_you_mean(device.lower().partition(":")[0], ("auto", "cpu", "cuda")),
            hint="a device is auto, cpu, cuda or cuda:N",
        )
    return match[1] or "cuda", int(match[2] or 0)


class Runtime(ABC):
    """A loaded artifact on a device. Subclasses fill in `_run`; callers use the instance as a function.

    `size` is the (height, width) that the artifact takes, None where it is open. Instances are context managers.
    """

    name: ClassVar[str]
    on_calling_thread: ClassVar[bool] = False
    """Whether a call with one thread computes on the thread that makes it, so that the thread's clock sees the work."""

    def __init__(self, spec: ModelSpec, device: str, size: tuple[int | None, int | None]) -> None:
        self.spec, self.device, self.size = spec, device, size
        self.closed = False

    def __call__(self, images: Images) -> Logits:
        """Logits (N, classes) of `images`, uint8 (N, height, width, 3), N >= 0.

        Raises `UsageError` for another dtype or shape, and `ModelError` where the graph's answer does not fit its spec.
        """
        if self.closed:
            raise UsageError(f"{self.spec.name} was closed; open it again to run it")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UsageError(f"images are uint8 of shape (N, height, width, 3), not {images.dtype} {images.shape}")
        for have, want in zip(images.shape[1:3], self.size, strict=True):
            if want is not None and have != want:
                wanted, given = (
                    " x ".join(str(side or "any") for side in size) for size in (self.size, images.shape[1:3])
                )
                raise UsageError(f"{self.spec.name} takes pictures of {wanted} pixels (height x width), not {given}")
        if not len(images):
            return np.empty((0, len(self.spec.classes)), np.float32)
        logits = self._run(np.ascontiguousarray(images))
        if logits.shape != (len(images), len(self.spec.classes)) or logits.dtype != np.float32:
            raise ModelError(
                f"{self.spec.name} answered {len(images)} pictures with {logits.dtype} of shape {logits.shape}, and "
                f"its spec names {len(self.spec.classes)} classes",
                hint="the graph does not fit its spec; export it again",
            )
        return logits

    @abstractmethod
    def _run(self, images: Images) -> Logits: ...

    def transfer(self, images: Images) -> bool:
        """Copy `images` to the device as a call does, and wait until they are there; False where they need not go."""
        return False

    def describe(self) -> dict[str, Any]:
        """Runtime, device and what else decides speed, for reports."""
        return {"runtime": self.name, "device": self.device}

    def close(self) -> None:
        """Free what is held in memory and on the device. Subclasses drop theirs."""
        self.closed = True

    def __enter__(self: RuntimeT) -> RuntimeT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
