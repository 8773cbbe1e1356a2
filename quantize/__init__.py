"""Turns a checkpoint into a content-addressed int8 artifact with the ONNX stage graphs that run it."""
