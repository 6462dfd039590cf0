r"""VelocityCap (``velocity_cap``): keeps the runners of the velocity tasks below their limit.

A :class:`~saferl.shields.safety_layer.SafetyLayer` (Dalal et al., arXiv 1801.08757, 2018) whose model comes with the
package: the speed of the next step, in m/s, is predicted linearly in the action,

    speed(s, a) ~ b(s) + g(s)'a
    a* = argmin |a - a0|^2   subject to   b(s) + g(s)'a <= limit - margin,   low <= a <= high

``python -m saferl.bench.velocity`` trains runners, lets them run with noise and under the shield itself, and fits the
models to what they did; their errors under the shield, for a runner that was not among them, stand in
``velocity.json``. The margin covers them.

What it guarantees: nothing formal ("empirical"), as for every learned model; and it does not know how to stay on its
feet. A runner that was never held back may fall when it is: train it with the shield.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import load_file

from saferl.errors import ConfigError
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.networks import Network
from saferl.shields.protocol import ShieldSpec
from saferl.shields.safety_layer import SafetyLayer

ABOUT, ARRAYS = (Path(__file__).with_name(f"velocity.{suffix}") for suffix in ("json", "safetensors"))
"""Where the fitted models are: how they were made and how wrong they are, and their weights."""

MARGIN = 0.1
"""What is kept from the limit, as a share of it."""


class VelocityCap(SafetyLayer):
    """Keeps the runners of the velocity tasks below their limit; see the module.

    Example:
        >>> import saferl
        >>> shield = VelocityCap.for_env(saferl.make("SafetyHalfCheetahVelocity-v1"))
        >>> shield.limits.round(3).tolist()
        [2.889]
    """

    unit = "velocity_cap"

    @classmethod
    def for_env(cls, env: Any, *, margin: float | None = None) -> Self:
        """The shield of a velocity task.

        Args:
            env: A velocity task of :func:`saferl.make`.
            margin: Distance to its limit that is kept, in m/s, at least 0 and below the limit; a tenth of it if None.

        Raises:
            ConfigError: another environment, or a margin out of range.
        """
        name = str(getattr(env, "env_id", env))
        found, models = re.match(r"Safety(\w+)Velocity-v1$", name), about()["models"]
        if found is None or found[1] not in models:
            raise ConfigError(
                f"velocity_cap keeps runners below a speed in Safety<Task>Velocity-v1, for {', '.join(models)}; {name} "
                "is another task. Fit a safety_layer to transitions of it."
            )
        limit = float(env.get_wrapper_attr("task").threshold)
        margin = MARGIN * limit if margin is None else margin
        if not 0.0 <= margin < limit:
            raise ConfigError(f"velocity_cap: the margin must be in [0, {limit:g}) m/s, the limit; got {margin!r}.")
        model = models[found[1]]
        return cls(env.action_space, _network(found[1]), [limit - margin], report=model["errors"])

    def spec(self) -> ShieldSpec:
        """Empirical, with the error of the model."""
        error = self.report.get("p99")
        known = "" if error is None else f": it says at most {error:.2f} m/s too little (99 %, a runner it never saw)"
        return CATALOGUE[self.unit].spec(
            self.unit, assumptions=(f"The learned model of the next speed is right where it is used{known}.",)
        )


@cache
def about() -> Mapping[str, Any]:
    """How the models of the package were made, and by task what is known of them."""
    data: Mapping[str, Any] = json.loads(ABOUT.read_text(encoding="utf-8"))
    return data


@cache
def _network(task: str) -> Network:
    arrays = {name: part.astype(np.float64) for name, part in load_file(ARRAYS).items()}
    return Network.from_arrays(about()["models"][task]["network"], arrays)
