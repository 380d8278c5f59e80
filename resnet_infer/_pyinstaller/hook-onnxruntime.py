"""Tell PyInstaller what a frozen program needs of ONNX Runtime: its libraries.

PyInstaller runs this instead of the hook in pyinstaller-hooks-contrib. A function of ONNX Runtime that prints debug
information imports a module that imports torch. Where torch is installed, every frozen program would be 650 MB larger.
"""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_dynamic_libs

binaries = collect_dynamic_libs("onnxruntime")
excludedimports = ["onnxruntime.transformers.machine_info"]
