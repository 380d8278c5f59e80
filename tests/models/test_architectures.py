from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.errors import UsageError
from resnet_infer.models.architectures import (
    Architecture,
    ShortcutPadding,
    ZeroPadShortcut,
    architecture,
    count_multiply_adds,
    count_parameters,
    published_names,
)

EXACT = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
MILLIONS = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7, 1202: 19.4}
GIGA_MULTIPLY_ADDS = {
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
}


@pytest.mark.parametrize(("name", "count"), EXACT.items())
def test_imagenet_parameters_are_those_of_the_published_weights(name: str, count: int) -> None:
    assert count_parameters(architecture(name)) == count


@pytest.mark.parametrize(("depth", "millions"), MILLIONS.items())
def test_cifar_parameters_round_to_table_6(depth: int, millions: float) -> None:
    digits = 1 if millions > 1 else 2
    assert round(count_parameters(architecture(f"resnet{depth}")) / 1e6, digits) == millions


@pytest.mark.parametrize(("name", "giga"), GIGA_MULTIPLY_ADDS.items())
def test_multiply_adds(name: str, giga: float) -> None:
    assert count_multiply_adds(architecture(name), 224, 224) / 1e9 == pytest.approx(giga, rel=0.01)


def test_v1_has_fewer_multiply_adds_than_v1_5() -> None:
    """The paper's 3.8 billion for ResNet-50, to the digits it gives."""
    assert count_multiply_adds(architecture("resnet50", stride_in="1x1"), 224, 224) / 1e9 == pytest.approx(
        3.8, abs=0.06
    )


def test_plain_nets_have_the_weights_of_their_residual_twins_without_projections() -> None:
    assert count_parameters(architecture("plain56")) == count_parameters(architecture("resnet56"))
    plain, residual = architecture("plain34"), architecture("resnet34", shortcut="A")
    assert plain.plan().shapes() == residual.plan().shapes()
    assert all(block.shortcut is None for block in plain.plan().blocks)


@given(st.integers(1, 60), st.sampled_from(["resnet", "plain"]), st.integers(1, 300))
def test_every_cifar_depth_is_6n_plus_2_weighted_layers(n: int, kind: str, classes: int) -> None:
    arch = architecture(f"{kind}{6 * n + 2}-cifar", classes)
    plan = arch.plan()
    layers = [conv for conv in plan.convs() if "downsample" not in conv.name]
    assert len(layers) + 1 == arch.depth == 6 * n + 2
    assert [conv.out_channels for conv in layers].count(64) == 2 * n
    assert Architecture.from_json(arch.to_json()) == arch


@pytest.mark.parametrize("padding", ["append", "split"])
def test_option_a_pads_where_it_says(padding: ShortcutPadding) -> None:
    plan = architecture("resnet20", shortcut="A", padding=padding).plan()
    pads = [block.shortcut for block in plan.blocks if isinstance(block.shortcut, ZeroPadShortcut)]
    assert [(p.stride, p.before, p.after) for p in pads] == (
        [(2, 0, 16), (2, 0, 32)] if padding == "append" else [(2, 8, 8), (2, 16, 16)]
    )


def test_projections_per_option() -> None:
    counts = {
        option: sum("downsample" in conv.name for conv in architecture("resnet50", shortcut=option).plan().convs())
        for option in ("A", "B", "C")
    }
    assert counts == {"A": 0, "B": 4, "C": 16}


def test_names_are_forgiving_and_canonical() -> None:
    assert architecture("ResNet-20") == architecture("resnet20")
    assert architecture("resnet50-cifar").name == "resnet50-cifar"
    assert architecture("resnet50-cifar").plan().features == 64
    assert architecture("resnet56-cifar").name == "resnet56"
    assert all(architecture(name).name == name for name in published_names())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet21", {}, "unknown architecture"),
        ("resnet2", {}, "unknown architecture"),
        ("resnt50", {}, "did you mean resnet50"),
        ("vgg16", {}, "unknown architecture"),
        ("resnet20", {"shortcut": "D"}, "one of A, B, C"),
        ("resnet20", {"stride_in": "1x1"}, "bottleneck"),
        ("resnet18", {"padding": "split"}, "option A"),
        ("plain20", {"shortcut": "A"}, "no shortcuts"),
        ("resnet20", {"num_classes": 0}, "at least one class"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        architecture(name, **options)  # type: ignore[arg-type]
