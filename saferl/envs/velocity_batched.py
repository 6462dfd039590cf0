"""Velocity tasks in the batched backend: Gymnasium's runners, with all but the physics by array operations.

Constants are read from Gymnasium's env, which also resets every row itself. Seeds and states are those of
:func:`saferl.envs.velocity.make_velocity`.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import mujoco  # type: ignore[import-untyped]
import numpy as np

from saferl.constraints import ConstraintSet
from saferl.envs.adapters import CostContract
from saferl.envs.batched import Array, Mask, SimulationBatch
from saferl.envs.simulations import Simulations
from saferl.envs.state import (
    State,
    generator_state,
    layer_names,
    mujoco_state,
    new_generator,
    set_mujoco_state,
    type_name,
)
from saferl.envs.velocity import TASKS, make_velocity
from saferl.errors import EnvContractError


@dataclass(frozen=True)
class Runner:
    """How Gymnasium's model of a task differs from the others."""

    hidden_positions: int = 1
    """Leading positions that are not observed."""
    clips_velocities: bool = False
    """Whether observed velocities are clipped to [-10, 10]."""
    place: str = "joints"
    """What moves with the velocity: ``joints`` (the first two positions), ``torso`` or ``mass`` (its centre)."""
    observes_forces: bool = False
    """Whether inertias, velocities and forces of all bodies are observed as well."""
    can_fall: bool = False
    """Whether it has to stay healthy, and is rewarded for it."""


RUNNERS = {
    "HalfCheetah": Runner(),
    "Hopper": Runner(clips_velocities=True, can_fall=True),
    "Walker2d": Runner(clips_velocities=True, can_fall=True),
    "Swimmer": Runner(hidden_positions=2),
    "Ant": Runner(hidden_positions=2, place="torso", can_fall=True),
    "Humanoid": Runner(hidden_positions=2, place="mass", observes_forces=True, can_fall=True),
}
"""By name of the task."""
_BODY_FIELDS = ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")


class VelocityBatch(SimulationBatch):
    """Many envs of one velocity task."""

    def __init__(
        self,
        task: str,
        num_envs: int,
        constraints: ConstraintSet,
        *,
        max_episode_steps: int | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Build ``num_envs`` simulations on one model.

        Args:
            task: As for :func:`saferl.envs.velocity.make_velocity`.
            num_envs: Envs in the batch.
            constraints: Whose costs fill the columns.
            max_episode_steps: Time limit in steps; None for 1,000.
            num_threads: Threads for the physics (default: the usable cores).
        """
        env = make_velocity(task, max_episode_steps=max_episode_steps or 1000)
        runner: Any = env.unwrapped
        self._env, self._model = runner, runner.model
        self._layers = [type_name(CostContract), *layer_names(env)]
        super().__init__(
            f"Safety{task}Velocity-v1",
            runner.observation_space,
            runner.action_space,
            constraints,
            num_envs=num_envs,
            horizon=max_episode_steps or 1000,
        )
        self._limit, self._runner = TASKS[task], RUNNERS[task]
        self._datas = [mujoco.MjData(self._model) for _ in range(num_envs)]
        self.simulations = Simulations(
            [self._model] * num_envs, self._datas, fields=self._fields(), num_threads=num_threads
        )
        self._controls = [data.ctrl for data in self._datas]
        self._before = np.zeros((num_envs, 2))
        self.substeps, self.needs_forward = int(runner.frame_skip), False

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {name: operator.attrgetter(name) for name in ("qpos", "qvel")}
        if self._runner.place == "torso":
            torso = self._model.body("torso").id
            fields["torso"] = lambda data: data.xpos[torso]
        elif self._runner.place == "mass":
            fields["xipos"] = operator.attrgetter("xipos")
        if self._runner.observes_forces:
            fields |= {name: operator.attrgetter(name) for name in _BODY_FIELDS}
        return fields

    def _advance(self, actions: Array) -> None:
        self._before, self._actions = self._places(), actions
        model, substeps, needs_forces = self._model, self.substeps, self._runner.observes_forces

        def step(row: int) -> None:
            data = self._datas[row]
            self._controls[row][:] = actions[row]
            mujoco.mj_step(model, data, substeps)
            if needs_forces:
                mujoco.mj_rnePostConstraint(model, data)

        self.simulations.advance(step)

    def _places(self) -> Array:
        """Where everybody is in the ground plane, (num_envs, 2) in m."""
        fields = self.simulations.fields
        if self._runner.place == "torso":
            return fields["torso"][:, :2].copy()
        if self._runner.place == "mass":
            masses = self._model.body_mass
            centres: Array = np.einsum("b,nbj->nj", masses, fields["xipos"]) / masses.sum()
            return centres[:, :2]
        return fields["qpos"][:, :2].copy()

    def _outcome(self) -> tuple[Array, dict[str, Any], dict[str, Array], Mask, Mask]:
        velocity = (self._places() - self._before) / self._env.dt
        healthy = self._is_healthy()
        # An action is in single precision, and so is Gymnasium's control cost; that of Humanoid uses the controls.
        actions = self._actions.astype(np.float64) if self._runner.place == "mass" else self._actions
        effort = self._env._ctrl_cost_weight * np.square(actions).sum(axis=1)
        rewards = getattr(self._env, "_forward_reward_weight", 1.0) * velocity[:, 0]
        if self._runner.can_fall:
            rewards = rewards + self._env._healthy_reward
        rewards = rewards - effort
        speed = velocity[:, 0]
        if self._limit.is_horizontal:
            speed = np.sqrt(velocity[:, 0] ** 2 + velocity[:, 1] ** 2)
        margin = speed - self._limit.threshold
        return rewards, {"cost": margin > 0.0}, {"cost": margin}, ~healthy, np.zeros(self.num_envs, dtype=np.bool_)

    def _is_healthy(self) -> Mask:
        if not self._runner.can_fall:
            return np.ones(self.num_envs, dtype=np.bool_)
        env, qpos, qvel = self._env, self.simulations.fields["qpos"], self.simulations.fields["qvel"]
        low, high = env._healthy_z_range
        if self._runner.place != "joints":
            height = qpos[:, 2]
            # Gymnasium's ant may be as low or as high as the limits, its humanoid may not.
            if self._runner.place == "torso":
                low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
            inside: Mask = (low < height) & (height < high)
            return inside
        height, angle = qpos[:, 1], qpos[:, 2]
        healthy: Mask = (low < height) & (height < high)
        low, high = env._healthy_angle_range
        healthy &= (low < angle) & (angle < high)
        if hasattr(env, "_healthy_state_range"):
            low, high = env._healthy_state_range
            state = np.concatenate([qpos, qvel], axis=1)[:, 2:]
            healthy &= ((low < state) & (state < high)).all(axis=1)
        return healthy

    def _observe(self, rows: Any) -> Array:
        fields = {name: values[rows] for name, values in self.simulations.fields.items()}
        velocities = np.clip(fields["qvel"], -10, 10) if self._runner.clips_velocities else fields["qvel"]
        parts = [fields["qpos"][:, self._runner.hidden_positions :], velocities]
        if self._runner.observes_forces:
            parts += [fields[name].reshape(len(velocities), -1) for name in _BODY_FIELDS]
        return np.concatenate(parts, axis=1)

    def _begin(self, row: int, seed: int | None) -> None:
        env = self._env
        env.data, env._np_random = self._datas[row], self.generators[row]
        mujoco.mj_resetData(env.model, env.data)
        env.reset_model()

    def _get_state(self, row: int) -> State:
        generator = self.generators[row]
        if generator is None:
            raise EnvContractError(f"{self.env_id}: the state must be taken after a reset; got one of before.")
        known: dict[str, State] = {
            "CostContract": self.arrays.contract_state(row),
            "VelocityCost": {},
            "TimeLimit": {"_elapsed_steps": int(self.steps[row])},
            "OrderEnforcing": {"_has_reset": True},
            type(self._env).__name__: {
                "physics": mujoco_state(self._model, self._datas[row]),
                "generator": generator_state(generator),
                "generator_seed": self.generator_seeds[row],
            },
        }
        return {"layers": [{"type": name, "state": known[name.rpartition(".")[2]]} for name in self._layers]}

    def _set_state(self, row: int, state: State) -> None:
        names = [layer["type"] for layer in state["layers"]]
        if names != self._layers:
            raise EnvContractError(f"The state must be of an env made of {self._layers}; got one made of {names}.")
        known = {layer["type"].rpartition(".")[2]: layer["state"] for layer in state["layers"]}
        runner, contract = known[type(self._env).__name__], known["CostContract"]
        set_mujoco_state(self._model, self._datas[row], runner["physics"])
        self.generators[row], self.generator_seeds[row] = new_generator(runner["generator"]), runner["generator_seed"]
        self.steps[row] = known["TimeLimit"]["_elapsed_steps"]
        self.arrays.set_contract_state(row, contract)
