from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from resnet_infer.errors import UsageError
from resnet_infer.models import families
from resnet_infer.models.architectures import Architecture, architecture, count_multiply_adds, count_parameters
from resnet_infer.models.families import CIFAR_DEPTHS, FAMILIES, Family, find_family, published_families
from resnet_infer.models.weights.state_dict import guess_architecture
from tests.families import RESNEXT50, SMALL, WIDE_RESNET50, WIDTHS, add_rows

KNOWN = (
    "known are resnet18/34/50/101/152, plain18/34, and resnetD or plainD for CIFAR with D = 6n+2 (20, 32, 44, 56, 110, "
    "1202, ...; add -cifar where ImageNet has the same depth)"
)


def is_the_papers(family: Family) -> bool:
    """Whether the name is one of the paper's, which says kind and depth. Other rows may have any name."""
    return bool(re.fullmatch(r"(resnet|plain)\d+", family.name))


@pytest.fixture
def only_the_papers_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the messages that list all rows: a new row of the package is no change of these tests."""
    monkeypatch.setattr(families, "FAMILIES", tuple(filter(is_the_papers, FAMILIES)))


def test_every_row_is_found_by_its_name_and_has_the_layers_that_it_says() -> None:
    for family in published_families():
        assert find_family(family.name) == find_family(family.name.upper()) == family
        if is_the_papers(family):
            assert family.depth == int(re.sub(r"\D", "", family.name))
            assert family.plain == family.name.startswith("plain")
    assert sum(map(is_the_papers, published_families())) == 18


def test_no_row_takes_the_name_of_a_cifar_network_of_the_paper() -> None:
    """Recipes, built-in models and checkpoints say `resnet20`, and would mean another network."""
    for kind, depths in CIFAR_DEPTHS.items():
        for depth in depths:
            assert find_family(f"{kind}{depth}").widths == (16, 32, 64)
            assert find_family(f"{kind}{depth}-cifar").name == f"{kind}{depth}"


@pytest.mark.parametrize("kind", CIFAR_DEPTHS)
def test_a_cifar_network_has_another_name_where_the_table_has_its_own(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_family(f"{kind}26-cifar").name == f"{kind}26"
    add_rows(monkeypatch, Family(f"{kind}26", "imagenet", "basic", (3, 3, 3, 3), WIDTHS, "B"))
    assert find_family(f"{kind}26").stem == "imagenet"
    assert find_family(f"{kind}26-cifar") == Family(
        f"{kind}26-cifar", "cifar", "basic", (4, 4, 4), (16, 32, 64), "A" if kind == "resnet" else None, num_classes=10
    )


@pytest.mark.parametrize("name", ["resnet-50", " ResNet50\n", "resnet0050", "RESNET-050"])
def test_names_that_mean_resnet50(name: str) -> None:
    assert find_family(name).name == "resnet50"


@pytest.mark.parametrize("name", ["resnet000050", "resnet--50", "resnet 50", "re-snet50", "resnet50cifar", "-50", ""])
def test_names_that_mean_nothing(name: str, only_the_papers_rows: None) -> None:
    with pytest.raises(UsageError, match="unknown architecture") as caught:
        find_family(name)
    assert caught.value.hint == KNOWN


def test_messages_know_a_row_of_a_test(monkeypatch: pytest.MonkeyPatch, only_the_papers_rows: None) -> None:
    add_rows(monkeypatch, RESNEXT50, Family("narrow", "cifar", "basic", (1,), (8,), None))
    with pytest.raises(UsageError, match=r"'resnext50_32x4'; did you mean resnext50_32x4d\?") as caught:
        find_family("resnext50_32x4")
    assert caught.value.hint == KNOWN.replace("18/34, and", "18/34, resnext50_32x4d, narrow, and")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (16, 32)}, "3 stages, but 2 widths"),
        ({"block": "basic"}, "basic blocks: cardinality and width belong to bottlenecks"),
        ({"block": "basic", "cardinality": 1}, "basic blocks"),
        ({"width": 3}, "a group of width 3 has no channels"),
        ({"stem": "imagnet"}, "stem is one of imagenet, cifar, not 'imagnet'"),
        ({"block": "bottlneck"}, "block is one of basic, bottleneck, not 'bottlneck'"),
        ({"shortcut": "D"}, "shortcut is one of A, B, C, None, not 'D'"),
        ({"stages": (), "widths": ()}, "it has a stage"),
        *(
            ({name: value}, "all of its numbers are 1 or more")
            for name, value in (
                ("stages", (2, 0, 1)),
                ("widths", (16, -32, 64)),
                ("cardinality", 0),
                ("width", 0),
                ("num_classes", 0),
            )
        ),
        ({"cardinality": -1, "width": -64}, "all of its numbers are 1 or more"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Family(**{**vars(SMALL), **changes})


@pytest.mark.parametrize(
    ("row", "parameters", "giga"), [(RESNEXT50, 25_028_904, 4.23), (WIDE_RESNET50, 68_883_240, 11.40)]
)
def test_groups_and_width_give_torchvisions_counts(
    row: Family, parameters: int, giga: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://docs.pytorch.org/vision/stable/models.html, parameters and GFLOPS of the two networks."""
    add_rows(monkeypatch, row)
    arch = architecture(row.name)
    assert count_parameters(arch) == parameters
    assert count_multiply_adds(arch, 224, 224) / 1e9 == pytest.approx(giga, abs=0.006)
    assert Architecture.from_json(arch.to_json()) == arch
    assert arch.depth == 50


def test_only_the_3x3_convolution_of_a_bottleneck_has_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    add_rows(monkeypatch, RESNEXT50, WIDE_RESNET50)
    convs = {conv.name: conv for conv in architecture("resnext50_32x4d").plan().convs()}
    assert {(conv.kernel, conv.groups) for conv in convs.values()} == {(7, 1), (1, 1), (3, 32)}
    assert [convs[f"layer{stage}.0.conv2"].shape for stage in (1, 2, 3, 4)] == [
        *((128, 4, 3, 3), (256, 8, 3, 3), (512, 16, 3, 3), (1024, 32, 3, 3))
    ]
    wide = architecture("wide_resnet50_2").plan().shapes()
    assert wide["layer1.0.conv1.weight"] == (128, 64, 1, 1)
    assert wide["layer1.0.conv2.weight"] == (128, 128, 3, 3)
    assert wide["layer1.0.conv3.weight"] == (256, 128, 1, 1)
    assert wide["layer4.2.bn2.running_var"] == (1024,)


@pytest.mark.parametrize("option", ["A", "B", "C"])
def test_weights_that_fit_several_options_are_of_the_rows_own(option: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a single stage of basic blocks the options A and B are the same network."""
    add_rows(monkeypatch, Family("single", "cifar", "basic", (2,), (16,), option))
    arch = architecture("single")
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in arch.plan().shapes().items()}
    assert guess_architecture(state) == arch
