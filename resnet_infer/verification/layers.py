"""Find the first layer where two graphs differ, by comparing every tensor that both have."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.feed import Feed
from resnet_infer.errors import ModelError, UsageError, first_line
from resnet_infer.models.architectures import Plan
from resnet_infer.models.checkpoint import SUFFIX as CHECKPOINT
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.models.graph import INPUT, build_graph, reading_graph
from resnet_infer.models.onnx_tools import consumers, producers, rename
from resnet_infer.utils.extras import needs
from resnet_infer.verification.metrics import TensorDelta, plain
from resnet_infer.verification.tolerances import Verdict

with needs("export", "comparing layers"):
    import onnx
with needs("cpu", "comparing layers"):
    from resnet_infer.runtimes import ort_session

PICTURES = 8
"""Images to compare layers on. A few are enough: each gives thousands of values in every layer."""

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerDelta:
    """Hold the differences of a tensor that both graphs have.

    `name` is the tensor's, without the suffix `.out`. `operator` computes it in the reference. `relative` is the root
    mean square of the difference divided by that of the reference. `max_delta` is the largest absolute difference.
    `cosine` is the cosine similarity of both tensors over all images.
    """

    name: str
    operator: str
    relative: float
    max_delta: float
    cosine: float


@dataclass(frozen=True)
class LayerReport:
    """Hold the layers in the order of the reference's graph.

    Layers in `unmatched` have no counterpart, or one of another shape.
    """

    layers: tuple[LayerDelta, ...]
    limit: float
    unmatched: tuple[str, ...]
    pictures: int

    @property
    def first(self) -> LayerDelta | None:
        """The first layer that differs by more than `limit`; NaN counts as more."""
        return next((layer for layer in self.layers if not layer.relative <= self.limit), None)


def judge(report: LayerReport) -> Verdict[LayerReport]:
    """Judge whether every layer differs by at most the report's limit."""
    first = report.first
    line = f"no layer differs by more than {report.limit:g}"
    if first:
        line = f"{first.name} is the first layer that differs by more than {report.limit:g}: by {first.relative:.2e}"
    rows = [plain(vars(layer)) for layer in report.layers]
    values = {**vars(report), "layers": rows, "first": first.name if first else None}
    return Verdict(report, (line,) if first else (), line, values)


def compare_layers(
    model: onnx.ModelProto,
    reference: onnx.ModelProto,
    feed: Feed,
    *,
    limit: float,
    advance: Callable[[int], None] = lambda count: None,
) -> Verdict[LayerReport]:
    """Run both graphs on the CPU without graph optimisations, and compare the outputs of their nodes.

    Tensors are matched by name; a quantised tensor is compared after its DequantizeLinear. Images are run one at a
    time, so that memory holds the feature maps of one. Raises `UsageError` if the graphs have no tensor in common.
    """
    makers = producers(reference.graph)
    own, other = _values(reference), _values(model)
    common = [name for name in makers if name in other]
    if not common:
        raise UsageError(
            "the two graphs have no tensor of the same name",
            hint="compare the layers of artifacts that were made from the same model",
        )
    expected = _Outputs(reference, [own[name] for name in common], "the reference")
    actual = _Outputs(model, [other[name] for name in common], "the model")
    sums: dict[str, TensorDelta | None] = {}
    for _, crop in feed.crops():
        pairs = zip(common, expected(crop[None]), actual(crop[None]), strict=True)
        for name, first, second in pairs:
            comparable = first.dtype.kind == second.dtype.kind == "f" and first.shape == second.shape
            found = sums.setdefault(name, TensorDelta() if comparable else None)
            if found and comparable:
                found.add(first.astype(np.float64), second.astype(np.float64))
        advance(1)
    matched = {name: found for name, found in sums.items() if found}
    report = LayerReport(
        layers=tuple(
            LayerDelta(_layer(name), makers[name].op_type, found.relative, found.largest, found.cosine)
            for name, found in matched.items()
        ),
        limit=limit,
        unmatched=tuple(_layer(name) for name in makers if name not in matched),
        pictures=len(feed),
    )
    return judge(report)


def _layer(tensor: str) -> str:
    """Return the name of the layer that computes a tensor."""
    return tensor.removesuffix(".out")


def open_graph(path: Path) -> onnx.ModelProto:
    """Load an artifact's graph, or build the unfused graph of a checkpoint. Raises `UsageError` for other files."""
    if path.suffix == CHECKPOINT:
        return literal_graph(load_checkpoint(path))
    if path.suffix != ".onnx":
        raise UsageError(f"{path} has no layers to be seen", hint="give the .onnx artifact that it was made from")
    with reading_graph(path):
        return onnx.load(path)


def literal_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Build the unfused graph, with each tensor named as the fused graph names the same value.

    The output of a fused convolution is the output of the batch normalisation here. The fused graph subtracts the mean
    before it divides the pixels by the standard deviation.
    """
    model = build_graph(checkpoint, fused=False)
    assert checkpoint.spec.architecture is not None
    rename(model.graph, _fused_names(checkpoint.spec.architecture.plan()))
    return model


def _fused_names(plan: Plan) -> dict[str, str]:
    """Map tensors of the unfused graph to the names of the same values in the fused graph."""
    renamed = {"subtract_mean.out": "subtract_mean.scaled"}
    for conv in plan.convs():
        renamed |= {f"{conv.name}.out": f"{conv.name}.raw", f"{conv.norm}.out": f"{conv.name}.out"}
    return renamed


def _values(model: onnx.ModelProto) -> dict[str, str]:
    """Map each node's output to the tensor that holds its value for the next nodes, after dequantisation."""
    readers = consumers(model.graph)

    def read_by(name: str, operator: str) -> str | None:
        return next((node.output[0] for node in readers.get(name, ()) if node.op_type == operator), None)

    found = {}
    for name in producers(model.graph):
        found[name] = read_by(read_by(name, "QuantizeLinear") or name, "DequantizeLinear") or name
    return found


class _Outputs:
    """Run a graph and return the tensors called `names`."""

    def __init__(self, model: onnx.ModelProto, names: Collection[str], what: str) -> None:
        self._names, self._what = list(names), what
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        there = {item.name for item in copy.graph.output}
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in there)
        # On one thread: two sessions take turns, a small layer at a time.
        options = ort_session.session_options(threads=1, optimize=False)
        try:
            self._session = ort_session.open_session(copy.SerializeToString(), options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this
            raise ModelError(
                f"{what}: ONNX Runtime cannot run it layer by layer ({first_line(error)})", source=what, reason="failed"
            ) from error

    def __call__(self, images: Array) -> list[Array]:
        distinct = list(dict.fromkeys(self._names))
        try:
            found = dict(zip(distinct, self._session.run(distinct, {INPUT: images}), strict=True))
        except Exception as error:  # as above
            raise ModelError(
                f"{self._what}: ONNX Runtime cannot run it layer by layer ({first_line(error)})",
                source=self._what,
                reason="failed",
            ) from error
        return [np.asarray(found[name]) for name in self._names]
