"""Programs for those who develop the package. Run one as `python -m tools.NAME`."""
