"""Make torchvision importable where its binary does not fit the torch that is installed; its Python still serves.

Images are resized and normalised without any operator of that binary.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any


def load_operators() -> None:
    """Load torchvision's operators, or declare those that it cannot be imported without. Call it before the import."""
    import torch

    library: Any = torch.library.Library
    load: Any = torch.ops.load_library
    found = find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("torchvision is not installed", name="torchvision")
    try:
        for path in Path(found.submodule_search_locations[0]).glob("_C*.so"):
            load(path)
    except OSError:
        declared = library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(declared)


_DECLARED: list[Any] = []
"""The declarations: they end with the object that made them."""
