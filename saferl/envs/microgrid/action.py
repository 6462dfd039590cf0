"""The agent's two numbers and what they ask for.

``a[0]`` is a number of gensets, ``floor((a[0] + 1) (n + 1) / 2)`` in 0 to n; the command follows from how many are on.
``a[1]`` is the battery's power as a share of the largest, positive: discharging.
"""

from __future__ import annotations

from collections.abc import Sequence

from saferl.envs.microgrid import group
from saferl.envs.microgrid.genset import Genset
from saferl.envs.microgrid.params import MicrogridParams


def read_action(action: Sequence[float], gensets: Sequence[Genset], params: MicrogridParams) -> tuple[int, float]:
    """Command (-1, 0, 1) and battery power (kW) that an action in [-1, 1] asks for; values outside are clipped."""
    share = min(max(float(action[0]), -1.0), 1.0)
    wanted = min(int((share + 1.0) * (params.num_gensets + 1) / 2.0), params.num_gensets)
    on = group.count_on(gensets)
    command = group.START if wanted > on else group.STOP if wanted < on else group.NONE
    return command, min(max(float(action[1]), -1.0), 1.0) * params.battery.power


def write_status(command: int, gensets: Sequence[Genset], params: MicrogridParams) -> float:
    """A first entry that asks for ``command``: the middle of the bin of the number of gensets it leads to.

    ``start_next`` with every genset on, and ``stop_last`` with none, cannot be asked for: the entry then asks for
    ``none``, which is what they would do.
    """
    wanted = min(max(group.count_on(gensets) + command, 0), params.num_gensets)
    return (2.0 * wanted + 1.0) / (params.num_gensets + 1) - 1.0
