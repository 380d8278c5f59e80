"""List the example command lines that the help of each command ends with."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "classify": ("classify photo.jpg", "classify photos/ --model resnet50 --output answers.csv"),
    "train": ("train cifar-10-batches-py.tar.gz", "train flowers/ --from resnet50 --output runs/flowers"),
    "curves": ("curves runs/flowers --output flowers.png",),
    "import": ("import resnet50.pth --arch resnet50 --labels names.txt", "import classifier.onnx --labels names.txt"),
    "export": ("export resnet50", "export resnet50 --precision int8 --calibration-data photos/"),
    "compare": ("compare resnet50.onnx resnet50", "compare resnet50.int8.onnx resnet50.onnx photos/ --layers"),
    "evaluate": (
        "evaluate resnet50.onnx flowers/",
        "evaluate resnet50.onnx flowers/ --output errors.html",
    ),
    "benchmark": ("benchmark resnet50.onnx resnet50.int8.onnx --batch-size 1,8", "benchmark --scenario offline"),
    "serve": ("serve", "serve resnet50.onnx --host 0.0.0.0 --port 8080"),
    "inspect": ("inspect resnet50.onnx", "inspect resnet20-cifar10 --json"),
    "models": ("models", "models resnet50"),
    "cache": ("cache", "cache verify"),
    "env": ("env", "env --json"),
}
"""Command -> at most two command lines, without the name of the program."""


def examples(command: str) -> list[str]:
    """Return the example command lines of a command, with the name of the program.

    >>> examples("serve")[0]
    'resnet-infer serve'
    """
    return [f"resnet-infer {line}" for line in EXAMPLES.get(command, ())]
