"""Read OpenVINO's intermediate representation (IR) without OpenVINO: `model.xml` and the weights in `model.bin`.

The XML describes the graph, and names for every constant its place in the weights. OpenVINO finds the weights by their
name alone, and computes with those of another model without an error. Therefore their length is compared with what the
XML names, and their SHA-256 with the one that it records, if it does.

The model spec is where OpenVINO puts the metadata of an ONNX file, so an artifact that OpenVINO's own tools convert
(`ovc model.onnx`) keeps it. Source of the format: https://docs.openvino.ai, "OpenVINO IR format".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from resnet_infer.errors import ModelError, reason_of
from resnet_infer.models.spec import METADATA_KEY, ModelSpec
from resnet_infer.runtimes.artifacts import Reader
from resnet_infer.runtimes.signature import OUTPUT, Tensor, require_signature
from resnet_infer.utils.inputs import read_bytes

SUFFIX = ".xml"
RT_INFO = "framework"
"""Section of the model's `rt_info` that holds the metadata of an ONNX file, and with it the spec."""
DIGEST_KEY = "resnet_infer.bin_sha256"
"""Key, beside the spec, of the hexadecimal SHA-256 of the weights. OpenVINO's own tools do not write it."""
_MAX_XML = 1 << 28
"""Most bytes of an XML file (256 MiB). That of a ResNet-152 in INT8 has about 3 MB, and its spec at most a few more."""
_MOST_ELEMENTS = 1 << 20
"""Most elements: a foreign file could otherwise be read for minutes. A ResNet-152 in INT8 has about 80,000."""
_MAX_DEPTH = 64
"""Most levels of nested elements. The bodies of control flow are nested, which no ResNet has."""
_DTYPES = {"u8": "uint8", "fp32": "float32", "f32": "float32", "fp16": "float16", "f16": "float16", "fp64": "float64"}
"""OpenVINO's name of an element type, in lower case -> its name in NumPy, as the runtime's messages call it."""


@dataclass(frozen=True)
class IrModel:
    """Describe an IR.

    - `inputs`, `outputs`: the graph's, in the order of the file.
    - `bin_bytes`: number of bytes of the weights that the graph names.
    - `bin_sha256`: hexadecimal SHA-256 that the weights must have; None if the XML records none.
    """

    spec: ModelSpec
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    bin_bytes: int
    bin_sha256: str | None


def weights_path(path: Path) -> Path:
    """Return the path of the weights of the IR at `path`: `model.bin` for `model.xml`."""
    return path.with_suffix(".bin")


def ir_parts(path: Path) -> tuple[Path, ...]:
    """Return the files of the IR at `path`, which need not exist."""
    return path, weights_path(path)


def read_ir(path: Path) -> IrModel:
    """Read the XML file of an IR, and of its weights the length alone.

    A model whose weights OpenVINO has compressed to float16 has the precision `fp16`, although the spec that it was
    converted with says `fp32`.

    Raises `ModelError` if one of the two files is missing or damaged, if they do not belong together, or if the IR
    carries no model spec.
    """
    return _parse(_read(path, _MAX_XML), path)


def read_ir_files(path: Path) -> tuple[bytes, bytes, IrModel]:
    """Read an IR's XML and its weights, so that what is checked is what OpenVINO gets.

    Raises `ModelError` as `read_ir` does, and if the weights have another SHA-256 than the XML records.
    """
    content = _read(path, _MAX_XML)
    model = _parse(content, path)
    weights = _read(weights_path(path))
    _require_length(len(weights), model.bin_bytes, path)
    if model.bin_sha256 is not None:
        import hashlib  # which loads OpenSSL

        if hashlib.sha256(weights).hexdigest() != model.bin_sha256:
            raise ModelError(
                f"{weights_path(path)} is damaged, or belongs to another model than {path.name}: the SHA-256 differs",
                hint="copy both files again, or export the model again",
                source=weights_path(path),
                reason="damaged",
            )
    return content, weights, model


def _size(model: IrModel, path: Path) -> tuple[int | None, int | None]:
    """Return the (height, width) of the images, after checking the inputs and outputs. Raises `ModelError`."""
    images, _ = require_signature(model.spec, model.inputs, model.outputs, str(path))
    return images.shape[1], images.shape[2]


def _read(path: Path, *limit: int) -> bytes:
    """Return the content of a file. Raises `ModelError`."""
    try:
        return read_bytes(path, *limit)
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", source=path, reason="missing") from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error})", source=path, reason=reason_of(error)
        ) from error


def _parse(content: bytes, path: Path) -> IrModel:
    """Read the XML in `content`, the file at `path`."""
    try:
        graph = _Graph()
        graph.read(content)
        inputs, outputs = graph.tensors("Parameter"), graph.tensors("Result")
        if not outputs:
            raise ValueError("it has no output")
    except (expat.ExpatError, ValueError, KeyError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(
            f"{path} is damaged, or no OpenVINO IR ({problem})",
            hint="copy it again, or export the model again",
            source=path,
            reason="damaged",
        ) from error
    weights = weights_path(path)
    if not weights.is_file():
        raise ModelError(
            f"{path} lacks its weights {weights.name}",
            hint="copy both files together and give both the same name, or export the model again",
            source=path,
            reason="incomplete",
        )
    _require_length(weights.stat().st_size, graph.bin_bytes, path)
    if METADATA_KEY not in graph.info:
        raise ModelError(
            f"{path} carries no model spec",
            hint="adopt the ONNX graph it was converted from: resnet-infer import FILE.onnx --labels FILE ...",
            source=path,
            reason="no_spec",
        )
    spec = ModelSpec.loads(graph.info[METADATA_KEY], str(path))
    if graph.has_half and spec.precision == "fp32":
        spec = spec.with_(precision="fp16")
    return IrModel(spec, inputs, outputs, graph.bin_bytes, graph.info.get(DIGEST_KEY))


def _require_length(found: int, wanted: int, path: Path) -> None:
    """Raise `ModelError` unless the weights have the length that the XML at `path` names."""
    if found != wanted:
        raise ModelError(
            f"{weights_path(path)} is damaged, or belongs to another model than {path.name}: it has {found:,} bytes, "
            f"and the graph's constants take {wanted:,}",
            hint="copy both files again, or export the model again",
            source=weights_path(path),
            reason="damaged",
        )


@dataclass
class _Layer:
    """Hold what is read of a layer at the top level of the graph."""

    kind: str
    names: list[str] = field(default_factory=list)
    """Names of the layer's own output tensors, or of the network's output that it is."""
    ports: dict[str, list[str]] = field(default_factory=dict)
    """Number of an output port -> names of its tensor."""
    dtype: str = ""
    shape: list[int | None] = field(default_factory=list)


class _Graph:
    """Read an IR's XML element by element, without a tree in memory.

    A document type is refused, as entities are declared in it: a few hundred bytes of them can expand to gigabytes.
    """

    def __init__(self) -> None:
        self.info: dict[str, str] = {}
        self.bin_bytes = 0
        self.has_half = False
        self._layers: dict[str, _Layer] = {}
        self._sources: dict[str, tuple[str, str]] = {}
        self._open: list[str] = []
        self._layer = _Layer("")
        self._port: str | None = None
        self._side: list[str] = []
        self._count = 0

    def read(self, content: bytes) -> None:
        """Read the document. Raises `expat.ExpatError`, `ValueError`, and `KeyError` for a missing attribute."""
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._refuse
        parser.Parse(content, True)

    def tensors(self, kind: str) -> tuple[Tensor, ...]:
        """Return the tensors of the layers of a kind: `Parameter` for the inputs, `Result` for the outputs."""
        found = []
        for number, layer in self._layers.items():
            if layer.kind == kind:
                source, port = self._sources.get(number, ("", ""))
                before = self._layers.get(source)
                names = layer.names or (before.ports.get(port, []) if before else [])
                name = OUTPUT if OUTPUT in names else min(names, default="")
                found.append(Tensor(name, _DTYPES.get(layer.dtype, layer.dtype), tuple(layer.shape)))
        return tuple(found)

    def _refuse(self, *declaration: object) -> None:
        raise ValueError("it has a document type")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > _MOST_ELEMENTS:
            raise ValueError("it has too many elements")
        if len(self._open) >= _MAX_DEPTH:
            raise ValueError("its elements are nested too deep")
        if not self._open and name != "net":
            raise ValueError(f"its root is {name[:40]}, not net")
        place = self._open[1:]
        self._open.append(name)
        if name == "data" and "offset" in attributes and "size" in attributes:
            self.bin_bytes = max(self.bin_bytes, _whole(attributes["offset"]) + _whole(attributes["size"]))
            self.has_half = self.has_half or attributes.get("element_type") in ("f16", "bf16")
        if place == ["layers"] and name == "layer":
            self._layer = self._layers[attributes["id"]] = _Layer(attributes["type"])
            self._layer.names = _names(attributes.get("output_names", ""))
        elif place[:2] == ["layers", "layer"]:
            self._of_layer(place[2:], name, attributes)
        elif place == ["edges"] and name == "edge":
            self._sources[attributes["to-layer"]] = attributes["from-layer"], attributes["from-port"]
        elif place == ["rt_info", RT_INFO]:
            # A key that is no name of an element is an attribute.
            self.info.setdefault(attributes.get("name", name), attributes.get("value", ""))

    def _of_layer(self, place: list[str], name: str, attributes: dict[str, str]) -> None:
        """Take what describes a tensor from an element inside of a layer."""
        layer = self._layer
        if name == "port" and place in (["input"], ["output"]):
            self._port = attributes["id"]
            names = _names(attributes.get("names", ""))
            if place == ["output"]:
                layer.ports[self._port] = names
            if place == ["output" if layer.kind == "Parameter" else "input"]:
                layer.dtype, layer.shape = attributes.get("precision", "").lower(), []
                if layer.kind == "Parameter":
                    layer.names = names
        elif name == "dim":
            self._side = []

    def _text(self, text: str) -> None:
        if self._open[-1] == "dim":
            self._side.append(text)

    def _end(self, name: str) -> None:
        layer = self._layer
        if self._open == ["net", "layers", "layer", "output" if layer.kind == "Parameter" else "input", "port", "dim"]:
            text = "".join(self._side).strip()
            layer.shape.append(None if text.startswith("-") or ".." in text else _whole(text))
        self._open.pop()


def _whole(text: str) -> int:
    """Read a number of bytes or pixels. Raises `ValueError`."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{text[:40]!r} is no number")
    return int(text)


def _names(text: str) -> list[str]:
    """Split the names of a tensor, between commas. A comma that belongs to a name follows a backslash."""
    parts = text.replace("\\,", "\0").split(",")
    return [part.replace("\0", ",") for part in parts if part]


READER = Reader(
    spec=lambda path: read_ir(path).spec,
    size=lambda path: _size(read_ir(path), path),
    check=lambda path: _size(read_ir_files(path)[2], path),
    parts=ir_parts,
)
"""Reader of IRs. `check` compares the inputs and outputs with the spec, and the weights with the SHA-256."""
