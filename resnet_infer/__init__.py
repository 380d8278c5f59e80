"""Classify images with a ResNet, and take the network from training to production.

The public names below are imported when they are first used, so `import resnet_infer` itself loads nothing. Without an
argument `Classifier` opens the built-in model `resnet18-tinyimagenet`, which knows 200 of ImageNet's classes.

>>> import resnet_infer
>>> with resnet_infer.Classifier("resnet20-cifar10") as classifier:
...     classifier.classify("cat.jpg")[0].label
'cat'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_infer._version import __version__

if TYPE_CHECKING:
    from resnet_infer.answers import Answer, Prediction
    from resnet_infer.api.measuring import benchmark, compare, evaluate
    from resnet_infer.api.models import export, import_weights, open_runtime, read_spec
    from resnet_infer.api.training import train
    from resnet_infer.calls import AnswerTimeoutError
    from resnet_infer.classifier import Classifier
    from resnet_infer.client import Client
    from resnet_infer.data.pictures import Picture
    from resnet_infer.errors import (
        AnswerError,
        BrokenPackageError,
        DataError,
        MissingExtraError,
        ModelError,
        OutOfMemoryError,
        ParityError,
        PictureError,
        ResnetInferError,
        RuntimeUnavailableError,
        ServiceError,
        SplitError,
        TrainingError,
        UnsupportedPictureError,
        UnwritableError,
        UsageError,
    )
    from resnet_infer.models.spec import ModelSpec

__all__ = [
    "Answer",
    "AnswerError",
    "AnswerTimeoutError",
    "BrokenPackageError",
    "Classifier",
    "Client",
    "DataError",
    "MissingExtraError",
    "ModelError",
    "ModelSpec",
    "OutOfMemoryError",
    "ParityError",
    "Picture",
    "PictureError",
    "Prediction",
    "ResnetInferError",
    "RuntimeUnavailableError",
    "ServiceError",
    "SplitError",
    "TrainingError",
    "UnsupportedPictureError",
    "UnwritableError",
    "UsageError",
    "__version__",
    "benchmark",
    "compare",
    "evaluate",
    "export",
    "import_weights",
    "open_runtime",
    "read_spec",
    "train",
]

_HOMES = {
    "Answer": "answers",
    "AnswerTimeoutError": "calls",
    "Classifier": "classifier",
    "Client": "client",
    "ModelSpec": "models.spec",
    "Picture": "data.pictures",
    "Prediction": "answers",
    "benchmark": "api.measuring",
    "compare": "api.measuring",
    "evaluate": "api.measuring",
    "export": "api.models",
    "import_weights": "api.models",
    "open_runtime": "api.models",
    "read_spec": "api.models",
    "train": "api.training",
}
"""Module of every public name but the errors, relative to the package."""


if not TYPE_CHECKING:  # with it, a type checker would take every name for public

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used (PEP 562).

        Raises `AttributeError` for a name that is not public.
        """
        if name in __all__:
            from importlib import import_module

            return getattr(import_module(f"resnet_infer.{_HOMES.get(name, 'errors')}"), name)
        raise AttributeError(f"module 'resnet_infer' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted(__all__)
