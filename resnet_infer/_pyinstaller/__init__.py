"""Tell PyInstaller where the hook of this package is (entry point `pyinstaller40`)."""

from __future__ import annotations

from pathlib import Path


def hook_folders() -> list[str]:
    """Return the folder with the hooks."""
    return [str(Path(__file__).parent)]
