"""Run TensorRT engines on an NVIDIA GPU through the CUDA driver."""
