"""Build TensorRT engines from ONNX graphs, and check their precision and their answers."""
