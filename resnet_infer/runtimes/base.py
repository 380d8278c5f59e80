"""What every runtime is: uint8 pictures in, float32 logits out, all checks in one place."""

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

from resnet_infer.errors import ModelError, RuntimeUnavailableError, UsageError, did_you_mean
from resnet_infer.models.spec import ModelSpec
from resnet_infer.utils import lifetime
from resnet_infer.utils.heap import give_back

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
    """A loaded artifact on a device. Subclasses fill in `_run`, and `_transfer` and `_free` where there is something to
    do; callers use the instance as a function.

    `size` is the (height, width) that the artifact takes, None where it is open. Instances are context managers.

    A forked child may use an instance that it inherits: it is opened again, with the same arguments, when it is first
    called there. One on a GPU is refused there, and so is one of a file that has changed since it was opened. When the
    program ends, calls in progress are waited for, and threads that go on begin no others.
    """

    name: ClassVar[str]
    on_calling_thread: ClassVar[bool] = False
    """Whether a call with one thread computes on the thread that makes it, so that the thread's clock sees the work."""
    in_child: ClassVar[Literal["opened again", "new thread", "as it is"]] = "opened again"
    """What a forked child does with what it inherits; `new thread`: it is memory, but the thread that forked is not to
    compute."""

    def __init__(self, spec: ModelSpec, device: str, size: tuple[int | None, int | None]) -> None:
        self.spec, self.device, self.size = spec, device, size
        self.closed = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _opening(cls.__init__)  # type: ignore[method-assign]

    def __call__(self, images: Images) -> Logits:
        """Logits (N, classes) of `images`, uint8 (N, height, width, 3), N >= 0.

        Raises `UsageError` for another dtype or shape, and `ModelError` where the graph's answer does not fit its spec;
        in a forked child what opening raises, and `RuntimeUnavailableError` where it cannot be used.
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
        with lifetime.CALLS:
            self._own()
            run = partial(self._run, np.ascontiguousarray(images))
            logits = lifetime.on_sound_thread(run) if self.in_child == "new thread" else run()
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
        with lifetime.CALLS:
            self._own()
            return self._transfer(images)

    def _transfer(self, images: Images) -> bool:
        return False

    def describe(self) -> dict[str, Any]:
        """Runtime, device and what else decides speed, for reports."""
        return {"runtime": self.name, "device": self.device}

    def close(self) -> None:
        """Free what is held, and give the memory back to the system.

        What a forked child inherited belongs to its parent, and is only let go of.
        """
        if not self.closed:
            self.closed = True
            if not self._inherited:
                with lifetime.CALLS:
                    self._free()
                give_back()

    def _free(self) -> None:  # noqa: B027  # most hold nothing that has to be dropped
        """Drop what the instance holds."""

    def __enter__(self: RuntimeT) -> RuntimeT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # In a forked child

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]
    _inherited = False

    def _inherit(self) -> None:
        """Leave alone what the parent opened."""
        if self.in_child == "opened again" or self.device != "cpu":
            lifetime.keep_for_ever(dict(vars(self)))
        self._inherited = self.in_child != "as it is"

    def _own(self) -> None:
        """Make it fit to be used, where a parent had opened it."""
        if self._inherited:
            with _REOPENING:
                self._take_over()

    def _take_over(self) -> None:
        if not self._inherited:  # another thread was first
            return
        if self.device != "cpu":
            raise RuntimeUnavailableError(
                f"{self.spec.name} was opened on {self.device} before the process was forked, and a forked process "
                "cannot use a GPU that its parent has used",
                hint="open it in every process, after the fork; or start processes with spawn",
            )
        if self.in_child == "opened again":
            arguments, options = self._arguments
            for item in (*arguments, *options.values()):
                if isinstance(item, _File):
                    item.require_same()
            arguments, options = _mapped(_path, arguments, options)
            if "device" in signature(type(self)).parameters:
                options["device"] = "cpu"  # where `auto` led
            fresh = type(self)(*arguments, **options)
            vars(self).update({**vars(fresh), "spec": self.spec, "closed": self.closed})
        self._inherited = False


_EVERY: weakref.WeakSet[Runtime] = weakref.WeakSet()
_REOPENING = threading.RLock()


def _inherit_all() -> None:
    global _REOPENING
    _REOPENING = threading.RLock()
    for runtime in list(_EVERY):
        runtime._inherit()


lifetime.in_child(_inherit_all)


class _File:
    """A path among the arguments, and what changes with the file's content."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._state = self._look()

    def _look(self) -> tuple[int, ...] | None:
        """None for a folder, and for what is not there."""
        try:
            about = self.path.stat()
        except OSError:
            return None
        return None if S_ISDIR(about.st_mode) else (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)

    def require_same(self) -> None:
        """Raise `ModelError` where the file has changed."""
        if self._look() != self._state:
            raise ModelError(
                f"{self.path} has changed since it was opened, before the process was forked",
                hint="open it in every process, after the fork",
            )


def _noted(value: Any) -> Any:
    return _File(value) if isinstance(value, Path) else value


def _path(value: Any) -> Any:
    return value.path if isinstance(value, _File) else value


def _mapped(
    function: Callable[[Any], Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(function, arguments)), {name: function(value) for name, value in options.items()}


def _opening(init: Callable[..., None]) -> Callable[..., None]:
    """`init`, of a class, as a call that opens a runtime; its arguments are kept for forked children."""

    @wraps(init)
    def opening(self: Runtime, *arguments: Any, **options: Any) -> None:
        if type(self).__init__ is not opening:  # it is part of opening a subclass
            init(self, *arguments, **options)
            return
        if self.in_child == "opened again":
            # Before the files are read: a change that comes meanwhile is one.
            self._arguments = _mapped(_noted, arguments, options)
        with lifetime.CALLS:
            if self.in_child == "new thread":
                lifetime.on_sound_thread(partial(init, self, *arguments, **options))
            else:
                init(self, *arguments, **options)
        _EVERY.add(self)

    return opening
