"""Read CUDA_VISIBLE_DEVICES as CUDA does, without CUDA, and give a process of several one of its GPUs.

Source: "CUDA Environment Variables" in the CUDA C++ Programming Guide, and "Device Enumeration" in the MIG User Guide.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable with the numbers or UUIDs of the GPUs that a process may use."""
_UUIDS = ("GPU-", "MIG-")
"""Beginnings of the UUIDs of a GPU and of an instance of one."""


def visible_gpus(environment: MutableMapping[str, str] | None = None) -> list[str] | None:
    """Return the numbers and UUIDs that CUDA takes from the variable, or None if it is not set.

    CUDA stops at the first that is neither, and sees no GPU if one is listed twice.

    >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "0,-1,1"}), visible_gpus({"CUDA_VISIBLE_DEVICES": "1,1"})
    (['0'], [])
    """
    text = (os.environ if environment is None else environment).get(VISIBLE)
    if text is None:
        return None
    found: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if not (name.isascii() and name.isdecimal()) and not name.startswith(_UUIDS):
            break
        found.append(name)
    return found if len(set(found)) == len(found) else []


def take_instance(device: str, environment: MutableMapping[str, str] | None = None) -> str:
    """Return the name by which this process uses `device`, "cuda:N", where the variable lists instances of MIG.

    CUDA shows a process one instance only. The variable is therefore reduced to the one with the number N, which is
    "cuda:0" then. Call it before CUDA is used in the process. Any other device is returned as it is.

    >>> variables = {"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}
    >>> take_instance("cuda:1", variables), variables
    ('cuda:0', {'CUDA_VISIBLE_DEVICES': 'MIG-b'})
    """
    variables = os.environ if environment is None else environment
    visible = visible_gpus(variables) or []
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number.isdecimal() or len(visible) < 2 or not visible[0].startswith("MIG-"):
        return device
    if int(number) >= len(visible):
        return device
    variables[VISIBLE] = visible[int(number)]
    return "cuda:0"
