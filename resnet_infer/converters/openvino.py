"""Write an artifact in OpenVINO's intermediate representation (IR), and prove it: the format `openvino` of `export`.

`model.xml` has the graph and the model spec, `model.bin` beside it the weights. Source of the format:
https://docs.openvino.ai, "OpenVINO IR format".
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from resnet_infer.converters.config import ExportConfig
from resnet_infer.converters.formats import Evidence
from resnet_infer.converters.precision.lower import Lowered
from resnet_infer.converters.source import PARITY_PICTURES, prove_against_graph
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import ModelError, ResnetInferError
from resnet_infer.models.spec import METADATA_KEY
from resnet_infer.runtimes.openvino import CORE, OpenVinoRuntime, openvino, reason
from resnet_infer.runtimes.openvino_ir import DIGEST_KEY, RT_INFO, weights_path
from resnet_infer.utils.console import note
from resnet_infer.utils.files import sha256

_NOT_IN_XML = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}
"""Characters that XML 1.0 does not allow -> their escapes in JSON. The spec's JSON has no others."""


def write(lowered: Lowered, path: Path, config: ExportConfig) -> Evidence:
    """Convert the graph, and write it to `path` with its weights beside it. The spec becomes part of its `rt_info`.

    The SHA-256 of the weights is recorded too, because OpenVINO finds them by their name alone. Raises `ModelError` if
    OpenVINO cannot convert the graph, and `OSError` or `ResnetInferError` if it cannot write the files.
    """
    try:
        graph = CORE.read_model(lowered.graph.content)
        for number, node in enumerate(graph.get_ordered_ops()):
            if node.get_friendly_name() == node.get_name():  # numbered from one conversion of the process to the next
                node.set_friendly_name(f"{node.get_type_name()}_{number}")
        graph.set_rt_info(lowered.graph.spec.dumps().translate(_NOT_IN_XML), [RT_INFO, METADATA_KEY])
    except RuntimeError as error:
        raise ModelError(
            f"OpenVINO cannot convert {lowered.graph.spec.name} ({reason(error)})",
            source=lowered.graph.spec.name,
            reason="failed",
        ) from error
    _save(graph, path, lowered.graph.content)
    digest = sha256(weights_path(path))
    graph.set_rt_info(digest, [RT_INFO, DIGEST_KEY])
    _save(graph, path, lowered.graph.content)
    return {"openvino": {"version": openvino.__version__, "weights_sha256": digest}}


def _save(graph: Any, path: Path, content: bytes) -> None:
    """Write OpenVINO's graph to `path`. `content` is the ONNX graph that it was made of.

    Raises the `OSError` of the operating system, or `ResnetInferError` if that is unknown.
    """
    try:
        # OpenVINO would otherwise store FP32 weights in float16.
        openvino.save_model(graph, path, compress_to_fp16=False)
    except RuntimeError as error:
        # It hides what the operating system said, which refuses this too: there are as many bytes of both files.
        with contextlib.suppress(OSError):
            weights_path(path).unlink(missing_ok=True)
        path.write_bytes(content + content)
        raise ResnetInferError(
            f"OpenVINO cannot write {path} ({reason(error)})", hint="free some space, or choose another place with -o"
        ) from error


def prove(lowered: Lowered, path: Path, config: ExportConfig) -> Evidence:
    """Compare the IR, run by OpenVINO, with the graph, run by ONNX Runtime. Raises `ParityError` if they differ.

    With `dynamic_size`, a second image size is compared too.
    """
    with OpenVinoRuntime(path) as candidate:
        graph, what = lowered.graph.content, f"the OpenVINO IR of {candidate.spec.name}"
        parity = prove_against_graph(candidate, graph, what)
        if config.options.get("dynamic_size"):
            crop = candidate.spec.input.crop
            prove_against_graph(candidate, graph, what, natural_noise(PARITY_PICTURES, crop + 32, crop + 17))
    note(str(parity))
    return {"openvino_parity": parity.to_json()}
