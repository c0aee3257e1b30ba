"""ONNX graphs of a model's networks, for programs without torch."""
