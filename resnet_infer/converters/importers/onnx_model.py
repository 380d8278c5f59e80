"""Read an ONNX classifier of another program: its input, layout, size and output, as the graph declares them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resnet_infer.converters.importers.onnx_graph import Layout
from resnet_infer.errors import ModelError, UsageError, first_line
from resnet_infer.models.spec import METADATA_KEY
from resnet_infer.utils.extras import needs
from resnet_infer.utils.inputs import require_regular

with needs("export", "adopting an ONNX graph"):
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    from resnet_infer.models.onnx_tools import inputs, opset

MIN_OPSET = 9
"""Oldest supported version of ONNX's operators."""


@dataclass(frozen=True)
class ForeignModel:
    """Describe an imported classifier by what its graph declares.

    - `input`, `output`: names of the float32 input, with three channels, and of the chosen output.
    - `layout`: order of the input's axes.
    - `batch`: fixed number of images in a call, None if dynamic.
    - `sides`: height and width of the input in pixels, each None if dynamic.
    """

    path: Path
    model: onnx.ModelProto
    input: str
    output: str
    layout: Layout
    batch: int | None
    sides: tuple[int | None, int | None]


def read_foreign(path: Path, layout: Layout | None = None, output_name: str | None = None) -> ForeignModel:
    """Read a classifier with one float32 input of four dimensions, three channels among them.

    Weights in external data files are loaded too. `layout` is required if the input's shape does not show it, and
    `output_name` if the graph has several outputs.

    Raises `ModelError` for a file that is missing, damaged, larger than 2 GB, or an artifact of this package already,
    and for another kind of graph or an opset below `MIN_OPSET`. Raises `UsageError` if `layout` or `output_name` is
    required but missing, or if the graph has no output of that name.
    """
    model = _load(path)
    graph = model.graph
    fed = inputs(graph)
    if len(fed) != 1:
        raise ModelError(
            f"{path} has {len(fed)} inputs ({', '.join(item.name for item in fed) or 'none'}); "
            "a classifier has one, the pictures",
            source=path,
            reason="unsupported",
        )
    images = fed[0].type.tensor_type
    sizes = [item.dim_value if item.dim_value > 0 else None for item in images.shape.dim]
    shape = f"({', '.join('?' if size is None else str(size) for size in sizes)})"
    if images.elem_type != onnx.TensorProto.FLOAT or len(sizes) != 4:
        kind = onnx.TensorProto.DataType.Name(images.elem_type).lower()
        raise ModelError(
            f"{path}: its input {fed[0].name} is {kind} of shape {shape}; only float of four dimensions is adopted",
            source=path,
            reason="unsupported",
        )
    batch, *rest = sizes
    axes: dict[Layout, int] = {"nchw": 0, "nhwc": 2}
    possible = [kind for kind, axis in axes.items() if rest[axis] in (3, None)]
    if not possible or (layout and layout not in possible):
        wanted = f"{layout} " if layout else ""
        raise ModelError(
            f"{path}: its input {fed[0].name} of shape {shape} takes no {wanted}pictures of 3 channels",
            source=path,
            reason="unsupported",
        )
    certain = [kind for kind in possible if rest[axes[kind]] == 3]
    if layout is None:
        if len(certain) != 1:
            raise UsageError(
                f"{path}: its input of shape {shape} does not tell where the channels are",
                hint="say --layout nchw or nhwc",
            )
        layout = certain[0]
    del rest[axes[layout]]
    outputs = [item.name for item in graph.output]
    if output_name is None and len(outputs) != 1:
        raise UsageError(
            f"{path} has {len(outputs)} outputs ({', '.join(outputs)})", hint="choose one: --output-name NAME"
        )
    if output_name is not None and output_name not in outputs:
        raise UsageError(f"{path} has no output {output_name}; it has {', '.join(outputs)}")
    return ForeignModel(path, model, fed[0].name, output_name or outputs[0], layout, batch, (rest[0], rest[1]))


def _load(path: Path) -> onnx.ModelProto:
    """Load a model with its external data. Raises `ModelError`; see `read_foreign`."""
    try:
        require_regular(path)
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", source=path, reason="missing") from error
    except Exception as error:  # the exceptions of protobuf and onnx share no other base class
        raise ModelError(
            f"{path} is damaged, or no ONNX file ({first_line(error)})", source=path, reason="damaged"
        ) from error
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # as above
        raise ModelError(
            f"{path}: the weights that it keeps in another file cannot be read ({first_line(error)})",
            source=path,
            reason="incomplete",
        ) from error
    if any(item.key == METADATA_KEY for item in model.metadata_props):
        raise ModelError(
            f"{path} carries a model spec already",
            hint=f"use it as it is: {path}",
            source=path,
            reason="unsupported",
        )
    if opset(model) < MIN_OPSET:
        raise ModelError(
            f"{path} uses opset {opset(model)}; {MIN_OPSET} or newer can be adopted",
            hint="export it again, or convert it with onnx.version_converter",
            source=path,
            reason="unsupported",
        )
    if model.ByteSize() >= 2**31:
        raise ModelError(
            f"{path} is larger than 2 GB with its weights, which one ONNX file cannot hold",
            source=path,
            reason="too_large",
        )
    return model
