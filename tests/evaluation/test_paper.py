"""The published figures, and which of them stands beside which network."""

from __future__ import annotations

import pytest

from resnet_infer.data import protocols
from resnet_infer.data.protocols import NAMES, Protocol
from resnet_infer.evaluation.data_identity import KNOWN
from resnet_infer.evaluation.paper import PAPER, TABLES, comparison, published
from resnet_infer.models.architectures import architecture, published_names

DATA = {"imagenet": "ImageNet validation", "cifar": "CIFAR-10 test"}


@pytest.mark.parametrize(
    ("name", "shortcut", "protocol", "expected"),
    [
        ("resnet20", "A", "native", "8.75"),
        ("resnet20", "A", "1-crop", "8.75"),
        ("resnet110", "A", "native", "6.43"),
        ("resnet1202", "A", "native", "7.93"),
        ("resnet20", "B", "native", None),
        ("plain20", None, "native", None),
        ("plain18", None, "10-crop", "27.94"),
        ("plain34", None, "10-crop", "28.54/10.02"),
        ("resnet18", "A", "10-crop", "27.88"),
        ("resnet18", "B", "10-crop", None),
        ("resnet34", "A", "10-crop", "25.03/7.76"),
        ("resnet34", "B", "10-crop", "24.52/7.46"),
        ("resnet34", "C", "10-crop", "24.19/7.4"),
        ("resnet34", "B", "multi-scale", "21.84/5.71"),
        ("resnet50", "B", "10-crop", "22.85/6.71"),
        ("resnet101", "B", "multi-scale", "19.87/4.6"),
        ("resnet152", "B", "multi-scale", "19.38/4.49"),
        ("resnet50", "B", "1-crop", None),
        ("resnet50", "C", "10-crop", None),
    ],
)
def test_the_paper_s_figure_of_a_network(name: str, shortcut: str, protocol: str, expected: str | None) -> None:
    arch = architecture(name, shortcut=shortcut)  # type: ignore[arg-type]
    found = [str(row) for table, row in published(arch, protocol, DATA[arch.family.stem]) if table.source == PAPER]
    assert found == ([expected] if expected else [])


def test_the_figures_of_others_follow() -> None:
    arch = architecture("resnet50")
    assert [(table.source, str(row)) for table, row in published(arch, "1-crop", "ImageNet validation")] == [
        ("Caffe release", "24.7/7.8"),
        ("fb.resnet.torch", "24.01/7.02"),
    ]
    assert [table.source for table, _ in published(arch, "10-crop", "ImageNet validation")] == [
        PAPER,
        "fb.resnet.torch",
    ]


def test_other_data_has_no_figure() -> None:
    for data in (None, *KNOWN):
        assert published(architecture("resnet50", 200), "10-crop", data) == []
        assert published(architecture("resnet20", 100), "native", data) == []
        assert comparison(architecture("resnet18", 200), "10-crop", data) == []
        assert bool(comparison(architecture("resnet50"), "10-crop", data)) == (data == "ImageNet validation")
        assert bool(comparison(architecture("resnet20"), "native", data)) == (data == "CIFAR-10 test")


def test_a_figure_of_the_test_set_is_not_among_those_of_the_validation_set() -> None:
    """The paper marks VGG's 8.43 in table 4 with a dagger."""
    (table,) = (table for table in TABLES if table.title.startswith("Table 4"))
    daggers = [row for row in table.rows if row.data]
    assert [(row.label, row.top5, row.data) for row in daggers] == [("VGG (ILSVRC'14)", 8.43, "ImageNet test")]
    rows = [row for _, row in comparison(architecture("resnet50"), "multi-scale", "ImageNet validation")]
    assert daggers[0] not in rows
    assert len(rows) == len(table.rows) - 1


def test_the_baselines_stand_beside_it_once() -> None:
    labels = [
        row.label
        for _, row in comparison(architecture("resnet50"), "10-crop", "ImageNet validation")
        if _.source == PAPER
    ]
    assert sorted(labels) == sorted(set(labels))
    assert {"VGG-16", "GoogLeNet", "PReLU-net", "plain-34", "ResNet-152"} <= set(labels)
    assert len(comparison(architecture("resnet20"), "native", "CIFAR-10 test")) == 12


def test_every_network_in_the_tables_exists() -> None:
    for table in TABLES:
        assert table.protocol in (*NAMES, "ensemble")
        for row in table.rows:
            assert row.network in (None, *published_names())
            assert row.top1 or row.top5
            assert not (row.top1 and row.top5 and row.top5 > row.top1)


def test_a_protocol_with_two_columns_stands_beside_all_rows_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the two columns have the same labels."""
    both = Protocol("both", views=1, prepare="", paper_columns=("1-crop", "10-crop"))
    monkeypatch.setattr(protocols, "PROTOCOLS", (*protocols.PROTOCOLS, both))
    arch, data = architecture("resnet50"), "ImageNet validation"
    for function in (comparison, published):
        first, second = (function(arch, name, data) for name in ("1-crop", "10-crop"))
        assert first
        assert second
        assert sorted(map(str, function(arch, "both", data))) == sorted(map(str, first + second))
