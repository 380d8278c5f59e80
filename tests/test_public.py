"""The public names: the set, when they are imported, and that no submodule can take the place of one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import resnet_infer
from resnet_infer import errors

FUNCTIONS = ("benchmark", "compare", "evaluate", "export", "import_weights", "open_runtime", "read_spec", "train")
CLASSES = ("Answer", "Classifier", "Client", "ModelSpec", "Picture", "Prediction")
ERRORS = sorted(
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.ResnetInferError)
)


def test_the_set_of_public_names() -> None:
    """A name that is added here has a docstring with an example, and stays for every later version."""
    assert resnet_infer.__all__ == sorted([*CLASSES, "AnswerTimeoutError", *ERRORS, *FUNCTIONS, "__version__"])
    assert dir(resnet_infer) == resnet_infer.__all__
    for name in resnet_infer.__all__:
        assert getattr(resnet_infer, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        getattr(resnet_infer, "Clasifier")  # noqa: B009


def test_public_functions_and_classes_are_what_their_names_say() -> None:
    assert all(inspect.isfunction(getattr(resnet_infer, name)) for name in FUNCTIONS)
    assert all(inspect.isclass(getattr(resnet_infer, name)) for name in (*CLASSES, *ERRORS))


def test_no_submodule_has_the_name_of_something_public() -> None:
    """Importing a submodule sets its name in the package, in the place of what had it."""
    modules = {item.name for item in pkgutil.iter_modules(resnet_infer.__path__)}
    assert len(modules) > 10
    assert modules & set(resnet_infer.__all__) == set()
    for name in sorted(modules - {"__main__", "serving"}):
        importlib.import_module(f"resnet_infer.{name}")
    assert inspect.isclass(resnet_infer.Client)
    assert inspect.isfunction(resnet_infer.train)


def test_importing_the_package_loads_nothing() -> None:
    code = """
import sys
before = set(sys.modules)
import resnet_infer
dir(resnet_infer)
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))
print(sorted(name for name in sys.modules if name.startswith("resnet_infer")))
resnet_infer.ResnetInferError, resnet_infer.train, resnet_infer.export, resnet_infer.evaluate
print(sorted({name.partition(".")[0] for name in sys.modules} & {"numpy", "PIL", "onnx", "onnxruntime", "torch"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['resnet_infer']", "['resnet_infer', 'resnet_infer._version']", "[]"]
