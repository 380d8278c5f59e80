"""Where two graphs part: every tensor that both have, layer by layer."""

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
"""Enough to see where two graphs part: each picture has thousands of values in every layer."""

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerDelta:
    """Hold a tensor of both graphs, called `name` but for the `.out` of our own; `operator` makes it in the reference.

    `relative` is the root of the mean square of the difference over that of the reference; `max_delta` the largest
    absolute difference; `cosine` that of both tensors over all pictures.
    """

    name: str
    operator: str
    relative: float
    max_delta: float
    cosine: float


@dataclass(frozen=True)
class LayerReport:
    """Hold layers in the order of the reference's graph.

    Those `unmatched` have no counterpart, or one of another shape.
    """

    layers: tuple[LayerDelta, ...]
    limit: float
    unmatched: tuple[str, ...]
    pictures: int

    @property
    def first(self) -> LayerDelta | None:
        """The first layer that differs by more than `limit`; NaN is more."""
        return next((layer for layer in self.layers if not layer.relative <= self.limit), None)


def judge(report: LayerReport) -> Verdict[LayerReport]:
    """Return whether no layer differs by more than the report's limit."""
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
    """Run both graphs as they are written, without optimisations, on the CPU, and compare what their nodes put out.

    Tensors are matched by name; of a quantised one the value after its DequantizeLinear is taken. One picture is run
    at a time, so that memory holds the maps of one. Raises `UsageError` if the graphs have no tensor in common.
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
    return tensor.removesuffix(".out")


def open_graph(path: Path) -> onnx.ModelProto:
    """The graph of an artifact, or the literal one of a checkpoint. Raises `UsageError` where there is none."""
    if path.suffix == CHECKPOINT:
        return literal_graph(load_checkpoint(path))
    if path.suffix != ".onnx":
        raise UsageError(f"{path} has no layers to be seen", hint="give the .onnx artifact that it was made from")
    with reading_graph(path):
        return onnx.load(path)


def literal_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    """The unfused graph, each tensor named as the fused graph names the same value.

    In the fused graph a convolution puts out what batch normalisation does here, and the mean is subtracted from
    pixels that are not divided yet.
    """
    model = build_graph(checkpoint, fused=False)
    assert checkpoint.spec.architecture is not None
    rename(model.graph, _fused_names(checkpoint.spec.architecture.plan()))
    return model


def _fused_names(plan: Plan) -> dict[str, str]:
    renamed = {"subtract_mean.out": "subtract_mean.scaled"}
    for conv in plan.convs():
        renamed |= {f"{conv.name}.out": f"{conv.name}.raw", f"{conv.norm}.out": f"{conv.name}.out"}
    return renamed


def _values(model: onnx.ModelProto) -> dict[str, str]:
    """The name of every node's output -> the tensor that holds its value as the next nodes see it."""
    readers = consumers(model.graph)

    def read_by(name: str, operator: str) -> str | None:
        return next((node.output[0] for node in readers.get(name, ()) if node.op_type == operator), None)

    found = {}
    for name in producers(model.graph):
        found[name] = read_by(read_by(name, "QuantizeLinear") or name, "DequantizeLinear") or name
    return found


class _Outputs:
    """A session that gives the tensors called `names`."""

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
            raise ModelError(f"{what}: ONNX Runtime cannot run it layer by layer ({first_line(error)})") from error

    def __call__(self, images: Array) -> list[Array]:
        distinct = list(dict.fromkeys(self._names))
        try:
            found = dict(zip(distinct, self._session.run(distinct, {INPUT: images}), strict=True))
        except Exception as error:  # as above
            raise ModelError(
                f"{self._what}: ONNX Runtime cannot run it layer by layer ({first_line(error)})"
            ) from error
        return [np.asarray(found[name]) for name in self._names]
