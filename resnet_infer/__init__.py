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
    from resnet_infer.classifier import Answer, Classifier, Picture, Prediction
    from resnet_infer.errors import ResnetInferError
    from resnet_infer.models.spec import ModelSpec

__all__ = ["Answer", "Classifier", "ModelSpec", "Picture", "Prediction", "ResnetInferError", "__version__"]

_HOMES = {
    "Answer": "classifier",
    "Classifier": "classifier",
    "ModelSpec": "models.spec",
    "Picture": "classifier",
    "Prediction": "classifier",
    "ResnetInferError": "errors",
}
"""Module of every public name, relative to the package."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562).

    Raises `AttributeError` for a name that is not public.
    """
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"resnet_infer.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'resnet_infer' has no attribute {name!r}")
