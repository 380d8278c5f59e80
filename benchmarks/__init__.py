"""Measure the package against its peers and against its own gates. Run one as `python -m benchmarks.NAME`."""
