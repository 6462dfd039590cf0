"""One thread per test process, and ``tests/envs/toy_envs.py`` importable by its name, also in worker processes."""

import os
import sys
from pathlib import Path

# Set before torch is loaded: two test processes with a thread per core each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent / "envs"))
