"""A foreign ONNX classifier in, an artifact of ours out, proven to answer alike."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.converters.importers import onnx_graph as surgery
from resnet_infer.converters.importers.input_options import InputOptions
from resnet_infer.converters.importers.labels import Labels, require_classes
from resnet_infer.converters.importers.onnx_graph import FLOOR, Layout
from resnet_infer.converters.importers.onnx_model import ForeignModel, read_foreign
from resnet_infer.converters.importers.onnx_precision import own_operators, precision_of_graph
from resnet_infer.converters.source import PARITY_PICTURES
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import ModelError, UsageError, first_line
from resnet_infer.models.graph import INPUT, OUTPUT, reading_graph, set_spec
from resnet_infer.models.spec import InputSpec, ModelSpec, Precision, imagenet_classes
from resnet_infer.runtimes.base import Images, Logits
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.utils.console import note
from resnet_infer.utils.extras import needs
from resnet_infer.utils.files import atomic_path, sha256
from resnet_infer.verification.float64 import Float64Graph
from resnet_infer.verification.metrics import Logits64
from resnet_infer.verification.parity import Parity, Predict, Predict64, Reference, compare, require
from resnet_infer.verification.tolerances import BATCHED, PROBABILITIES, Verdict

with needs("cpu", "adopting an ONNX graph"):
    from resnet_infer.runtimes import ort_session


@dataclass(frozen=True)
class ImportedOnnx:
    """What was written, how well it answers as the original does, and what was assumed."""

    spec: ModelSpec
    parity: Verdict[Parity]
    assumed: tuple[str, ...]


def import_onnx(
    path: Path,
    target: Path,
    *,
    options: InputOptions,
    labels: Labels | None = None,
    layout: Layout | None = None,
    output_name: str | None = None,
    name: str | None = None,
) -> ImportedOnnx:
    """Write the classifier in `path` to `target` with our input (`images`, uint8 NHWC, any batch), `logits` and spec.

    The original takes float32 pictures, NCHW or NHWC (`layout` where its shape does not tell), and gives (N, classes):
    logits, or probabilities, which a final softmax then makes of ours. `options` must hold the resize, mean and std.
    `labels` may be left out for 1,000 classes: ImageNet's are assumed. `output_name` chooses one of several outputs.

    Both are run in ONNX Runtime on the same pictures. Raises `ParityError`, and leaves nothing under the final name,
    if the answers differ; `ModelError` for a graph that is no such classifier, or damaged; `UsageError` for what must
    be said.
    """
    with reading_graph(path):
        return _adopt(path, target, options, labels, layout, output_name, name)


def _adopt(
    path: Path,
    target: Path,
    options: InputOptions,
    labels: Labels | None,
    layout: Layout | None,
    output_name: str | None,
    name: str | None,
) -> ImportedOnnx:
    source = read_foreign(path, layout, output_name)
    model = source.model
    precision, own = precision_of_graph(model, str(path)), own_operators(model, str(path))
    spec_input = _input(source, options)
    images = natural_noise(PARITY_PICTURES, spec_input.crop, spec_input.crop)
    original = _original(source, spec_input, precision, reverse=options.reversed)
    # A lower precision is what its rounding makes of it, which float64 has none of.
    exact = _exact(source, spec_input, reverse=options.reversed) if precision == "fp32" else None
    outputs = original(images[:3])
    if outputs.ndim != 2 or outputs.dtype != np.float32:
        raise ModelError(
            f"{path}: its output {source.output} is {outputs.dtype} of shape {outputs.shape} for 3 pictures; "
            "that of a classifier is float32 of shape (3, classes)",
            hint="if another output has the classes, choose it with --output-name",
        )
    classes = outputs.shape[1]
    require_classes(str(path), classes)
    names, ids, assumed = _classes(path, labels, classes)
    provenance = {
        "source": "an adopted ONNX graph" + (f" of {model.producer_name}" if model.producer_name else ""),
        "source_file": path.name,
        "source_sha256": sha256(path),
        **({"channels": "BGR, from RGB in front of the original graph"} if options.reversed else {}),
        **({"assumed": list(assumed)} if assumed else {}),
        **({"operators": list(own)} if own else {}),
    }
    spec = ModelSpec(name or path.stem, None, names, spec_input, ids, precision=precision, provenance=provenance)

    last = surgery.producer(model.graph, source.output)
    if last is not None and last.op_type == "Sigmoid":
        raise ModelError(
            f"{path} ends in a sigmoid: it answers yes or no for every class, not with one of them",
            hint="only classifiers whose classes exclude each other can be adopted",
        )
    before_softmax = surgery.softmax_input(model.graph, source.output)
    probabilities = bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=PROBABILITIES))
    _rebuild(source, spec, before_softmax if probabilities else None, probabilities, reverse=options.reversed)
    _check_batches(source, model.SerializeToString(), images[:3])
    reference = Reference("the original graph", original, exact)
    if probabilities:
        reference = Reference(
            "the original graph's log-probabilities",
            lambda pictures: _logarithm(original(pictures)).astype(np.float32),
            exact and (lambda pictures: _logarithm(exact(pictures))),
        )
    with atomic_path(target) as temporary:
        temporary.write_bytes(model.SerializeToString())
        with OnnxRuntime(temporary, device="cpu") as runtime:
            candidate: Predict = (lambda pictures: _log_softmax(runtime(pictures))) if probabilities else runtime
            parity = compare(reference, candidate, images)
        require(parity, str(target))
    if own:
        note(
            f"{path} holds operators of ONNX Runtime's own ({', '.join(own)}): nothing else runs it, and no lower "
            "precision is made of it; the graph from before it was optimised has neither limit"
        )
    return ImportedOnnx(spec, parity, assumed)


def _input(source: ForeignModel, options: InputOptions) -> InputSpec:
    fixed = {side for side in source.sides if side is not None}
    if len(fixed) > 1:
        raise ModelError(f"{source.path} takes pictures of {source.sides} pixels; only square ones can be cut for it")
    given: dict[str, Any] = dict(options.given)
    size = next(iter(fixed), None)
    crop = given.setdefault("crop", size)
    if size is not None and crop != size:
        raise UsageError(f"{source.path} takes pictures of {size}x{size} pixels, so --crop is {size}, not {crop}")
    missing = [f"--{field}" for field in ("resize", "crop", "mean", "std") if given.get(field) is None]
    if missing:
        raise UsageError(
            f"{source.path}: {', '.join(missing)} must be given: an ONNX graph does not tell how it was trained",
            hint="torchvision's are --resize 256 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225; a graph that takes "
            "pixels from 0 to 255 as they are has --scale 255 --mean 0 --std 1",
        )
    return InputSpec(**given)


def _classes(
    path: Path, labels: Labels | None, count: int
) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[str, ...]]:
    """Names, ids, and what was assumed."""
    if labels:
        labels.require(count)
        return labels.names, labels.ids, ()
    names, ids = imagenet_classes()
    if count != len(names):
        raise UsageError(
            f"{path} has {count} classes, and nothing names them", hint="give their names with --labels FILE"
        )
    return names, ids, ("the classes of ImageNet (ILSVRC 2012) in their usual order",)


def _rebuild(
    source: ForeignModel, spec: ModelSpec, before_softmax: str | None, probabilities: bool, *, reverse: bool
) -> None:
    """Turn the source's model into ours, in place."""
    model = source.model
    if source.batch is not None:
        surgery.open_batch(model.graph, source.batch)
    names = surgery.free_names(model.graph)
    sides = tuple(side or axis for side, axis in zip(source.sides, "HW", strict=True))
    taken = names.get(source.input, source.input)
    surgery.replace_input(model, taken, source.layout, spec.input, sides, reverse=reverse)
    output = before_softmax or source.output
    logarithm = probabilities and before_softmax is None
    surgery.replace_output(model.graph, names.get(output, output), len(spec.classes), logarithm=logarithm)
    set_spec(model, spec)


def _original(source: ForeignModel, spec: InputSpec, precision: Precision, *, reverse: bool) -> Predict:
    """The foreign graph on our pictures, normalised as the spec says, in the batches that it was written for.

    `reverse`: it takes BGR.

    One of a lower precision gets the very numbers that our input gives it: where a value lies on the edge of two
    integers, the last bit decides which it becomes.
    """

    def normalise(images: Images) -> NDArray[Any]:
        pixels = images.astype(np.float32)
        if precision == "fp32":
            return np.asarray((pixels / 255 - spec.mean) / spec.std)
        return (pixels - surgery.full_range(spec.mean)) / surgery.full_range(spec.std)

    def run(pixels: NDArray[Any]) -> NDArray[Any]:
        return _run(session, source.output, {source.input: pixels})

    try:
        # FP32 is run as it is written; what is lower, as our graph will be, for another order of sums moves its edges.
        session = _session(str(source.path), optimize=precision != "fp32")
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this
        raise ModelError(f"{source.path}: ONNX Runtime cannot load it ({first_line(error)})") from error
    predict = _in_batches(source, normalise, run, reverse=reverse)
    try:
        predict(np.zeros((1, spec.crop, spec.crop, 3), np.uint8))
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this
        raise ModelError(
            f"{source.path} does not run on pictures of {spec.crop}x{spec.crop} pixels ({first_line(error)})"
        ) from error
    return predict


def _exact(source: ForeignModel, spec: InputSpec, *, reverse: bool) -> Predict64:
    """As `_original`, in float64. It raises `NotCoveredError` when it is called, if the graph has no float64."""
    original = copy.deepcopy(source.model)
    mean, std = spec.mean.astype(np.float64), spec.std.astype(np.float64)

    def predict(images: Images) -> Logits64:
        graph = Float64Graph(original, source.output)
        return _in_batches(source, lambda part: (part / 255 - mean) / std, graph, reverse=reverse)(images)

    return predict


def _in_batches(
    source: ForeignModel,
    normalise: Callable[[Images], NDArray[Any]],
    run: Callable[[NDArray[Any]], NDArray[Any]],
    *,
    reverse: bool,
) -> Callable[[Images], NDArray[Any]]:
    size = source.batch or 1

    def predict(images: Images) -> NDArray[Any]:
        pixels = normalise(images)
        if reverse:
            pixels = pixels[..., ::-1]
        if source.layout == "nchw":
            pixels = pixels.transpose(0, 3, 1, 2)
        rows: list[NDArray[Any]] = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            rows.append(run(filled)[: len(part)])
        return np.concatenate(rows)

    return predict


def _check_batches(source: ForeignModel, model: bytes, images: Images) -> None:
    """Raise `ModelError` unless pictures are answered together as they are one by one."""
    try:
        session = _session(model)
        alone = np.concatenate([_run(session, OUTPUT, {INPUT: image[None]}) for image in images])
        together = _run(session, OUTPUT, {INPUT: images})
        if together.shape == alone.shape and np.allclose(together, alone, rtol=BATCHED, atol=BATCHED * alone.std()):
            return
        reason = "other answers for several pictures than for each alone"
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this
        reason = first_line(error)
    hint = "export it again with an open batch: torch.onnx.export(..., dynamic_axes={'input': {0: 'batch'}})"
    if any(node.op_type == "DynamicQuantizeLinear" for node in source.model.graph.node):
        reason = "DynamicQuantizeLinear takes its range from all pictures of a batch"
        hint = "quantise it statically, or adopt the FP32 graph and use: resnet-infer export --precision int8"
    raise ModelError(f"{source.path} cannot be made to take pictures in batches of any size ({reason})", hint=hint)


def _session(model: str | bytes, *, optimize: bool = True) -> Any:
    # What fails is reported here, not on stderr.
    return ort_session.open_session(model, ort_session.session_options(optimize=optimize, silent=True))


def _run(session: Any, output: str, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
    result: NDArray[Any] = session.run([output], feed)[0]
    return result


def _logarithm(probabilities: NDArray[Any]) -> Logits64:
    logarithm: Logits64 = np.log(np.maximum(probabilities.astype(np.float64), FLOOR))
    return logarithm


def _log_softmax(logits: Logits) -> Logits:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    found: Logits = _logarithm(powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return found
