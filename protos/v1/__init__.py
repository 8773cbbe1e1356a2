"""Generated from the .proto files: see protos/generate.py."""
