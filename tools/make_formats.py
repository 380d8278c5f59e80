"""Write one small file of every format, for `tests/formats`: what a version has written, later ones must read.

    python -m tools.make_formats tests/formats/1

Run it from the tree of the version whose files are to be kept, before the next version of a format is begun. The folder
must be new: files of an older version are never made again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

CLASSES = {"blue": (40, 60, 200), "green": (30, 170, 60), "red": (200, 40, 50)}
"""Class -> mean colour of its pictures."""
SIDE = 16
"""Pixels on each side of a picture."""
ITERATIONS, BATCH, HELD_OUT = 4, 9, 6
"""Settings of the training run, which is stopped after its first epoch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if folder.exists():
        parser.error(f"{folder} is there already")
    folder.mkdir(parents=True)
    root = os.getcwd()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    os.chdir(folder)  # files name each other without the place where they were made
    make_data()
    make_models()
    make_engine()
    make_journal()
    make_results()
    make_machine()
    make_run()


def make_data() -> None:
    """Write `data.zip`, class folders of noisy squares of three colours: of each 8 to train on and 6 to test on."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    with zipfile.ZipFile("data.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for part, count in (("train", 8), ("test", 6)):
            for name, colour in CLASSES.items():
                for number in range(count):
                    noise = generator.normal(0, 30, (SIDE, SIDE, 3))
                    content = io.BytesIO()
                    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(content, "PNG")
                    file.writestr(zipfile.ZipInfo(f"data/{part}/{name}/{number}.png"), content.getvalue())


def make_models() -> None:
    """Write a checkpoint, its artifacts and their calibration, and in `logits.json` what they answer."""
    import numpy as np
    import torch

    from resnet_infer.converters.config import ExportConfig, Pictures
    from resnet_infer.converters.export import export
    from resnet_infer.models.architectures import architecture
    from resnet_infer.models.checkpoint import load_checkpoint, save_checkpoint
    from resnet_infer.models.network import untrained_checkpoint
    from resnet_infer.models.spec import InputSpec, Measured, ModelSpec
    from resnet_infer.runtimes.registry import open_runtime

    pixels = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    mean = np.linspace(0.4, 0.6, SIDE * SIDE * 3, dtype=np.float32).reshape(SIDE, SIDE, 3)
    spec = ModelSpec(
        name="colours",
        architecture=architecture("resnet8", len(CLASSES)),
        classes=tuple(CLASSES),
        class_ids=("n00000001", "n00000002", "n00000003"),
        input=InputSpec(SIDE, SIDE, mean, np.array([0.25, 0.25, 0.25]), "bicubic", exif=False),
        provenance={"licence": "Apache-2.0", "note": "weights of chance"},
        measured=(Measured("colours", "1-crop", 18, 66.67, None, "torch"),),
    )
    torch.manual_seed(0)
    save_checkpoint(untrained_checkpoint(spec, pixels), Path("model.safetensors"), half=True)
    checkpoint = load_checkpoint(Path("model.safetensors"))
    export(checkpoint, Path("model.onnx"), ExportConfig())
    export(
        checkpoint,
        Path("model.fp16.xml"),
        ExportConfig(precision="fp16", max_drop=100, pictures=Pictures(check=Path("data.zip"))),
    )
    pictures = Pictures(calibration=Path("data.zip"), calibration_count=12)
    export(checkpoint, Path("model.int8.onnx"), ExportConfig(precision="int8", max_drop=100, pictures=pictures))
    logits = {}
    for name in ("model.safetensors", "model.onnx", "model.int8.onnx", "model.fp16.xml"):
        with open_runtime(Path(name), device="cpu") as runtime:
            logits[name] = np.asarray(runtime(pixels), np.float64).round(6).tolist()
    Path("logits.json").write_text(json.dumps({"seed": 1, "logits": logits}, indent=1) + "\n")


def make_engine() -> None:
    """Write a sidecar beside a few bytes that stand for an engine."""
    from tests.runtimes.engines import write_engine

    write_engine(Path())


def make_journal() -> None:
    """Write the answers of an evaluation that was stopped in the middle."""
    from resnet_infer.evaluation.config import EvaluationConfig
    from resnet_infer.evaluation.evaluate import evaluate

    journal = Path("answers.jsonl")
    config = EvaluationConfig(device="cpu", threads=1, answers=journal)
    evaluate(["model.onnx"], Path("data.zip"), config)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: 1 + (len(lines) - 1) // 2]))
    Path(".answers.jsonl.lock").unlink(missing_ok=True)


def make_results() -> None:
    """Write what commands print with `--json`."""
    models = ("model.onnx", "model.int8.onnx")
    commands = {
        "benchmark.json": ("benchmark", *models, "--rounds", "2", "--seconds", "0.01", "--threads", "1"),
        "compare.json": ("compare", *models, "data.zip", "--pictures", "8"),
        "evaluate.json": ("evaluate", *models, "data.zip", "--device", "cpu", "--threads", "1"),
        "export.json": ("export", "model.safetensors", "-o", "again.onnx"),
    }
    for name, arguments in commands.items():
        command = [sys.executable, "-m", "resnet_infer", *arguments, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
        Path(name).write_text(done.stdout.replace(os.getcwd() + os.sep, ""), encoding="utf-8")
    Path("again.onnx").unlink()


def make_machine() -> None:
    """Write `profile.json` and `proofs.json` as they are in the folder `machine` of the cache."""
    from resnet_infer.runtimes.registry import open_runtime
    from resnet_infer.selection import profile, proof
    from resnet_infer.selection.machine import Model

    before = os.environ.get("RESNET_INFER_CACHE")
    os.environ["RESNET_INFER_CACHE"] = str(Path("cache").absolute())
    model = Model(Path("model.int8.onnx"))
    times = [profile.Timing(name, 1, 2, ms, (ms, ms)) for name, ms in (("onnxruntime", 2.0), ("openvino", 1.0))]
    profile.remember(model, 8, [*times, profile.Timing("onnxruntime", None, 1, 1.5)], source="tools/make_formats")
    with open_runtime(model.path, runtime="openvino", threads=1) as candidate:
        proof.prove(model, candidate)
    for name in ("profile.json", "proofs.json"):
        Path("cache", "machine", name).rename(name)
    shutil.rmtree("cache")
    if before is None:
        del os.environ["RESNET_INFER_CACHE"]
    else:
        os.environ["RESNET_INFER_CACHE"] = before


def make_run() -> None:
    """Write the folder of a training run that was stopped after its first epoch, and has to go on."""
    from resnet_infer.models.architectures import architecture
    from resnet_infer.training.input.splits import open_splits
    from resnet_infer.training.loop.options import Options
    from resnet_infer.training.loop.trainer import Trainer
    from resnet_infer.training.recipes import get_recipe

    recipe = get_recipe(
        "cifar10-short",
        arch="resnet8",
        iterations=ITERATIONS,
        batch_size=BATCH,
        validation=HELD_OUT,
        peak_rate=0.1,
        resize=SIDE,
        crop=SIDE,
    )

    def stop(line: str) -> None:
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    splits = open_splits(Path("data.zip"), validation=HELD_OUT)
    run = Trainer(architecture("resnet8", len(CLASSES)), recipe, splits, Path("run"), options=Options("fp32"), log=stop)
    try:
        run.run()
    except KeyboardInterrupt:
        Path("run", ".lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
