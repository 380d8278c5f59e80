"""Run checkpoints and artifacts: ONNX Runtime, OpenVINO, TensorRT and torch behind one interface."""
