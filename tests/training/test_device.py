"""What a run does to its device: precision of float32 products, and whether the network is compiled."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra `train`")

from resnet_infer.errors import UsageError  # noqa: E402
from resnet_infer.training import device as devices  # noqa: E402

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
KINDS: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]


def test_fp32_on_a_gpu_is_no_tf32_and_the_programs_setting_returns() -> None:
    before = [kind.fp32_precision for kind in KINDS]
    assert KINDS[0].fp32_precision != "ieee"  # torch's default, which would make fp32 less than it says
    with devices.exact_products(CUDA):
        assert [kind.fp32_precision for kind in KINDS] == ["ieee"] * 2
        warnings.warn("TensorFloat32 tensor cores for float32 matrix multiplication available", stacklevel=1)
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", stacklevel=1)
    assert [kind.fp32_precision for kind in KINDS] == before


def test_on_a_cpu_the_settings_for_gpus_stay() -> None:
    before = [kind.fp32_precision for kind in KINDS]
    with devices.exact_products(CPU):
        assert [kind.fp32_precision for kind in KINDS] == before


def test_a_run_computes_in_ieee_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_infer.training.loop.trainer import Trainer

    seen: list[Any] = []
    monkeypatch.setattr(Trainer, "_run", lambda self: seen.append([kind.fp32_precision for kind in KINDS]))
    trainer = object.__new__(Trainer)
    trainer.device = CUDA

    class Folder:
        def locked(self, world: Any) -> Any:
            return warnings.catch_warnings()

    trainer.run_folder, trainer.world = Folder(), None  # type: ignore[assignment]
    trainer.run()
    assert seen == [["ieee"] * 2]


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_several_processes_do_not_compile(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(torch, "compile", lambda network, **options: options)
    network: Any = torch.nn.Identity()
    assert devices.compiled(network, device, None, 2) is network
    assert devices.compiled(network, device, False, 2) is network
    with pytest.raises(UsageError, match="2 processes train together") as caught:
        devices.compiled(network, device, True, 2)
    assert "--compile" in str(caught.value.hint)
    assert (devices.compiled(network, device, None) is network) == (device == CPU)
    assert devices.compiled(network, device, True) is not network
