"""Lower FP32 ONNX graphs to FP16 or INT8, and check what that costs."""
