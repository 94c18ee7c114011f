"""What all tests share."""

from __future__ import annotations

import os

# Test files run side by side, one a core: threads inside each would only get in one another's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
