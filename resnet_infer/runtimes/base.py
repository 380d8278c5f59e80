"""Define the interface of every runtime: uint8 images in, float32 logits out.

All checks of inputs and outputs are here, as is what happens in forked processes. Subclasses only compute.
"""

from __future__ import annotations

import re
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from stat import S_ISDIR
from types import TracebackType
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_infer._version import __version__
from resnet_infer.errors import ModelError, RuntimeUnavailableError, UsageError, did_you_mean
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.signature import require_images
from resnet_infer.utils import cpu, lifetime
from resnet_infer.utils.heap import give_back

Images = NDArray[np.uint8]
"""RGB images of shape (N, height, width, 3)."""
Logits = NDArray[np.float32]
"""Logits of shape (N, classes), in the order of the spec's classes."""
RuntimeT = TypeVar("RuntimeT", bound="Runtime")


def parse_device(device: str | int) -> tuple[str, int]:
    """Split the name of a device into its kind, `auto`, `cpu` or `cuda`, and its number, which is 0 by default.

    `gpu` stands for `cuda`, a number alone (text or `int`) for the GPU of that number, and capital letters for small
    ones. Raises `UsageError` for anything else.

    >>> parse_device("cuda:1"), parse_device("gpu"), parse_device("0"), parse_device(0)
    (('cuda', 1), ('cuda', 0), ('cuda', 0), ('cuda', 0))
    """
    known = isinstance(device, (str, int)) and not isinstance(device, bool)
    text = str(device).strip().lower() if known else ""
    match = re.fullmatch(r"(auto|cpu|cuda|gpu)|(?:(?:cuda|gpu):)?([0-9]{1,9})", text, re.ASCII)
    if match is None:
        similar = did_you_mean(text.partition(":")[0], ("auto", "cpu", "cuda")) if known else ""
        raise UsageError(
            f"there is no device {device!r:.40}{similar}",
            hint="a device is auto, cpu, cuda or cuda:N",
        )
    return "cuda" if match[1] in (None, "gpu") else match[1], int(match[2] or 0)


class Runtime(ABC):
    """Run a loaded model on a device.

    Call the instance to compute logits. It is also a context manager that closes itself. Subclasses implement `_run`,
    and `_transfer` and `_free` where they copy to a device or hold memory.

    - `spec`: the model's spec.
    - `device`: the device in use, `cpu` or `cuda:N`.
    - `size`: the (height, width) in pixels that the model takes, None for a side that is open.
    - `precision`: what the network computes in, which may be lower than the precision of its file.

    A forked child process may use an instance that it inherits: the first call there opens the model again with the
    same arguments. It raises `RuntimeUnavailableError` for an instance on a GPU, and `ModelError` if the file has
    changed since it was opened. When the program ends, calls in progress are finished; other threads cannot start new
    ones.

    Example:
        with open_runtime(Path("model.onnx")) as runtime:
            logits = runtime(np.zeros((1, 224, 224, 3), np.uint8))  # float32 (1, classes)
    """

    name: ClassVar[str]
    """Name of the runtime in the registry."""
    on_calling_thread: ClassVar[bool] = False
    """Whether a call with `threads=1` computes on the calling thread, whose CPU clock then measures the work."""
    in_child: ClassVar[Literal["opened again", "new thread", "as it is"]] = "opened again"
    """What a forked child process does with an inherited instance.

    - `opened again`: open the model again, because the library does not survive a fork.
    - `new thread`: use the memory as it is, but compute on another thread than the one that forked.
    - `as it is`: use it unchanged.
    """

    def __init__(
        self, spec: ModelSpec, device: str, size: tuple[int | None, int | None], precision: str | None = None
    ) -> None:
        self.spec, self.device, self.size = spec, device, size
        self.precision = precision or spec.precision
        self.closed = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _opening(cls.__init__)  # type: ignore[method-assign]

    def __call__(self, images: Images) -> Logits:
        """Compute the logits of a batch.

        `images` are RGB, uint8 (N, height, width, 3) with N >= 0. Returns float32 (N, classes).

        Raises `UsageError` for another dtype or shape and for a closed instance, `ModelError` if the model's output
        does not fit its spec, and `nvidia.device_errors.DeviceError` if the GPU fails. A forked child also raises what
        opening raises, and `RuntimeUnavailableError` for an instance on a GPU.
        """
        if self.closed:
            raise UsageError(f"{self.spec.name} was closed; open it again to run it", reason="closed")
        require_images(images, self.size, self.spec.name)
        if not len(images):
            return np.empty((0, len(self.spec.classes)), np.float32)
        with lifetime.CALLS:
            self._own()
            run = partial(self._run, np.ascontiguousarray(images))
            try:
                logits = lifetime.on_sound_thread(run) if self.in_child == "new thread" else run()
            except Exception as error:
                if self.device != "cpu":
                    from resnet_infer.runtimes.nvidia.device_errors import raise_if_device_failed

                    raise_if_device_failed(error, f"{self.spec.name} on {self.device}")
                raise
        if logits.shape != (len(images), len(self.spec.classes)) or logits.dtype != np.float32:
            raise ModelError(
                f"{self.spec.name} answered {len(images)} pictures with {logits.dtype} of shape {logits.shape}, and "
                f"its spec names {len(self.spec.classes)} classes",
                hint="the graph does not fit its spec; export it again",
                source=self.spec.name,
                reason="mismatch",
            )
        return logits

    @abstractmethod
    def _run(self, images: Images) -> Logits:
        """Compute the logits of a checked, contiguous batch of at least one image."""

    def transfer(self, images: Images) -> bool:
        """Copy `images` to the device as a call does, and wait for it. Benchmarks time this step.

        Returns False, and does nothing, where the model computes in the host's memory.
        """
        with lifetime.CALLS:
            self._own()
            return self._transfer(images)

    def _transfer(self, images: Images) -> bool:
        """Copy `images` to the device and wait for it. Return False if there is nothing to copy."""
        return False

    @classmethod
    def hardware(cls, device: str, compute: str) -> str:
        """Return the processor or GPU of `device`. Raises `RuntimeUnavailableError` if it does not have `compute`."""
        own = sorted(cpu.flags() & cpu.BF16_FLAGS) if compute == "bf16" else []
        return " ".join([cpu.processor(), *own])

    @classmethod
    def parts(cls, model: Path) -> tuple[Path, ...]:
        """Return the files that opening `model` reads. A forked child opens it again only if none has changed."""
        return (model,)

    def describe(self) -> dict[str, Any]:
        """Return the runtime, the device and all other settings that affect speed, as JSON values for reports."""
        return {"runtime": self.name, "device": self.device}

    def close(self) -> None:
        """Free the model and return its memory to the operating system. Closing again does nothing.

        A forked child does not free what it has inherited and not yet used, which belongs to its parent.
        """
        if not self.closed:
            self.closed = True
            if not self._inherited:
                with lifetime.CALLS:
                    self._free()
                give_back()

    def _free(self) -> None:  # noqa: B027  # optional: some runtimes hold nothing
        """Free what the instance holds."""

    def __enter__(self: RuntimeT) -> RuntimeT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.spec.name} on {self.device}{', closed' * self.closed}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how `pickle`, `copy.copy` and `copy.deepcopy` open another instance, with the same arguments.

        Raises `UsageError` for a closed instance and for one that was not opened from a file, and `ModelError` if the
        file has changed. Opening the copy raises what opening raises, `ModelError` for a file with other content, and
        `UsageError` in another version of the package.
        """
        from resnet_infer.runtimes.reopening import PickledFile, reopened

        if self.closed:
            raise UsageError(f"{self.spec.name} was closed; it can be neither pickled nor copied", reason="closed")
        if self._arguments is None:
            raise UsageError(
                f"{self.spec.name} was opened from a loaded checkpoint, so it can be neither pickled nor copied",
                hint="open it from the checkpoint's file",
            )

        def pickled(value: Any) -> Any:
            """Replace an `OpenedFile` by its `PickledFile`."""
            return PickledFile(value) if isinstance(value, OpenedFile) else value

        return reopened, (__version__, type(self), *_mapped(pickled, *self._arguments))

    # Forked child processes, and copies

    _arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    """Positional and keyword arguments that opened the instance, with paths as `OpenedFile`.

    None if it need not be opened again in a child and was opened from a checkpoint, whose arrays are not kept.
    """
    _inherited = False
    """Whether a forked child has inherited the instance and not yet taken it over."""

    def _inherit(self) -> None:
        """Mark the instance as inherited, and keep the child from freeing what the parent opened."""
        if self.in_child == "opened again" or self.device != "cpu":
            lifetime.keep_for_ever(dict(vars(self)))
        self._inherited = self.in_child != "as it is"

    def _own(self) -> None:
        """Take an inherited instance over before its first use in a child."""
        if self._inherited:
            with _REOPENING:
                self._take_over()

    def _take_over(self) -> None:
        """Open an inherited model again, where its class needs that. Raises `RuntimeUnavailableError` on a GPU."""
        if not self._inherited:  # another thread has done it
            return
        if self.device != "cpu":
            raise RuntimeUnavailableError(
                f"{self.spec.name} was opened on {self.device} before the process was forked, and a forked process "
                "cannot use a GPU that its parent has used",
                hint=f"{_AFTER_FORK}; or start processes with spawn",
                source=self.spec.name,
            )
        if self.in_child == "opened again" and self._arguments is not None:
            arguments, options = self._arguments
            for item in (*arguments, *options.values()):
                if isinstance(item, OpenedFile):
                    item.require_same()
            arguments, options = _mapped(_path, arguments, options)
            if "device" in signature(type(self)).parameters:
                options["device"] = "cpu"  # what `auto` was resolved to
            fresh = type(self)(*arguments, **options)
            vars(self).update({**vars(fresh), "spec": self.spec, "closed": self.closed})
        self._inherited = False


_EVERY: weakref.WeakSet[Runtime] = weakref.WeakSet()
"""All open runtimes of this process."""
_AFTER_FORK = "open it in every process, after the fork"
_REOPENING = threading.RLock()
"""Held while a forked child takes a runtime over. Reentrant, because opening may use other runtimes."""


def _inherit_all() -> None:
    """Mark every runtime as inherited; called in each forked child."""
    global _REOPENING
    _REOPENING = threading.RLock()
    for runtime in list(_EVERY):
        runtime._inherit()


lifetime.in_child(_inherit_all)


class OpenedFile:
    """Hold the path of an argument and the state of the files that are read of it, to detect changes to them."""

    def __init__(self, path: Path, parts: tuple[Path, ...]) -> None:
        self.path = path.absolute()
        self.parts = [part.absolute() for part in parts]
        self._states = list(map(self._look, self.parts))

    @staticmethod
    def _look(path: Path) -> tuple[int, ...] | None:
        """Return device, inode, size and modification time in ns; None for a folder or a missing file."""
        try:
            about = path.stat()
        except OSError:
            return None
        return None if S_ISDIR(about.st_mode) else (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)

    def require_same(self, when: str = "before the process was forked", hint: str = _AFTER_FORK) -> None:
        """Raise `ModelError` if one of the files has changed since it was noted, which was `when`."""
        for part, state in zip(self.parts, self._states, strict=True):
            if self._look(part) != state:
                raise ModelError(
                    f"{part} has changed since it was opened, {when}", hint=hint, source=part, reason="changed"
                )


def _noted(opener: type[Runtime], value: Any) -> Any:
    """Replace a path by its `OpenedFile`."""
    return OpenedFile(value, opener.parts(value)) if isinstance(value, Path) else value


def _path(value: Any) -> Any:
    """Replace an `OpenedFile` by its path."""
    return value.path if isinstance(value, OpenedFile) else value


def _mapped(
    function: Callable[[Any], Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Apply `function` to every argument."""
    return tuple(map(function, arguments)), {name: function(value) for name, value in options.items()}


def _opening(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a subclass's `__init__` so that it registers the instance and keeps the arguments for forked children.

    A call inside a subclass's own `__init__` is passed on unchanged: opening is complete only at the outermost one.
    """

    @wraps(init)
    def opening(self: Runtime, *arguments: Any, **options: Any) -> None:
        if type(self).__init__ is not opening:  # called by the `__init__` of a subclass
            init(self, *arguments, **options)
            return
        if self.in_child == "opened again" or (arguments and isinstance(arguments[0], Path)):
            # Noted before the files are read, so that a change while they are read is detected too.
            self._arguments = _mapped(partial(_noted, type(self)), arguments, options)
        with lifetime.CALLS:
            if self.in_child == "new thread":
                lifetime.on_sound_thread(partial(init, self, *arguments, **options))
            else:
                init(self, *arguments, **options)
        _EVERY.add(self)

    return opening
