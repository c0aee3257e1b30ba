"""ONNX graphs of a model's networks, for programs without torch."""

DESCRIPTION = "onnx.json"  # name of the file that describes the graphs
