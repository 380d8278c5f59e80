"""The error of a checkpoint and of all artifacts that can be made of it, on the same pictures.

    python -m experiments.variants MODEL DATA [--protocol P]... [-o variants.md]

DATA is a data set with the splits train and test (or val): pictures of the first calibrate, all of the other are
answered, by the protocols named or by the one that fits the model. The checkpoint is run by torch; of it are made ONNX
in FP32 and in FP16, and INT8 by every calibration method for every target, with no layer in float. What is compared
is what `resnet-infer evaluate` counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from resnet_infer import zoo
from resnet_infer.data.feed import open_feed
from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.result import Result
from resnet_infer.models.checkpoint import save_checkpoint
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.progress import progress


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--protocol", metavar="P", action="append", default=[])
    parser.add_argument("--calibration-pictures", metavar="N", type=int, default=512)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=Path("variants.md"))
    options = parser.parse_args()
    with TemporaryDirectory() as folder, progress("evaluating", None, "pictures") as advance:
        reference, *others = variants(options.model, options.data, options.calibration_pictures, Path(folder))
        found = evaluate(
            others,
            options.data,
            EvaluationConfig(protocols=options.protocol, reference=reference, started=lambda dataset, done: advance),
        )
    text = "\n".join(table(found.results, found.pictures, found.dataset.name, options.calibration_pictures))
    with atomic_path(options.output) as path:
        path.write_text(f"{text}\n", encoding="utf-8")
    print(text)


def variants(model: str, data: Path, count: int, folder: Path) -> Iterator[str]:
    """What is evaluated: the checkpoint in torch, then the artifacts, written into `folder`."""
    import onnx

    from resnet_infer.converters.precision.calibration import calibrate
    from resnet_infer.converters.precision.fp16 import to_fp16
    from resnet_infer.converters.precision.int8 import cpu_weight_bits, quantize
    from resnet_infer.converters.precision.placement import Target
    from resnet_infer.converters.precision.ranges import Method
    from resnet_infer.converters.source import open_source

    checkpoint = zoo.checkpoint(model)
    save_checkpoint(checkpoint, folder / "FP32.safetensors")
    yield f"torch:{folder / 'FP32.safetensors'}"
    source = open_source(checkpoint)
    graphs = {"FP32": source.graph.model, "FP16": to_fp16(source.graph.model).model}
    calibration = calibrate(source.graph.model, open_feed(data, source.graph.spec, count=count, split="train").crops())
    for target in get_args(Target):
        bits = cpu_weight_bits() if target == "cpu" else 8
        for method in get_args(Method):
            graphs[f"INT8 {target} {method}"] = quantize(
                source.graph.model, calibration, target=target, method=method, weight_bits=bits
            )
    for name, graph in graphs.items():
        path = folder / f"{name}.onnx"
        onnx.save(graph, path)
        yield str(path)


def table(results: Sequence[Result], pictures: int, data: str, count: int) -> Iterator[str]:
    """Markdown."""
    yield f"## {results[0].spec.name} on {data}, {pictures:,} images, INT8 calibrated on {count}\n"
    yield "| artifact | protocol | top-1 error, % | 95% | top-5 error, % | 95% | difference | p |"
    yield "|---|---|---:|---|---:|---|---:|---:|"
    for item in results:
        name = item.name.replace(".onnx", ", ONNX").replace("torch:FP32.safetensors", "FP32, torch")
        cells = [name, item.protocol]
        for rate in (item.top1, item.top5):
            cells += [f"{rate.error:.2f}", "{:.2f}-{:.2f}".format(*rate.interval)] if rate else ["", ""]
        own = item.difference
        cells += [f"{own.top1:+.2f}", f"{own.p:.3f}"] if own else ["", ""]
        yield f"| {' | '.join(cells)} |"
    yield "\nThe difference is in percentage points of top-1 error, to PyTorch on the same images;"
    yield "p is that of McNemar's test. ONNX Runtime computes FP16 in FP32 on a CPU, with rounded weights."


if __name__ == "__main__":
    main()
