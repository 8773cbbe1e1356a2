"""The operators that decoder layers are described by, and what they become in ONNX and in numpy."""
