"""Repeat the experiments of the documentation. Run one as `python -m experiments.NAME`."""
