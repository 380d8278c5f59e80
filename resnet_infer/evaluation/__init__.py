"""Measure the error of models on labelled pictures, and compare it with published errors."""
