"""Lets tests, and the worker processes they start, import ``tests/envs/toy_envs.py`` by its name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "envs"))
