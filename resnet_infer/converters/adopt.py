"""A foreign ONNX classifier in, an artifact of ours out, proven to answer alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.converters import foreign_graph as surgery
from resnet_infer.converters.export import PARITY_PICTURES
from resnet_infer.converters.foreign_graph import FLOOR, Layout
from resnet_infer.converters.foreign_model import ForeignModel, read_foreign
from resnet_infer.converters.input_options import InputOptions
from resnet_infer.converters.labels import Labels, require_classes
from resnet_infer.converters.parity import TOLERANCE, Parity, Predict, compare, require
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import ModelError, UsageError, first_line
from resnet_infer.extras import needs
from resnet_infer.files import atomic_path
from resnet_infer.models.download import sha256
from resnet_infer.models.graph import INPUT, OUTPUT, set_spec
from resnet_infer.models.imagenet_classes import imagenet_classes
from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.runtimes.base import Images, Logits
from resnet_infer.runtimes.onnxruntime import OnnxRuntime

with needs("cpu", "adopting an ONNX graph"):
    import onnxruntime


@dataclass(frozen=True)
class Adopted:
    """What was written, how well it answers as the original does, and what was assumed."""

    spec: ModelSpec
    parity: Parity
    assumed: tuple[str, ...]


def adopt_onnx(
    path: Path,
    target: Path,
    *,
    options: InputOptions,
    labels: Labels | None = None,
    layout: Layout | None = None,
    output_name: str | None = None,
    name: str | None = None,
) -> Adopted:
    """Write the classifier in `path` to `target` with our input (`images`, uint8 NHWC, any batch), `logits` and spec.

    The original takes float32 pictures, NCHW or NHWC (`layout` where its shape does not tell), and gives (N, classes):
    logits, or probabilities, which a final softmax then makes of ours. `options` must hold the resize, mean and std.
    `labels` may be left out for 1,000 classes: ImageNet's are assumed. `output_name` chooses one of several outputs.

    Both are run in ONNX Runtime on the same pictures. Raises `ParityError`, and leaves nothing under the final name,
    if the answers differ; `ModelError` for a graph that is no such classifier; `UsageError` for what must be said.
    """
    source = read_foreign(path, layout, output_name)
    model = source.model
    spec_input = _input(source, options)
    images = natural_noise(PARITY_PICTURES, spec_input.crop, spec_input.crop)
    original = _original(source, spec_input, options.reversed)
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
    }
    spec = ModelSpec(name or path.stem, None, names, spec_input, ids, provenance=provenance)

    last = surgery.producer(model.graph, source.output)
    if last is not None and last.op_type == "Sigmoid":
        raise ModelError(
            f"{path} ends in a sigmoid: it answers yes or no for every class, not with one of them",
            hint="only classifiers whose classes exclude each other can be adopted",
        )
    before_softmax = surgery.softmax_input(model.graph, source.output)
    probabilities = bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-3))
    _rebuild(source, spec, before_softmax if probabilities else None, probabilities, reverse=options.reversed)
    _check_batches(source, model.SerializeToString(), images[:3])
    reference, title = original, "the original graph"
    if probabilities:
        reference, title = (lambda pictures: _logarithm(original(pictures))), "the original graph's log-probabilities"
    with atomic_path(target) as temporary:
        temporary.write_bytes(model.SerializeToString())
        with OnnxRuntime(temporary, device="cpu") as runtime:
            candidate: Predict = (lambda pictures: _log_softmax(runtime(pictures))) if probabilities else runtime
            parity = compare(reference, candidate, images, name=title, tolerance=TOLERANCE["fp32"])
        require(parity, str(target))
    return Adopted(spec, parity, assumed)


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


def _original(source: ForeignModel, spec: InputSpec, reverse: bool) -> Predict:
    """The foreign graph on our pictures, normalised as the spec says, in the batches that it was written for.

    `reverse`: it takes BGR.
    """
    size = source.batch or 1

    def predict(images: Images) -> Logits:
        pixels = (images.astype(np.float32) / 255 - spec.mean) / spec.std
        if reverse:
            pixels = pixels[..., ::-1]
        if source.layout == "nchw":
            pixels = pixels.transpose(0, 3, 1, 2)
        rows: list[NDArray[Any]] = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            rows.append(_run(session, source.output, {source.input: filled})[: len(part)])
        return np.concatenate(rows)

    try:
        session = _session(str(source.path))
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this
        raise ModelError(f"{source.path}: ONNX Runtime cannot load it ({first_line(error)})") from error
    try:
        predict(np.zeros((1, spec.crop, spec.crop, 3), np.uint8))
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this
        raise ModelError(
            f"{source.path} does not run on pictures of {spec.crop}x{spec.crop} pixels ({first_line(error)})"
        ) from error
    return predict


def _check_batches(source: ForeignModel, model: bytes, images: Images) -> None:
    """Raise `ModelError` unless pictures are answered together as they are one by one."""
    try:
        session = _session(model)
        alone = np.concatenate([_run(session, OUTPUT, {INPUT: image[None]}) for image in images])
        together = _run(session, OUTPUT, {INPUT: images})
        if together.shape == alone.shape and np.allclose(together, alone, rtol=1e-3, atol=1e-3 * alone.std()):
            return
        reason = "other answers for several pictures than for each alone"
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this
        reason = first_line(error)
    raise ModelError(
        f"{source.path} cannot be made to take pictures in batches of any size ({reason})",
        hint="export it again with an open batch: torch.onnx.export(..., dynamic_axes={'input': {0: 'batch'}})",
    )


def _session(model: str | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is reported here, not on stderr
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: Any, output: str, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
    result: NDArray[Any] = session.run([output], feed)[0]
    return result


def _logarithm(probabilities: NDArray[Any]) -> Logits:
    logarithm: Logits = np.log(np.maximum(probabilities, FLOOR)).astype(np.float32)
    return logarithm


def _log_softmax(logits: Logits) -> Logits:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return _logarithm(powers / powers.sum(axis=1, keepdims=True))
