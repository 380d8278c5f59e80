"""Import models, lower their precision, and export them as ONNX graphs or TensorRT engines."""
