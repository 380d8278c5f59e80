"""Import an ONNX classifier of another program as an artifact, and check that both give the same logits.

`onnx_model` reads the graph, `onnx_precision` determines its precision, and `onnx_graph` changes it.
"""

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
from resnet_infer.errors import ModelError, UsageError, about, first_line
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
    """Hold the result of an import.

    - `spec`: model spec of the written artifact.
    - `parity`: comparison of its logits with the original's.
    - `assumed`: assumptions, in words, about what the graph does not record.
    """

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
    """Convert the ONNX classifier in `path` to an artifact with a model spec, and write it to `target`.

    The original takes normalised float32 images, NCHW or NHWC, and returns float32 (N, classes): logits or
    probabilities. The artifact takes `images`, uint8 (N, height, width, 3) RGB with any N, and returns `logits`,
    float32 (N, classes). Their softmax gives the original's probabilities.

    - `options`: preprocessing; `resize`, `mean` and `std` are required, and `crop` too if the input's size is dynamic.
    - `labels`: class names; by default ImageNet's are assumed for 1,000 classes.
    - `layout`: order of the input's axes; required if the input's shape does not show it.
    - `output_name`: the output to use; required if there are several.
    - `name`: name of the model in the spec; default: the file's name without its suffix.

    Original and artifact are run in ONNX Runtime on the same synthetic images. Raises `ParityError` if the logits
    differ, and then writes no file. Raises `ModelError` if the graph is damaged or no such classifier, `DataError` for
    the wrong number of labels, and `UsageError` if a required option is missing or contradicts the graph.

    >>> options = InputOptions(resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    >>> import_onnx(Path("theirs.onnx"), Path("resnet50.onnx"), options=options).spec.name
    'theirs'
    """
    with about(path, "unsupported"), reading_graph(path):
        return _import_graph(path, target, options, labels, layout, output_name, name)


def _import_graph(
    path: Path,
    target: Path,
    options: InputOptions,
    labels: Labels | None,
    layout: Layout | None,
    output_name: str | None,
    name: str | None,
) -> ImportedOnnx:
    """Import the graph; see `import_onnx`, which also converts errors from a damaged graph."""
    source = read_foreign(path, layout, output_name)
    model = source.model
    precision, own = precision_of_graph(model, str(path)), own_operators(model, str(path))
    spec_input = _input(source, options)
    images = natural_noise(PARITY_PICTURES, spec_input.crop, spec_input.crop)
    original = _original(source, spec_input, precision, reverse=options.reversed)
    # Float64 is no reference for FP16 and INT8, whose rounding is part of the result.
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
    """Return the preprocessing from the options and the graph's fixed size.

    Raises `ModelError` for an input that is not square, and `UsageError` for a missing option or another crop.
    """
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
    """Return the names and ids of `count` classes, and the assumptions made.

    Raises `DataError` for the wrong number of labels, and `UsageError` if labels are required but missing.
    """
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
    """Change the source's model in place: open its batch, replace input and output, and add the spec.

    `before_softmax` is the tensor to use as logits instead of the source's output, if there is one. `probabilities`
    tells that the source returns probabilities; without `before_softmax` the logits are their logarithm.
    """
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
    """Return a function that runs the original graph on uint8 images, normalised as `spec` says.

    `reverse` gives it BGR. The function runs batches of the size for which the graph was written.

    For FP16 and INT8 the normalisation uses the same float32 operations as the nodes that `replace_input` adds. A value
    halfway between two quantised integers is rounded by its last bit, so equal results need equal bits.

    Raises `ModelError` if ONNX Runtime cannot load the graph, or run it on an image of `spec.crop` pixels.
    """

    def normalise(images: Images) -> NDArray[Any]:
        """Return the input of the graph, float32 (N, H, W, 3) RGB."""
        pixels = images.astype(np.float32)
        if precision == "fp32":
            return np.asarray((pixels / 255 - spec.mean) / spec.std)
        return (pixels - surgery.full_range(spec.mean)) / surgery.full_range(spec.std)

    def run(pixels: NDArray[Any]) -> NDArray[Any]:
        """Run one batch."""
        return _run(session, source.output, {source.input: pixels})

    try:
        # FP32 runs as written. FP16 and INT8 are optimised like the artifact, because another order of sums would
        # change what rounding makes of a value halfway between two numbers.
        session = _session(str(source.path), optimize=precision != "fp32")
    except Exception as error:  # the exceptions of ONNX Runtime share no other base class
        raise ModelError(
            f"{source.path}: ONNX Runtime cannot load it ({first_line(error)})", reason="damaged"
        ) from error
    predict = _in_batches(source, normalise, run, reverse=reverse)
    try:
        predict(np.zeros((1, spec.crop, spec.crop, 3), np.uint8))
    except Exception as error:  # the exceptions of ONNX Runtime share no other base class
        raise ModelError(
            f"{source.path} does not run on pictures of {spec.crop}x{spec.crop} pixels ({first_line(error)})",
            reason="mismatch",
        ) from error
    return predict


def _exact(source: ForeignModel, spec: InputSpec, *, reverse: bool) -> Predict64:
    """Return a function that evaluates the original graph in float64, otherwise like that of `_original`.

    Calling it raises `NotCoveredError` if the graph cannot be evaluated in float64.
    """
    original = copy.deepcopy(source.model)
    mean, std = spec.mean.astype(np.float64), spec.std.astype(np.float64)

    def predict(images: Images) -> Logits64:
        """Return the original's output in float64, (N, classes)."""
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
    """Return a function that normalises images and runs them in the source's layout and batch size.

    The batch size is the fixed one, or 1 if it is dynamic. The last batch is filled up with copies of its last image.
    """
    size = source.batch or 1

    def predict(images: Images) -> NDArray[Any]:
        """Return the output for uint8 images (N, H, W, 3) RGB: (N, classes)."""
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
    """Raise `ModelError` unless the changed graph gives the same logits for the images in one batch as one by one."""
    try:
        session = _session(model)
        alone = np.concatenate([_run(session, OUTPUT, {INPUT: image[None]}) for image in images])
        together = _run(session, OUTPUT, {INPUT: images})
        if together.shape == alone.shape and np.allclose(together, alone, rtol=BATCHED, atol=BATCHED * alone.std()):
            return
        reason = "other answers for several pictures than for each alone"
    except Exception as error:  # the exceptions of ONNX Runtime share no other base class
        reason = first_line(error)
    hint = "export it again with an open batch: torch.onnx.export(..., dynamic_axes={'input': {0: 'batch'}})"
    if any(node.op_type == "DynamicQuantizeLinear" for node in source.model.graph.node):
        reason = "DynamicQuantizeLinear takes its range from all pictures of a batch"
        hint = "quantise it statically, or adopt the FP32 graph and use: resnet-infer export --precision int8"
    raise ModelError(f"{source.path} cannot be made to take pictures in batches of any size ({reason})", hint=hint)


def _session(model: str | bytes, *, optimize: bool = True) -> Any:
    """Open an ONNX Runtime session on the CPU. It is silent because callers report its errors themselves."""
    return ort_session.open_session(model, ort_session.session_options(optimize=optimize, silent=True))


def _run(session: Any, output: str, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Run a session and return the output called `output`."""
    result: NDArray[Any] = session.run([output], feed)[0]
    return result


def _logarithm(probabilities: NDArray[Any]) -> Logits64:
    """Return the logarithm of probabilities in float64, those below `FLOOR` taken as `FLOOR`."""
    logarithm: Logits64 = np.log(np.maximum(probabilities.astype(np.float64), FLOOR))
    return logarithm


def _log_softmax(logits: Logits) -> Logits:
    """Return the logarithm of the softmax over the classes, float32 (N, classes), limited as in `_logarithm`."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    found: Logits = _logarithm(powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return found
