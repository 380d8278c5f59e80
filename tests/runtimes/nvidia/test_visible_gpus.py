"""Each process of several has an instance of MIG of its own, of which CUDA shows a process only one."""

from __future__ import annotations

import pytest

from resnet_infer.runtimes.nvidia.visible_gpus import VISIBLE, take_instance, visible_gpus


def test_without_the_variable_cuda_sees_all() -> None:
    assert visible_gpus({}) is None
    assert take_instance("cuda:1", {}) == "cuda:1"


@pytest.mark.parametrize(
    ("visible", "device", "taken", "left"),
    [
        ("MIG-a,MIG-b", "cuda:0", "cuda:0", "MIG-a"),
        ("MIG-a,MIG-b", "cuda:1", "cuda:0", "MIG-b"),
        ("MIG-a,MIG-b", "cuda:2", "cuda:2", "MIG-a,MIG-b"),  # opening it tells that there is none
        ("MIG-a,MIG-b", "auto", "auto", "MIG-a,MIG-b"),
        ("MIG-a,MIG-b", "cpu", "cpu", "MIG-a,MIG-b"),
        ("MIG-a", "cuda:0", "cuda:0", "MIG-a"),
        ("GPU-a,GPU-b", "cuda:1", "cuda:1", "GPU-a,GPU-b"),
        ("0,1", "cuda:1", "cuda:1", "0,1"),
    ],
)
def test_only_instances_are_taken_one_by_one(visible: str, device: str, taken: str, left: str) -> None:
    variables = {VISIBLE: visible}
    assert take_instance(device, variables) == taken
    assert variables == {VISIBLE: left}
