"""Look-ups in an ONNX graph, and changes of it, on graphs with all that makes them hard: subgraphs, optional names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="the extra `export`")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from resnet_infer.models import onnx_tools as tools  # noqa: E402


def value(name: str, kind: int = TensorProto.FLOAT, shape: Any = (2,)) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, number: float = 1.0) -> Any:
    return numpy_helper.from_array(np.full(2, number, np.float32), name)


def branching() -> Any:
    """x -> Relu -> a; If(c) takes a + w or a + (a node's own constant k); unused is read by nothing."""
    then = helper.make_graph([helper.make_node("Add", ["a", "w"], ["t"], name="then")], "then", [], [value("t")])
    inner = [
        helper.make_node("Constant", [], ["k"], value=constant("k", 3)),
        helper.make_node("Add", ["a", "k"], ["e"], name="else"),
    ]
    other = helper.make_graph(inner, "else", [], [value("e")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("Relu", ["x"], ["a"], name="relu"),
        helper.make_node("Neg", ["a"], ["spare"], name="neg"),
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=then, else_branch=other),
    ]
    weights = [constant("w", 2), constant("unused")]
    graph = helper.make_graph(nodes, "g", [value("x"), value("w")], [value("y")], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("other", 3), helper.make_opsetid("", 17)])


def answer(model: Any, feed: str = "x") -> list[float]:
    (found,) = ReferenceEvaluator(model).run(None, {feed: np.array([-1, 5], np.float32)})
    return [float(number) for number in found]


def test_the_opset_is_that_of_onnx_s_own_operators() -> None:
    model = branching()
    assert tools.opset(model) == 17
    model.opset_import[1].domain = "ai.onnx"
    assert tools.opset(model) == 17
    del model.opset_import[1]
    assert tools.opset(model) == 0


def test_tensors_are_found_by_name() -> None:
    graph = branching().graph
    assert list(tools.initializers(graph)) == ["w", "unused"]
    assert set(tools.constants(graph)) == {"w", "unused", "c"}
    assert numpy_helper.to_array(tools.constants(graph)["c"]).item() is True
    assert [item.name for item in tools.inputs(graph)] == ["x"]


def test_only_a_tensor_is_the_constant_of_a_node() -> None:
    assert tools.constant_of(helper.make_node("Constant", [], ["c"], value_float=1.0)) is None
    assert tools.constant_of(helper.make_node("ConstantOfShape", ["s"], ["c"], value=constant("c"))) is None


def test_producers_and_consumers_leave_out_what_has_no_name() -> None:
    nodes = [
        helper.make_node("Dropout", ["x", "", "training"], ["a", ""]),
        helper.make_node("Mul", ["a", "a"], ["b"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [])
    assert {name: node.op_type for name, node in tools.producers(graph).items()} == {"a": "Dropout", "b": "Mul"}
    found = {name: [node.op_type for node in readers] for name, readers in tools.consumers(graph).items()}
    assert found == {"x": ["Dropout"], "training": ["Dropout"], "a": ["Mul", "Mul"]}


def test_a_subgraph_reads_for_the_node_that_holds_it() -> None:
    graph = branching().graph
    readers = tools.consumers(graph)
    assert [node.name for node in readers["w"]] == ["if"]
    assert [node.name for node in readers["a"]] == ["neg", "if", "if"]
    assert {"a", "w", "k"} <= set(tools.captured(graph.node[3]))
    assert "c" not in set(tools.captured(graph.node[3]))
    assert "c" in set(tools.reads(graph.node[3]))
    assert [inner.name for inner in tools.all_graphs(graph)] == ["g", "else", "then"]
    assert not list(tools.subgraphs(graph.node[1]))


def test_graphs_are_found_at_any_depth() -> None:
    inner = branching().graph
    outer = helper.make_node("If", ["d"], ["z"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph([outer], "outer", [], [value("z")])
    assert [item.name for item in tools.all_graphs(graph)] == ["outer", *["g", "else", "then"] * 2]
    assert "w" in set(tools.reads(outer))


def test_attributes_have_their_values_or_the_default() -> None:
    node = helper.make_node("Pad", ["x"], ["y"], mode="edge", pads=[1, 2], value=0.5)
    assert tools.attributes(node) == {"mode": b"edge", "pads": [1, 2], "value": 0.5}
    assert tools.attribute(node, "pads") == [1, 2]
    assert tools.attribute(node, "mode", b"constant") == b"edge"
    assert tools.attribute(node, "axis", 7) == 7
    assert tools.attribute(node, "axis") is None


def test_types_are_those_written_and_those_inferred() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["half", "w"], ["y"]),
        helper.make_node("Unknown", ["y"], ["z"], domain="nobody"),
    ]
    weight = numpy_helper.from_array(np.ones(2, np.float16), "w")
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y", TensorProto.FLOAT16)], [weight])
    half = TensorProto.FLOAT16
    expected = {"x": TensorProto.FLOAT, "half": half, "w": half, "y": half}
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody", 1)]
    assert tools.element_types(helper.make_model(graph, opset_imports=opsets)) == expected


@pytest.mark.parametrize(
    "array",
    [
        np.float32(2),
        np.array(3.5),
        np.arange(6).reshape(2, 3).T,
        np.broadcast_to(np.array([1, 2], np.float32), (3, 2)),
        np.int8(0),
    ],
)
def test_a_constant_keeps_dtype_shape_and_values(array: Any) -> None:
    graph = helper.make_graph([], "g", [], [])
    assert tools.add_constant(graph, "k", array) == "k"
    found = numpy_helper.to_array(tools.initializers(graph)["k"])
    assert (found.dtype, found.shape) == (np.asarray(array).dtype, np.asarray(array).shape)
    np.testing.assert_array_equal(found, array)


def test_what_is_renamed_is_renamed_everywhere_and_answers_alike() -> None:
    model = branching()
    expected = answer(model)
    tools.rename(model.graph, {name: f"new.{name}" for name in ("x", "a", "w", "y", "k")})
    assert answer(model, "new.x") == expected == [2, 7]
    onnx.checker.check_model(model)
    assert [item.name for item in model.graph.input] == ["new.x", "new.w"]
    assert set(tools.initializers(model.graph)) == {"new.w", "unused"}
    names = {name for graph in tools.all_graphs(model.graph) for node in graph.node for name in tools.reads(node)}
    assert not names & {"x", "a", "w", "y", "k"}


def test_items_may_be_those_that_are_there() -> None:
    graph = branching().graph
    before = [node.SerializeToString() for node in graph.node]
    tools.set_items(graph.node, reversed([graph.node[1], *graph.node]))
    assert [node.SerializeToString() for node in graph.node] == [*reversed(before), before[1]]


def test_what_a_subgraph_reads_is_kept() -> None:
    model = branching()
    tools.prune(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Constant", "Relu", "If"]
    assert list(tools.initializers(model.graph)) == ["w"]
    assert answer(model) == [2, 7]


def test_only_initialisers_are_removed_where_nodes_shall_stay() -> None:
    model = branching()
    model.graph.initializer.append(constant("put out"))
    model.graph.output.append(value("put out"))
    tools.prune_initializers(model.graph)
    assert list(tools.initializers(model.graph)) == ["w", "put out"]
    assert len(model.graph.node) == 4


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12), st.data())
def test_what_is_left_is_just_what_the_outputs_depend_on(edges: list[tuple[int, int]], data: st.DataObject) -> None:
    """Node i adds two of the tensors before it; three initialisers stand in front."""
    names = ["w0", "w1", "w2"]
    nodes = []
    for number, pair in enumerate(edges):
        nodes.append(helper.make_node("Add", [names[place % len(names)] for place in pair], [f"n{number}"]))
        names.append(f"n{number}")
    outputs = data.draw(st.lists(st.sampled_from(names[3:]), min_size=1, max_size=2, unique=True))
    weights = [constant(name, number) for number, name in enumerate(names[:3])]
    graph = helper.make_graph(nodes, "g", [], [value(name) for name in outputs], weights)
    needed, waiting = set(), list(outputs)
    makers = {node.output[0]: list(node.input) for node in nodes}
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += makers.get(name, [])
    tools.prune(graph)
    assert [node.output[0] for node in graph.node] == [name for name in names[3:] if name in needed]
    assert list(tools.initializers(graph)) == [name for name in names[:3] if name in needed]
