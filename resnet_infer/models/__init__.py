"""Describe, build and store the models: architectures, specs, checkpoints and ONNX graphs."""
