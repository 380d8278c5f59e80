"""Import weights and ONNX graphs of other programs, with their preprocessing and class names."""
