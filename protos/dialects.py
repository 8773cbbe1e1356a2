"""What stages are written in for a device, by the names that devices give it in Describe (device.proto, dialects)."""

from __future__ import annotations

# ONNX graphs, of onnxruntime's fused operators for weights of few bits.
DIALECT = "com.microsoft.nbits"
# Compiled programs of a chip's instructions (docs/isa.md), over the artifact's weights as they are stored.
ISA_DIALECT = "glm-isa"
