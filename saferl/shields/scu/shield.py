"""``MicrogridShield``: the tree of shielded controller units as a filter of the microgrid's two actions.

Method: SCU, arXiv 2512.01046. The observation sets the twin; :class:`~saferl.shields.scu.grid.MicrogridUnit` changes
the command for the gensets or the battery's power where the worst case of demand and wind could no longer be balanced;
the devices' own units clip the rest, which the dispatcher of the microgrid does alike.

What it guarantees: no minute with a deficit, and none with an excess that the battery (or the dump load) cannot take,
from a state that it certifies, for every demand and wind inside the declared bounds. Warm-up, cool-down and minimum run
times are kept by the devices.

Differences from the paper: the excess side, which is unprotected there, is tested as well; the horizon reaches until
every genset runs; averages are the worst possible; a genset runs 30 full minutes.
"""

from __future__ import annotations

from typing import Any, Self

import numpy.typing as npt

from saferl.envs.microgrid.action import read_action, write_status
from saferl.envs.microgrid.observation import Layout, decode
from saferl.envs.microgrid.params import MicrogridParams
from saferl.envs.microgrid.start import is_safe
from saferl.errors import ConfigError
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.protocol import Action, ActionSpec, Kind, ShieldContext, ShieldSpec
from saferl.shields.scu.grid import GridRequest, MicrogridUnit


class MicrogridShield(Shield):
    """Keeps a remote microgrid balanced whatever the agent asks for.

    Example:
        >>> from saferl.envs.microgrid.env import Microgrid
        >>> env = Microgrid(start="evaluation", soc=0.1)
        >>> obs, _ = env.reset(seed=0)
        >>> shield = MicrogridShield.for_env(env)
        >>> decision = shield.filter(obs, [-1.0, 1.0])  # all gensets off, with an empty battery
        >>> decision.kind, decision.status
        ('replaced', 'demand could not be met later')
    """

    unit = "scu_microgrid"

    def __init__(
        self,
        action_space: Any,
        params: MicrogridParams | None = None,
        *,
        conservativeness: float = 1.0,
        has_excess_test: bool = True,
        time_budget_us: float | None = None,
    ) -> None:
        """Build the units.

        Args:
            action_space: The microgrid's: a box of two numbers in [-1, 1].
            params: What the twin knows of the devices, and the bounds of demand and wind; None: the published numbers.
            conservativeness: Factor on the rates of the bounds in the deficit test; below 1 nothing is guaranteed.
            has_excess_test: Whether excess is kept away too; False is the published shield.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: another action space, or a negative conservativeness.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        if self.actions.to_dict() != {"low": [-1.0, -1.0], "high": [1.0, 1.0]}:
            raise ConfigError(f"{self.unit} filters two actions in [-1, 1]; got {self.actions}.")
        if not 0.0 <= conservativeness < float("inf"):
            raise ConfigError(f"{self.unit}: conservativeness must be at least 0; got {conservativeness}.")
        self.params = params if params is not None else MicrogridParams()
        self.layout = Layout(self.params)
        self.root = MicrogridUnit(self.params, conservativeness=conservativeness, has_excess_test=has_excess_test)

    @classmethod
    def for_env(cls, env: Any) -> Self:
        """The shield of a microgrid environment, with what its twin knows.

        Raises:
            ConfigError: the environment is not a microgrid.
        """
        params = getattr(getattr(env, "unwrapped", env), "params", None)
        if not isinstance(params, MicrogridParams):
            raise ConfigError(
                f"{cls.unit} needs an environment with MicrogridParams in its attribute 'params'; {env} has none. "
                "Microgrid-v0 has them."
            )
        return cls(ActionSpec.of(env.action_space), params)

    def spec(self) -> ShieldSpec:
        """Needs, guarantee and assumptions; with a conservativeness below 1 the guarantee is empirical."""
        is_hard = self.root.conservativeness >= 1.0
        return CATALOGUE[self.unit].spec(
            self.unit,
            guarantee="hard" if is_hard else "empirical",
            assumptions=(
                "Demand and wind stay inside the bounds, and those of the next minute are known.",
                "The devices are those of the twin, and the sensors are exact.",
                "The first state is certified.",
                "Demand above what all gensets may give on average lasts no longer than averages and battery allow.",
            ),
        )

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether demand can be met, and the gensets be stopped without excess, from this state on."""
        try:
            sensors = decode(self.layout, obs)
        except (ConfigError, TypeError, ValueError):
            return False
        return is_safe(self.params, sensors.gensets, sensors.soc, (sensors.demand, sensors.wind))

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        sensors = decode(self.layout, obs)
        root, params = self.root, self.params
        root.update_from_sensors(sensors)
        action = self.actions.clip(proposed).tolist()
        command, battery = read_action(action, sensors.gensets, params)
        safe = root.safe_action(GridRequest(command, battery))
        if safe.command != command:
            action[0] = write_status(safe.command, sensors.gensets, params)
        if safe.battery != battery:
            action[1] = safe.battery / params.battery.power
        kind: Kind = "replaced" if safe.command != command else "projected"
        return Ruling(action, kind, status=root.reason)

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        """All gensets on, the battery idle."""
        return [1.0, 0.0]

    def _to_data(self) -> ShieldData:
        return ShieldData(
            {
                "params": self.params.to_dict(),
                "conservativeness": self.root.conservativeness,
                "has_excess_test": self.root.has_excess_test,
            }
        )

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        config = data.config
        return cls(
            action_space,
            MicrogridParams.from_dict(config["params"]),
            conservativeness=config["conservativeness"],
            has_excess_test=config["has_excess_test"],
        )
