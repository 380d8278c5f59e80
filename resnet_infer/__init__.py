"""resnet-infer takes a ResNet from training to production.

>>> import resnet_infer
>>> classifier = resnet_infer.Classifier()
>>> classifier.classify("cat.jpg")[0].label
'Egyptian cat'
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


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import resnet_infer` itself loads nothing."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"resnet_infer.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'resnet_infer' has no attribute {name!r}")
