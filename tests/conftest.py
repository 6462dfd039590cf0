"""One thread per test process; helper modules of the tests importable by name, also in worker processes."""

import os
import sys
from pathlib import Path

# Set before torch is loaded: two test processes with a thread per core each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

FOLDERS = ("envs", "deploy", "cli", "evaluation", "solvers/offline")
sys.path[:0] = [str(Path(__file__).parent / folder) for folder in FOLDERS]
