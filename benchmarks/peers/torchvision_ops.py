"""Import before torchvision: where its binary does not fit the torch that is installed, its Python still serves.

Pictures are resized and normalised without any operator of that binary.
"""

from importlib.util import find_spec
from pathlib import Path

import torch

(_FOLDER,) = find_spec("torchvision").submodule_search_locations
try:
    for _library in Path(_FOLDER).glob("_C*.so"):
        torch.ops.load_library(_library)
except OSError:
    _OPS = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):  # what it will not be imported without
        _OPS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
