"""Put a finished training run into the package as a built-in model: checkpoint, artifact, and their errors.

    python tools/make_builtin.py runs/resnet20 resnet20-cifar10
    python tools/make_builtin.py runs/tiny resnet18-tinyimagenet --int8 --half --data tiny-imagenet-200

With `--half` the checkpoint's kernels are stored in half precision, if that costs at most 0.1 points of top-1 error.
With `--int8` the artifact is INT8, no layer in float, calibrated on training pictures, its weights kept to 7 bits: so
it is right on every CPU, with VNNI and without. Both then carry the errors that they have themselves on the pictures
of `--data` that nothing was trained or calibrated on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from resnet_infer.converters.export import export_onnx
from resnet_infer.converters.make import CALIBRATION_SUFFIX, Order, Pictures, make
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.files import atomic_path
from resnet_infer.models.checkpoint import SUFFIX, Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.models.graph import get_spec, set_spec
from resnet_infer.models.spec import Measured
from resnet_infer.zoo import built_in

HALF_COST = 0.1


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
    if arguments.half:
        checkpoint = halved(checkpoint, arguments.data)
    save_checkpoint(checkpoint, built_in(arguments.name, SUFFIX), half=arguments.half)
    target = built_in(arguments.name, ".onnx")
    if not arguments.int8:
        print(export_onnx(checkpoint, target))
        return
    make(checkpoint, target, Order(precision="int8", weight_bits=7, pictures=Pictures(calibration=arguments.data)))
    target.with_suffix(CALIBRATION_SUFFIX).unlink()
    graph = onnx.load(target)
    set_spec(graph, get_spec(graph, str(target)).with_(measured=(error(str(target), arguments.data),)))
    with atomic_path(target) as path:
        path.write_bytes(graph.SerializeToString())


def halved(checkpoint: Checkpoint, data: Path) -> Checkpoint:
    """The checkpoint as it comes back from half precision, with the error that it has then."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"half{SUFFIX}"
        save_checkpoint(checkpoint, path, half=True)
        measured = error(f"torch:{path}", data)
        rounded = load_checkpoint(path)
    before = checkpoint.spec.measured[0].top1_error
    print(f"in half precision {measured.top1_error:.2f}% top-1 error, before {before:.2f}%")
    if measured.top1_error > before + HALF_COST:
        raise SystemExit("half precision costs too much: leave out --half")
    return replace(rounded, spec=checkpoint.spec.with_(measured=(measured,)))


def error(model: str, data: Path) -> Measured:
    """The error of one crop."""
    evaluation = evaluate([model], data, protocols=["1-crop"])
    (result,) = evaluation.results
    top5 = round(result.top5.error, 2) if result.top5 else None
    found = Measured(evaluation.dataset.name, "1-crop", evaluation.pictures, round(result.top1.error, 2), top5)
    print(f"{model}: {found}")
    return found


if __name__ == "__main__":
    main()
