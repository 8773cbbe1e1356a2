"""Checkpoints from a model hub that speaks Hugging Face's protocol."""

import os

# The library reads these when it is loaded, and only modules of this package load it. A pull tells the hub which files it wants, no more;
# the progress it shows is ours.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
