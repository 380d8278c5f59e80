"""Pictures a second of `evaluate` against what the cores allow and against a plain loop, and what ten crops cost.

    python -m benchmarks.evaluation PHOTOS [MODEL] [--tiny TINY]

PHOTOS is a folder of photographs and nothing else; they are put into class folders as often as needed. MODEL is an
artifact of a ResNet-50 (INT8, say), by default an untrained one in FP32. TINY is Tiny ImageNet: all its validation
pictures are answered by the built-in model that was trained on it. Loop and bound are those of `throughput.py`;
"bound / loop" is how much faster than the loop the cores would be if nothing but decoding and inference took time.
The cost of ten crops is that of inference alone, in seconds of a processor, each protocol in a run of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.paired import COMMAND, each, save
from benchmarks.throughput import BATCH, against, loop, spec_of
from benchmarks.untrained import resnet50
from resnet_infer.models.spec import ModelSpec
from resnet_infer.zoo import DEFAULT, SMALL, built_in

CLASSES = 10


def class_folders(photos: list[Path], spec: ModelSpec, times: int, root: Path) -> list[str]:
    """The photographs, each `times` times, in folders that are called after the model's classes.

    Each file ends with a number of its own, which is no part of the picture: a data set does not repeat itself, and
    `evaluate` would look closely at one that does.
    """
    names = (spec.class_ids or spec.classes)[:CLASSES]
    for number, photo in enumerate(photos * times):
        folder = root / names[number % len(names)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}{photo.suffix}").write_bytes(photo.read_bytes() + number.to_bytes(4, "big"))
    return [str(root / name) for name in names]


def evaluate(artifact: Path, data: Path, *options: str) -> list[str]:
    return [COMMAND, "evaluate", str(artifact), str(data), "-b", str(BATCH), *options]


def measure(
    artifact: Path, data: Path, folders: list[str], sample: list[Path], count: int, rounds: int
) -> dict[str, Any]:
    """`evaluate` of the `count` pictures of `data`, which the loop finds in `folders`."""
    spec = spec_of(artifact)
    found = against(evaluate(artifact, data), loop(artifact, folders), artifact, sample, count, rounds, "evaluate")
    return {"model": spec.name, "precision": spec.precision, **found}


def of_photos(artifact: Path, photos: list[Path], times: int, rounds: int) -> dict[str, Any]:
    with TemporaryDirectory() as root:
        folders = class_folders(photos, spec_of(artifact), times, Path(root))
        return measure(artifact, Path(root), folders, photos * max(times // 4, 1), len(photos) * times, rounds)


def of_tiny_imagenet(artifact: Path, data: Path, rounds: int) -> dict[str, Any]:
    """Of all validation pictures as they are published."""
    folder = data / "val" / "images"
    photos = sorted(folder.iterdir())
    for photo in photos:
        photo.read_bytes()  # so that nobody reads them from the disk
    return measure(artifact, data, [str(folder)], photos[:2000], len(photos), rounds)


def ten_crops(artifact: Path, photos: list[Path], rounds: int) -> dict[str, Any]:
    """Milliseconds of inference for a picture by 1-crop and 10-crop, in turn."""
    spent: dict[str, list[float]] = {"1-crop": [], "10-crop": []}
    with TemporaryDirectory() as root:
        class_folders(photos, spec_of(artifact), 1, Path(root))
        for _ in range(rounds):
            for protocol, values in spent.items():
                command = evaluate(artifact, Path(root), "--protocol", protocol, "--json")
                done = subprocess.run(command, check=True, capture_output=True)
                values.append(1000 * json.loads(done.stdout)["speed"]["inference_seconds"])
    ratios = [ten / one for one, ten in zip(spent["1-crop"], spent["10-crop"], strict=True)]
    return {
        **{f"{protocol}_ms": round(statistics.median(values), 2) for protocol, values in spent.items()},
        "10-crop / 1-crop": round(statistics.median(ratios), 3),
        "rounds": rounds,
        **{f"{protocol}_ms, each": each(values) for protocol, values in spent.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="a folder of photographs and nothing else")
    parser.add_argument(
        "model", metavar="MODEL", type=Path, nargs="?", help="artifact of a ResNet-50; default: untrained, FP32"
    )
    parser.add_argument("--tiny", metavar="TINY", type=Path, help="Tiny ImageNet")
    options = parser.parse_args()
    folder = options.photos.resolve()
    photos = sorted(folder.iterdir())
    large = options.model or resnet50(folder)
    found = {
        SMALL: of_photos(built_in(SMALL, ".onnx"), photos, times=32, rounds=4),
        "resnet50": of_photos(large, photos, times=8, rounds=2),
        "resnet50, ten crops": ten_crops(large, photos, rounds=6),
    }
    gates = {
        f"{SMALL}: evaluate / loop >= 1.6": found[SMALL]["evaluate / loop"] >= 1.6,
        "resnet50: evaluate / bound >= 0.95": found["resnet50"]["evaluate / bound"] >= 0.95,
        "resnet50: 10-crop / 1-crop <= 10.5": found["resnet50, ten crops"]["10-crop / 1-crop"] <= 10.5,
    }
    if options.tiny:
        own = found[DEFAULT] = of_tiny_imagenet(built_in(DEFAULT, ".onnx"), options.tiny, rounds=6)
        gates[f"{DEFAULT}: evaluate / bound >= 0.95"] = own["evaluate / bound"] >= 0.95
    save("evaluation", found, gates)


if __name__ == "__main__":
    main()
