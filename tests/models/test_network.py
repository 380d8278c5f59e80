from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the module needs torch (the extra `train`)")

from torch.nn import functional  # noqa: E402

from resnet_infer.models.architectures import architecture, published_names  # noqa: E402
from resnet_infer.models.network import ResNet, set_norm_statistics  # noqa: E402

SMALL = [name for name in published_names() if name not in ("resnet101", "resnet152", "resnet1202")]


@pytest.mark.parametrize("name", SMALL)
def test_the_state_dict_is_the_plans(name: str) -> None:
    arch = architecture(name)
    state = {k: tuple(v.shape) for k, v in ResNet(arch).state_dict().items() if not k.endswith("num_batches_tracked")}
    assert state == arch.plan().shapes()


def test_he_initialisation() -> None:
    """Zero mean, variance 2 / fan-out (reference 13 of the paper); batch norm starts as the identity."""
    torch.manual_seed(0)
    network = ResNet(architecture("resnet34"))
    weight: Any = network.get_submodule("layer4.2.conv2").weight
    fan = weight.shape[0] * 9
    assert weight.mean().abs() < 4 * (2 / fan / weight.numel()) ** 0.5
    assert weight.var().item() == pytest.approx(2 / fan, rel=0.01)
    norm = network.get_submodule("layer4.2.bn2")
    assert torch.equal(norm.weight, torch.ones(512))
    assert torch.equal(norm.bias, torch.zeros(512))
    assert torch.equal(network.fc.bias, torch.zeros(1000))


@pytest.mark.parametrize(("stride_in", "strides"), [("1x1", (2, 1, 1)), ("3x3", (1, 2, 1))])
def test_where_a_bottleneck_strides(stride_in: str, strides: tuple[int, ...]) -> None:
    network = ResNet(architecture("resnet50", stride_in=stride_in))  # type: ignore[arg-type]
    block: Any = network.get_submodule("layer2.0")
    assert tuple(block.get_submodule(f"conv{i}").stride[0] for i in (1, 2, 3)) == strides


@pytest.mark.parametrize("padding", ["append", "split"])
def test_option_a_against_its_definition(padding: str) -> None:
    """Every second pixel; zeros after, or half before and half after, the old channels."""
    torch.manual_seed(0)
    network = ResNet(architecture("resnet20", padding=padding)).eval()  # type: ignore[arg-type]
    block: Any = network.get_submodule("layer2.0")
    x = torch.randn(2, 16, 8, 8)
    expected = torch.zeros(2, 32, 4, 4)
    first = 0 if padding == "append" else 8
    for channel in range(16):
        for row in range(4):
            for column in range(4):
                expected[:, first + channel, row, column] = x[:, channel, 2 * row, 2 * column]
    convs = functional.relu(block.bn1(block.conv1(x)))
    convs = block.bn2(block.conv2(convs))
    assert torch.equal(block(x), functional.relu(convs + expected))


def test_the_two_paddings_of_option_a_answer_differently() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    nets = [ResNet(architecture("resnet20", padding=padding)).eval() for padding in ("append", "split")]
    nets[1].load_state_dict(nets[0].state_dict())
    assert not torch.allclose(nets[0](x), nets[1](x), atol=1e-2)


def test_a_plain_block_adds_nothing() -> None:
    torch.manual_seed(0)
    block: Any = ResNet(architecture("plain20")).eval().get_submodule("layer1.0")
    x = torch.randn(1, 16, 8, 8)
    assert torch.equal(block(x), functional.relu(block.bn2(block.conv2(functional.relu(block.bn1(block.conv1(x)))))))


def test_statistics_are_the_averages_over_the_batches() -> None:
    torch.manual_seed(0)
    network = ResNet(architecture("resnet20")).eval()
    batches = [torch.randn(8, 3, 32, 32) + shift for shift in (0, 1)]
    set_norm_statistics(network, batches)
    out = [network.conv1(batch) for batch in batches]
    mean = torch.stack([o.mean((0, 2, 3)) for o in out]).mean(0)
    variance = torch.stack([o.var((0, 2, 3)) for o in out]).mean(0)
    assert torch.allclose(network.bn1.running_mean, mean, atol=1e-5)
    assert torch.allclose(network.bn1.running_var, variance, rtol=1e-4)
    assert not network.training
    assert network.bn1.momentum == 0.1
