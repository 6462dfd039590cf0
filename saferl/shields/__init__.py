"""Units that filter actions at execution time, and the table of their names (none is built in yet).

Packages add theirs through the entry-point group ``saferl.shields``.
"""

from saferl.registry import Registry

SHIELDS = Registry("shield", "saferl.shields")

__all__ = ["SHIELDS"]
