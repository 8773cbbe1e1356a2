"""The operators that decoder layers are made of, in ONNX and in numpy."""
