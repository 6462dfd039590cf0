"""The command line: ``saferl quickstart | list | train | eval | report | check | bench``."""

from saferl.cli.app import main

__all__ = ["main"]
