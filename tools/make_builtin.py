"""Put a finished training run into the package as a built-in model: checkpoint, artifact, and their proof.

python tools/make_builtin.py runs/resnet20 resnet20-cifar10 [--machine "..."]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resnet_infer.converters.export import export_onnx
from resnet_infer.models.checkpoint import SUFFIX, Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.zoo import built_in


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--machine", help="where it was trained, if the run's own words do not say it all")
    arguments = parser.parse_args()
    best = load_checkpoint(arguments.run / f"best{SUFFIX}")
    if not best.spec.measured:
        raise SystemExit(f"{arguments.run} has not been measured on its test set")
    provenance = {**best.spec.provenance, "licence": "Apache-2.0"}
    if arguments.machine:
        provenance["machine"] = arguments.machine
    spec = best.spec.with_(name=arguments.name, provenance=provenance)
    checkpoint = Checkpoint(spec, best.weights)
    save_checkpoint(checkpoint, built_in(arguments.name, SUFFIX))
    print(export_onnx(checkpoint, built_in(arguments.name, ".onnx")))


if __name__ == "__main__":
    main()
