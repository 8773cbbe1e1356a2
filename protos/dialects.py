"""The operator set that stage graphs are written in, by the name that devices give it in Describe (device.proto, dialects)."""

from __future__ import annotations

DIALECT = "com.microsoft.nbits"
