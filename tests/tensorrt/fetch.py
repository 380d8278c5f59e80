"""Put the real Python bindings of TensorRT and CUDA, without any library of NVIDIA's, where the tests find them.

    python tests/tensorrt/fetch.py FOLDER

What is there already stays. What cannot be had is said, and the tests that need it skip, or fail if they must run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES: dict[str, tuple[str, ...]] = {
    "tensorrt-8.6.1": ("--no-deps", "tensorrt-bindings==8.6.1"),
    "tensorrt-10.3.0": ("--no-deps", "tensorrt-cu12-bindings==10.3.0"),
    "tensorrt-10.16.1.11": ("--no-deps", "tensorrt-cu13-bindings==10.16.1.11"),
    "tensorrt-11.4.0.106": ("--no-deps", "tensorrt-cu13-bindings==11.4.0.106"),
    "cuda-12.9.10": ("cuda-bindings==12.9.10",),
    "cuda-13.2.0": ("cuda-bindings==13.2.0",),
}
"""Folder -> what pip installs into it."""
NEWEST_PYTHON = {"tensorrt-8.6.1": (3, 11), "tensorrt-10.3.0": (3, 12), "tensorrt-10.16.1.11": (3, 13)}
"""The newest Python that these were made for."""


def made_for_this_python(name: str) -> bool:
    return sys.version_info[:2] <= NEWEST_PYTHON.get(name, sys.version_info[:2])


def fetch(name: str, folder: Path) -> bool:
    """Install `PACKAGES[name]` into `folder`/`name`, whole or not at all; whether it is there now."""
    target = folder / name
    if target.is_dir():
        return True
    if not made_for_this_python(name):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    result = subprocess.run([*command, "--target", str(temporary), *PACKAGES[name]], check=False)
    if result.returncode == 0:
        temporary.rename(target)
        return True
    shutil.rmtree(temporary)
    print(f"{name} is not to be had here: the tests that need it are left out", file=sys.stderr)
    return False


def main() -> None:
    for name in PACKAGES:
        fetch(name, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
