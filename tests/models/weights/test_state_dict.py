"""Foreign names become ours, nothing is dropped silently, and a misfit is explained."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_infer.errors import ModelError
from resnet_infer.models.architectures import Architecture, architecture, published_names
from resnet_infer.models.weights.state_dict import guess_architecture, match_state_dict

SMALL = architecture("resnet8", shortcut="B")
State = dict[str, NDArray[Any]]


def weights_of(arch: Architecture) -> State:
    """Random weights under our names, with variances above 0."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in arch.plan().shapes().items()}
    return {name: np.abs(value) if name.endswith("running_var") else value for name, value in weights.items()}


def blank(arch: Architecture) -> State:
    """The shapes of `arch`, in no memory to speak of."""
    return {name: np.broadcast_to(np.float32(1), shape) for name, shape in arch.plan().shapes().items()}


def renamed(state: State, rename: Callable[[str], str]) -> State:
    return {rename(name): value for name, value in state.items()}


def assert_same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for name, value in right.items():
        assert left[name].dtype == np.float32
        np.testing.assert_array_equal(left[name], value)


@settings(deadline=None, max_examples=25)
@given(
    prefixes=st.lists(st.sampled_from(["module.", "model.", "_orig_mod.", "backbone."]), max_size=3),
    head=st.sampled_from(["fc", "linear", "last_linear", "classifier", "head.fc"]),
    shortcut=st.sampled_from(["downsample", "shortcut"]),
    dtype=st.sampled_from([np.float64, np.float32]),
    head_is_conv=st.booleans(),
    head_is_wrapped=st.booleans(),
)
def test_the_namings_of_the_field(
    prefixes: list[str], head: str, shortcut: str, dtype: type, head_is_conv: bool, head_is_wrapped: bool
) -> None:
    ours = weights_of(SMALL)

    def rename(name: str) -> str:
        prefix = "".join(prefixes) if head_is_wrapped or not name.startswith("fc.") else ""
        return prefix + re.sub(r"^fc\b", head, name).replace("downsample", shortcut)

    theirs = renamed({name: value.astype(dtype) for name, value in ours.items()}, rename)
    if head_is_conv:
        theirs[rename("fc.weight")] = theirs[rename("fc.weight")][:, :, None, None]
    theirs[rename("bn1.num_batches_tracked")] = np.array(7)
    theirs[rename("layer2.0.downsample.1.num_batches_tracked")] = np.array(7)
    assert_same(match_state_dict(theirs, SMALL, "x.pth"), ours)


def test_option_a_has_no_shortcut_weights() -> None:
    arch = architecture("resnet8", shortcut="A")
    ours = weights_of(arch)
    assert_same(match_state_dict(renamed(ours, lambda name: f"module.{name}"), arch, "x.pth"), ours)


def test_the_result_is_a_copy() -> None:
    theirs = weights_of(SMALL)
    before = theirs["fc.bias"].copy()
    for value in match_state_dict(theirs, SMALL, "x.pth").values():
        assert value.flags.c_contiguous
        value += 1
    np.testing.assert_array_equal(theirs["fc.bias"], before)


def test_the_bias_of_a_convolution_moves_into_the_mean() -> None:
    """With the bias, Caffe's network and ours give the same output of batch norm for any input of it."""
    ours = weights_of(SMALL)
    rng = np.random.default_rng(1)
    theirs, biases = dict(ours), {}
    for conv in SMALL.plan().convs():
        bias = rng.standard_normal(conv.out_channels).astype(np.float32)
        theirs[f"module.{conv.name}.bias"] = bias
        biases[f"{conv.norm}.running_mean"] = bias
    matched = match_state_dict(theirs, SMALL, "x.pth")
    for name, value in ours.items():
        if name in biases:
            np.testing.assert_allclose(0.5 - matched[name], 0.5 + biases[name] - value, atol=1e-6)
        else:
            np.testing.assert_array_equal(matched[name], value)


@pytest.mark.parametrize("change", ["shape", "no norm"])
def test_a_bias_that_has_no_place_is_left_over(change: str) -> None:
    theirs = weights_of(SMALL)
    theirs["conv1.bias"] = np.zeros(3 if change == "shape" else 16, np.float32)
    if change == "no norm":
        del theirs["bn1.running_mean"]
    with pytest.raises(ModelError, match=r"left over: conv1\.bias$"):
        match_state_dict(theirs, SMALL, "x.pth")


class TestMisfit:
    def test_everything_is_said_in_one_error(self) -> None:
        theirs = renamed(weights_of(SMALL), lambda name: f"module.{name}")
        del theirs["module.bn1.bias"]
        theirs["module.layer1.0.se.weight"] = np.zeros(3, np.float32)
        theirs["module.layer1.0.conv1.weight"] = np.zeros((16, 16, 5, 5), np.float32)
        theirs["module.fc.bias"][2] = np.nan
        with pytest.raises(ModelError) as caught:
            match_state_dict(theirs, SMALL, "x.pth")
        assert caught.value.message == (
            "x.pth: the weights do not fit resnet8: missing: bn1.bias; left over: module.layer1.0.se.weight; "
            "of another shape: module.layer1.0.conv1.weight (16, 16, 5, 5) instead of (16, 16, 3, 3); "
            "not finite: module.fc.bias"
        )
        assert caught.value.hint is None

    def test_a_float64_beyond_float32_is_not_finite(self) -> None:
        theirs = weights_of(SMALL)
        theirs["fc.bias"] = np.full(10, 1e300)
        with pytest.raises(ModelError, match=r"not finite: fc\.bias$"):
            match_state_dict(theirs, SMALL, "x.pth")

    def test_a_negative_variance_is_named(self) -> None:
        theirs = weights_of(SMALL)
        theirs["layer1.0.bn1.running_var"][3] = -1e-3
        with pytest.raises(ModelError, match=r"a negative variance: layer1\.0\.bn1\.running_var$"):
            match_state_dict(theirs, SMALL, "x.pth")

    def test_a_classifier_that_sees_more_than_one_position(self) -> None:
        theirs = weights_of(SMALL)
        theirs["fc.weight"] = np.zeros((10, 64, 7, 7), np.float32)
        with pytest.raises(ModelError, match=r"fc\.weight \(10, 64, 7, 7\) instead of \(10, 64\)"):
            match_state_dict(theirs, SMALL, "x.pth")

    def test_two_tensors_for_one_place(self) -> None:
        theirs = weights_of(SMALL)
        theirs["linear.weight"] = theirs["fc.weight"]
        with pytest.raises(ModelError, match=r"x\.pth: fc\.weight and linear\.weight both"):
            match_state_dict(theirs, SMALL, "x.pth")
        assert guess_architecture(theirs) is None

    def test_long_lists_are_counted(self) -> None:
        with pytest.raises(ModelError, match=r"missing: conv1\.weight, (\S+, ){3}\S+ and 42 more$"):
            match_state_dict({}, SMALL, "x.pth")

    @pytest.mark.parametrize(
        ("asked", "held", "hint"),
        [
            (architecture("resnet50"), architecture("resnet101"), "resnet101"),
            (architecture("resnet101"), architecture("resnet50"), "resnet50"),
            (architecture("resnet50"), architecture("resnet50", 10), "resnet50 with 10 classes"),
            (architecture("resnet20"), architecture("resnet20", shortcut="B"), "resnet20 with shortcut option B"),
            (architecture("resnet20", shortcut="B"), architecture("resnet20"), "resnet20 with shortcut option A"),
            (architecture("resnet18"), architecture("resnet32", 100), "resnet32 with 100 classes"),
            (
                architecture("resnet20"),
                architecture("resnet18", 7, shortcut="C"),
                "resnet18 with shortcut option C and 7 classes",
            ),
            (architecture("plain34"), architecture("plain18"), "plain18"),
        ],
    )
    def test_the_hint_names_the_network_that_it_is(self, asked: Architecture, held: Architecture, hint: str) -> None:
        with pytest.raises(ModelError) as caught:
            match_state_dict(blank(held), asked, "x.pth")
        assert caught.value.hint == f"these weights look like {hint}"

    def test_no_hint_where_the_network_is_right_and_the_rest_is_not(self) -> None:
        arch = architecture("resnet20")
        with pytest.raises(ModelError, match="left over: extra") as caught:
            match_state_dict({**blank(arch), "extra": np.zeros(1)}, arch, "x.pth")
        assert caught.value.hint is None


class TestGuess:
    @pytest.mark.parametrize("shortcut", ["A", "B", "C"])
    @pytest.mark.parametrize("name", [name for name in published_names() if name.startswith("resnet")])
    def test_every_published_network_is_known_by_its_shapes(self, name: str, shortcut: Any) -> None:
        arch = architecture(name, 77, shortcut=shortcut)
        assert guess_architecture(blank(arch)) == arch

    def test_foreign_names(self) -> None:
        arch = architecture("resnet20", 100, shortcut="B")
        theirs = renamed(
            blank(arch), lambda name: "module." + name.replace("fc", "linear").replace("downsample", "shortcut")
        )
        theirs["module.bn1.num_batches_tracked"] = np.array(7)
        theirs["module.conv1.bias"] = np.zeros(16)
        assert guess_architecture(theirs) == arch

    def test_what_shapes_cannot_tell(self) -> None:
        v1 = architecture("resnet50", stride_in="1x1")
        assert guess_architecture(blank(v1)) == architecture("resnet50")
        plain = architecture("plain20")
        assert guess_architecture(blank(plain)) == architecture("resnet20", shortcut="A")

    @pytest.mark.parametrize("broken", ["more blocks", "fewer blocks", "other kernel", "no head", "attention"])
    def test_a_network_of_another_kind_is_not_guessed(self, broken: str) -> None:
        state = blank(architecture("resnet50"))
        one = np.ones(1, np.float32)
        if broken == "more blocks":
            state |= {name.replace("layer1.2", "layer1.3"): value for name, value in state.items()}
        elif broken == "fewer blocks":
            state = {name: value for name, value in state.items() if not name.startswith("layer4.2")}
        elif broken == "other kernel":
            state["conv1.weight"] = np.broadcast_to(one[0], (64, 3, 3, 3))
        elif broken == "no head":
            del state["fc.weight"]
        else:
            state["layer1.0.se.fc1.weight"] = one
        assert guess_architecture(state) is None
