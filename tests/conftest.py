"""Before any test imports numpy."""

from __future__ import annotations

import os

# Tests run beside each other and their matrices are small: threads that wait for each other would take a third of the whole run's time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
