"""Tell PyInstaller what a frozen program needs of this package.

- Data: the built-in models, photographs and lists that modules read beside themselves.
- Modules that tables name as text, such as runtimes and commands, which PyInstaller does not see.
- Packages of extras are left out, because some are larger than a gigabyte. A program that imports one itself, or names
  it with `--hidden-import`, gets it. ONNX Runtime is contained.
"""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

from resnet_infer.utils.extras import EXTRAS

NEEDED = ("onnxruntime",)
"""Packages of extras that are contained if they are installed."""

datas = collect_data_files("resnet_infer")
hiddenimports = collect_submodules(
    "resnet_infer", filter=lambda name: not name.startswith(("resnet_infer.serving", "resnet_infer._pyinstaller"))
)
excludedimports = sorted(
    {module.partition(".")[0] for modules in EXTRAS.values() for module in modules if module not in NEEDED}
)
