"""Put a finished training run into the package as a built-in model: checkpoint, artifact, and their errors.

    python -m tools.make_builtin runs/resnet20 resnet20-cifar10
    python -m tools.make_builtin runs/tiny resnet18-tinyimagenet --int8 --half --data tiny-imagenet-200

With `--half` the checkpoint's kernels are stored in half precision. With `--int8` the artifact is INT8 in all its
layers, calibrated on training pictures, its weights kept to 7 bits: so it is right on every CPU, with VNNI and without.
Both then carry the errors that they have themselves on the pictures of `--data` that nothing was trained, chosen or
calibrated on. Nothing is put into the package if half precision costs more than 0.1 points of top-1 error, or INT8 more
than 0.5.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from resnet_infer.data.feed import open_feed
from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.models.checkpoint import SUFFIX, Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.models.spec import Measured
from resnet_infer.models.weights.builtin import FOLDER, LIST, line
from resnet_infer.utils.files import atomic_path
from resnet_infer.zoo import built_in

HALF_COST, INT8_COST = 0.1, 0.5
"""Points of top-1 error."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--machine", help="where it was trained, if the run's own words do not say it all")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--data", type=Path, help="the data set it was trained on")
    arguments = parser.parse_args()
    if (arguments.half or arguments.int8) and not arguments.data:
        parser.error("what half precision or INT8 costs is measured: give --data")
    best = load_checkpoint(arguments.run / f"best{SUFFIX}")
    if not best.spec.measured:
        parser.error(f"{arguments.run} has not been measured on its test set")
    provenance = {**best.spec.provenance, "licence": "Apache-2.0"}
    if arguments.machine:
        provenance["machine"] = arguments.machine
    checkpoint = Checkpoint(best.spec.with_(name=arguments.name, provenance=provenance), best.weights)
    with TemporaryDirectory() as name:
        kept, artifact = Path(name) / f"{arguments.name}{SUFFIX}", Path(name) / f"{arguments.name}.onnx"
        save_checkpoint(checkpoint, kept, half=arguments.half)
        if arguments.half:
            measured = error(f"torch:{kept}", arguments.data)
            require(measured, best.spec.measured[0], HALF_COST, "half precision")
            checkpoint = Checkpoint(checkpoint.spec.with_(measured=(measured,)), load_checkpoint(kept).weights)
            save_checkpoint(checkpoint, kept, half=True)
        if arguments.int8:
            int8(checkpoint, artifact, arguments.data)
        else:
            from resnet_infer.converters.source import export_onnx

            print(export_onnx(checkpoint, artifact))
        for path in (kept, artifact):
            with atomic_path(built_in(arguments.name, path.suffix)) as target:
                target.write_bytes(path.read_bytes())
        packed = sorted(path for path in FOLDER.iterdir() if path.suffix in (SUFFIX, ".onnx"))
        (FOLDER / LIST).write_text("".join(map(line, packed)), encoding="utf-8")


def int8(checkpoint: Checkpoint, artifact: Path, data: Path) -> None:
    """Write it with its own error in its spec."""
    import onnx

    from resnet_infer.converters.config import CALIBRATION_PICTURES
    from resnet_infer.converters.pictures import TRAINING
    from resnet_infer.converters.precision.calibration import calibrate
    from resnet_infer.converters.precision.int8 import quantize
    from resnet_infer.converters.source import open_source
    from resnet_infer.models.graph import get_spec, set_spec

    source = open_source(checkpoint)
    print(source.parity)
    feed = open_feed(data, checkpoint.spec, count=CALIBRATION_PICTURES, prefer=TRAINING)
    graph = quantize(
        source.graph.model, calibrate(source.graph.model, feed.crops()), target="cpu", method="mse", weight_bits=7
    )
    onnx.save(graph, artifact)
    measured = error(str(artifact), data)
    require(measured, checkpoint.spec.measured[0], INT8_COST, "INT8")
    set_spec(graph, get_spec(graph, str(artifact)).with_(measured=(measured,)))
    onnx.save(graph, artifact)


def error(model: str, data: Path) -> Measured:
    """Of one crop, on the pictures held out."""
    evaluation = evaluate([model], data, EvaluationConfig(protocols=["1-crop"], device="cpu"))
    (result,) = evaluation.results
    top5 = round(result.top5.error, 2) if result.top5 else None
    top1, runtime = round(result.top1.error, 2), str(result.runtime["runtime"])
    found = Measured(evaluation.dataset.name, "1-crop", evaluation.pictures, top1, top5, runtime)
    print(f"{model}: {found}")
    return found


def require(found: Measured, before: Measured, most: float, what: str) -> None:
    print(f"{what}: {before.top1_error:.2f} -> {found.top1_error:.2f}% top-1 error")
    if found.top1_error > before.top1_error + most:
        raise SystemExit(f"{what} costs more than {most} points")


if __name__ == "__main__":
    main()
