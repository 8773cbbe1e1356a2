"""Running stage graphs on onnxruntime: sessions, KV cache, runs."""

import os

# Since 1.31 onnxruntime's wheels report to their maker, and leave a file in the temporary folder. A fleet's devices tell nobody else what
# they run. It reads this when it is loaded, and only modules of this package load it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
