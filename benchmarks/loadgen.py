"""MLPerf LoadGen on this machine: single-stream and offline, shortened, and the accuracy beside an evaluation's.

    python -m benchmarks.loadgen PHOTOS LABELLED

PHOTOS is a folder of photographs, LABELLED is CIFAR-10. Models: the small built-in, and ResNet-50 in INT8 with random
weights, which is as fast as any other.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.paired import save
from benchmarks.serving import int8
from benchmarks.untrained import resnet50
from resnet_infer.benchmarking.scenarios import Scenario, run_scenario
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.zoo import SMALL

SECONDS = 20.0


def run(model: str, data: Path, scenario: str, **options: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        asked = Scenario(scenario, model=model, data=data, output=Path(folder), seconds=SECONDS, **options)
        outcome = run_scenario(asked)
    print(outcome.table(), end="\n\n")
    found = outcome.to_json()
    return {name: found[name] for name in ("figures", "valid", "reasons", "notes")} | {
        "settings": {name: found["settings"][name] for name in ("loadgen", "min_duration_ms", "min_query_count")},
        "pictures": found["data"]["pictures"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="a folder of photographs")
    parser.add_argument("labelled", metavar="LABELLED", type=Path, help="CIFAR-10, in any form that `evaluate` takes")
    options = parser.parse_args()
    photos, labelled = options.photos, options.labelled
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    models = {SMALL: SMALL, "ResNet-50, INT8": str(int8(resnet50(photos), files))}
    result: dict[str, Any] = {
        name: {scenario: run(model, photos, scenario) for scenario in ("single-stream", "offline")}
        for name, model in models.items()
    }
    accuracy = run(SMALL, labelled, "offline", accuracy=True)
    (row,) = evaluate([SMALL], labelled).results
    wrong = int((row.answered.ranks > 0).sum())
    result["accuracy"] = {**accuracy["figures"], "wrong by evaluate": wrong, "pictures": accuracy["pictures"]}
    gates = {
        f"{name}: {scenario} is VALID": found["valid"] for name in models for scenario, found in result[name].items()
    }
    gates["accuracy as evaluate's"] = accuracy["valid"] and accuracy["figures"]["wrong"] == wrong
    save("loadgen", result, gates)


if __name__ == "__main__":
    main()
