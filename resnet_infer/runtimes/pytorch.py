"""Run a checkpoint as a torch module: the reference in parity checks, and a runtime to compare with in benchmarks.

It needs torch. Settings that the calling program has made for torch are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ModelError, RuntimeUnavailableError, UsageError, did_you_mean, first_line
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.runtimes.base import Images, Logits, Runtime, parse_device
from resnet_infer.utils import cpu
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.utils.extras import needs
from resnet_infer.utils.lifetime import in_child
from resnet_infer.utils.threads import require_threads

with needs("train", "the torch runtime"):
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    from resnet_infer.models.network import ResNet, torch_defaults

Value = TypeVar("Value")
TorchPrecision = Literal["fp32", "tf32", "fp16", "bf16"]
"""Precision of the computation. `fp32` includes convolutions, for which torch uses TF32 on CUDA by default.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html (TensorFloat-32).
"""

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchRuntime(Runtime):
    """Run a checkpoint as a torch module, normalising as the spec says.

    With default options it is the reference: float32, with batch normalisation as separate layers.

    - `model`: path of a checkpoint, or a loaded one.
    - `device`: `auto`, `cpu`, `cuda` or `cuda:N`. `auto` uses CUDA if torch finds a GPU.
    - `threads`: torch's number of threads during a call on the CPU; default: the number that the program has set, at
      most the usable cores.
    - `precision`: what the network computes in. `tf32` needs a GPU.
    - `fused`: fold batch normalisation into the convolutions.
    - `channels_last`: keep weights and feature maps in NHWC.
    - `compile`: use `torch.compile`, which needs a C++ compiler and compiles again for other batch sizes.

    The program's own settings of torch are neither changed nor used: number of threads, random state, default dtype
    and device, autocast, precision of float32 products. One exception: a thread of the program that first uses torch
    while a call runs may start with the call's number of threads.

    Raises `UsageError` for an invalid option, `ModelError` for a damaged checkpoint or one without an architecture, and
    `RuntimeUnavailableError` if the GPU does not exist or the module cannot be compiled.
    """

    name = "torch"
    on_calling_thread = True
    in_child = "new thread"

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
        require_threads(threads)
        if precision not in _DTYPES:
            raise UsageError(
                f"the torch runtime has no precision {precision!r}" + did_you_mean(str(precision), _DTYPES),
                hint=f"known are {', '.join(get_args(TorchPrecision))}",
            )
        checkpoint = load_checkpoint(model) if isinstance(model, Path) else model
        spec = checkpoint.spec
        if spec.architecture is None:
            raise ModelError(
                f"{spec.name} has no architecture to build a module from", source=spec.name, reason="unsupported"
            )
        device = _device(device)
        if precision == "tf32" and device == "cpu":
            raise UsageError("a CPU has no tf32", hint="use fp32, bf16 or fp16, or a GPU")
        self.threads, self._cores = threads, usable_cores()
        self.fused, self.channels_last, self.compiled = fused, channels_last, compile
        self._dtype = _DTYPES[precision]
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = _network(checkpoint, fused).to(device, self._dtype)
        self.network.to(memory_format=self._format)  # type: ignore[call-overload]  # torch's stubs lack it
        self.mean, self.std = (
            torch.tensor(value, dtype=torch.float32, device=device) for value in (spec.input.mean, spec.input.std)
        )
        self._forward: Any = torch.compile(self.network) if compile else self.network
        crop = spec.input.crop if spec.input.per_pixel else None
        super().__init__(spec, device, (crop, crop), precision)
        if compile:
            self._try()

    @torch.inference_mode()
    def _run(self, images: Images) -> Logits:
        # A copy: torch warns about read-only arrays, and decoded images are read-only.
        pixels = torch.tensor(images, device=self.device).float() / 255
        x = ((pixels - self.mean) / self.std).permute(0, 3, 1, 2).to(self._dtype)
        with _own_threads(self._count()), float32_products(self.precision, self.device), _no_autocast(self.device):
            logits = self._forward(x.contiguous(memory_format=self._format)).float().cpu().numpy()
        # A copy: torch frees its memory outside the interpreter, which a daemon thread must not do at exit.
        return np.array(logits)

    def _count(self) -> int:
        """Return the threads of a call: `threads`, or the number that torch has, at most the usable cores."""
        return self.threads or min(torch.get_num_threads(), self._cores)

    def _transfer(self, images: Images) -> bool:
        if self.device == "cpu":
            return False
        torch.tensor(images, device=self.device)
        torch.cuda.synchronize(self.device)
        return True

    def _try(self) -> None:
        """Compile for a batch of one image. Raises `RuntimeUnavailableError` if that fails."""
        crop = self.spec.input.crop
        try:
            self._run(np.zeros((1, crop, crop, 3), np.uint8))
        except Exception as error:  # the compilers behind torch.compile raise anything
            raise RuntimeUnavailableError(
                f"torch cannot compile {self.spec.name} here ({first_line(error)})",
                hint="install a C++ compiler, or leave `compile` out",
                source=self.spec.name,
            ) from error

    def _free(self) -> None:
        # Delete every tensor here: torch acquires the interpreter again after each one that it frees.
        del self.network, self._forward, self.mean, self.std

    @classmethod
    def hardware(cls, device: str, compute: str) -> str:
        """Return the name of the processor or GPU. Raises `RuntimeUnavailableError` if it only emulates bf16."""
        used = _device(device)
        if used != "cpu":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
            found = torch.cuda.get_device_name(used)
        else:
            # Other systems than Linux do not say which instructions there are.
            fast = sys.platform != "linux" or bool(cpu.flags() & cpu.BF16_FLAGS)
            found = super().hardware(used, compute)
        if compute == "bf16" and not fast:
            raise RuntimeUnavailableError(
                f"bf16 was asked for, and {found} has no instructions for it", hint="leave --compute out"
            )
        return found

    def describe(self) -> dict[str, Any]:
        """Return the base fields, `version`, `threads`, `precision`, `fused`, `channels_last` and `compiled`."""
        return {
            **super().describe(),
            "version": torch.__version__,
            "threads": self._count(),
            "precision": self.precision,
            "fused": self.fused,
            "channels_last": self.channels_last,
            "compiled": self.compiled,
        }


class Float64Network:
    """Run a checkpoint's module in float64 on the CPU, to measure the error of float32 results against."""

    @torch_defaults()
    def __init__(self, checkpoint: Checkpoint) -> None:
        self._network = _network(checkpoint, fused=False).double()
        self._mean, self._std = (
            torch.tensor(value, dtype=torch.float64)
            for value in (checkpoint.spec.input.mean, checkpoint.spec.input.std)
        )

    @torch_defaults()
    @torch.inference_mode()
    def __call__(self, images: Images) -> NDArray[np.float64]:
        """Compute the float64 logits (N, classes) of `images`, uint8 (N, height, width, 3)."""
        pixels = (torch.tensor(images).double() / 255 - self._mean) / self._std
        with _own_threads(min(torch.get_num_threads(), usable_cores())):
            logits: NDArray[np.float64] = self._network(pixels.permute(0, 3, 1, 2).contiguous()).numpy()
        return logits


def _network(checkpoint: Checkpoint, fused: bool) -> ResNet:
    """Create the module with the checkpoint's weights, float32 on the CPU in evaluation mode."""
    arch = checkpoint.spec.architecture
    assert arch is not None
    with torch.random.fork_rng(devices=()), torch.device("cpu"):
        network = ResNet(arch).float()  # the program may have set another default dtype
        tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in checkpoint.weights.items()}
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


class _Borrowed(Generic[Value]):
    """Change a setting of the whole process during calls; the last of several concurrent calls restores it.

    - `get` and `put`: functions that read and set the value.
    - `by_thread`: each thread has its own copy of the value, so every call restores it on its thread.
    """

    def __init__(self, get: Callable[[], Value], put: Callable[[Value], object], *, by_thread: bool = False) -> None:
        self.get, self._put, self._by_thread = get, put, by_thread
        self.used = False
        self._forget()
        in_child(self._forget)

    def _forget(self) -> None:
        """Reset the count of calls, also in a forked child, where calls of the parent's other threads never end."""
        self._lock = Lock()
        self._running = 0
        self._before: Value | None = None

    @contextmanager
    def __call__(self, value: Value) -> Iterator[None]:
        """Set `value` for the body of the `with` statement."""
        with self._lock:
            if not self._running:
                self._before = self.get()
            self._running += 1
            self.used = True
            self._put(value)
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._before is not None and (self._by_thread or not self._running):
                    self._put(self._before)


_threads = _Borrowed(torch.get_num_threads, torch.set_num_threads, by_thread=True)


def _renew_pool() -> None:
    """Make torch forget, in a forked child, the pool of threads that `set_num_threads` started in the parent.

    Otherwise a child that ends waits for those threads, in memory that may be freed already, and dies of SIGSEGV.
    """
    if _threads.used:
        torch.set_num_threads(torch.get_num_threads())


in_child(_renew_pool)


def _own_threads(threads: int) -> AbstractContextManager[None]:
    """Let torch use this number of threads for the body of the `with` statement."""
    return nullcontext() if threads == torch.get_num_threads() else _threads(threads)


class _Precisions(_Borrowed[tuple[str, ...]]):
    """Change `fp32_precision`, the precision of float32 products, of several torch backends together.

    `kinds` are backend objects such as `torch.backends.cudnn.conv`; the value has one text for each.
    """

    def __init__(self, *kinds: Any) -> None:
        def put(values: tuple[str, ...]) -> None:
            """Set the precision of each backend."""
            for kind, value in zip(kinds, values, strict=True):
                kind.fp32_precision = value

        super().__init__(lambda: tuple(kind.fp32_precision for kind in kinds), put)


_cpu_products = _Precisions(torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
_cuda_products = _Precisions(torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]


def float32_products(precision: str, device: str) -> AbstractContextManager[None]:
    """Compute float32 products in IEEE float32, or in TF32 where `precision` is `tf32` and the device is a GPU."""
    if device == "cpu":
        exact = all(value in ("none", "ieee") for value in _cpu_products.get())
        return nullcontext() if exact else _cpu_products(("ieee", "ieee"))
    value = "tf32" if precision == "tf32" else "ieee"
    return _cuda_products((value, value))


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    """Switch a caller's `torch.autocast` off, which would change the precision of the network."""
    kind = device.partition(":")[0]
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _device(device: str) -> str:
    """Return the device to use, as torch names it.

    Raises `UsageError` for an invalid name and `RuntimeUnavailableError` for a GPU that torch does not find.
    """
    kind, number = parse_device(device)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cpu" or (kind == "auto" and not count):
        return "cpu"
    if number >= count:
        raise RuntimeUnavailableError(
            f"{device} was asked for, and torch has {count or 'no'} CUDA devices here",
            hint="use the device cpu",
            source=device,
        )
    return f"cuda:{number}"
