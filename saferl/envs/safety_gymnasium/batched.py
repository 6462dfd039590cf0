"""Navigation tasks in the batched backend: the package's worlds and numbers, without its work per object.

A step is the package's: the substeps, gremlins moved before each of them, one forward pass, then reward, costs, goal
and observation. Seeds, layouts, goals and states are those of :class:`~saferl.envs.safety_gymnasium.NavigationEnv`.
"""

from __future__ import annotations

from typing import Any

import mujoco  # type: ignore[import-untyped]
import numpy as np

from saferl.constraints import ConstraintSet
from saferl.envs.adapters import CostContract
from saferl.envs.batched import Array, Mask, SimulationBatch
from saferl.envs.safety_gymnasium.batch_costs import CostBatch
from saferl.envs.safety_gymnasium.batch_tasks import FAMILIES, ButtonBatch
from saferl.envs.safety_gymnasium.navigation import SEEDS, NavigationEnv
from saferl.envs.safety_gymnasium.observation import Observer
from saferl.envs.safety_gymnasium.privileged import PrivilegedReader
from saferl.envs.safety_gymnasium.worlds import WorldMaker
from saferl.envs.simulations import Simulations
from saferl.envs.state import (
    State,
    generator_state,
    mujoco_state,
    new_generator,
    set_mujoco_state,
    type_name,
)
from saferl.errors import EnvContractError

_LAYERS = [type_name(CostContract), type_name(NavigationEnv)]
_LOWEST_ANT = 0.08
"""Height in m of the torso below which the package's ant is dead."""


class NavigationBatch(SimulationBatch):
    """Many envs of one navigation task."""

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        constraints: ConstraintSet,
        *,
        max_episode_steps: int | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Build ``num_envs`` worlds.

        Args:
            env_id: As for :class:`~saferl.envs.safety_gymnasium.NavigationEnv`.
            num_envs: Envs in the batch.
            constraints: Whose costs fill the columns.
            max_episode_steps: Time limit in steps; None for the task's own.
            num_threads: Threads for the physics (default: the usable cores).
        """
        self._maker = maker = WorldMaker(env_id)
        task = maker.task
        super().__init__(
            env_id,
            maker.builder.observation_space,
            maker.builder.action_space,
            constraints,
            num_envs=num_envs,
            horizon=task.num_steps if max_episode_steps is None else max_episode_steps,
        )
        self._worlds = [maker.new() for _ in range(num_envs)]
        family = next(name for name in FAMILIES if type(task).__name__.startswith(name))
        self._task = FAMILIES[family](maker, num_envs)
        self._costs = CostBatch(maker, self._task)
        self._observer = Observer(task, maker.model)
        self._reader = PrivilegedReader(task, maker.model)
        self._can_die = maker.agent.__class__.__name__ == "Ant"
        self._needs_velocity = family == "Circle"
        self._reward_clip = task.reward_conf.reward_clip
        self.simulations = Simulations(
            [world.model for world in self._worlds],
            [world.data for world in self._worlds],
            fields=self._fields(),
            num_threads=num_threads,
        )
        # A view: it changes with the positions of all bodies.
        fields = self.simulations.fields
        fields["agent_pos"] = fields["xpos"][:, maker.model.body("agent").id]
        self._parts = [(world.model, world.data, world.data.ctrl) for world in self._worlds]
        self._limits = maker.model.actuator_ctrlrange.T.copy()
        self.substeps, self.needs_forward = task.sim_conf.frameskip_binom_n, True
        self._needs_contacts = self._costs.needs_contacts or isinstance(self._task, ButtonBatch)
        own = set(maker.agent.body_info.geom_names)
        self._is_agent = np.array([maker.model.geom(i).name in own for i in range(maker.model.ngeom)])
        self._contacts: list[Any] = [None] * num_envs
        self._touched: Mask = np.zeros((num_envs, maker.model.ngeom), dtype=np.bool_)

    def _fields(self) -> dict[str, Any]:
        model = self._maker.model
        agent = model.body("agent").id
        root = int(model.body_rootid[agent])
        fields = {
            "xpos": lambda data: data.xpos,
            "agent_mat": lambda data: data.xmat[agent],
            "sensors": lambda data: data.sensordata,
        }
        if self._needs_velocity:
            fields["twist"] = lambda data: data.cvel[agent]
            fields["mass_centre"] = lambda data: data.subtree_com[root]
        if self._costs.needs_velocities:
            fields["qvel"] = lambda data: data.qvel
        return fields

    def _advance(self, actions: Array) -> None:
        controls = np.clip(actions, *self._limits)
        targets, parts, substeps, contacts = self.mocap_targets(), self._parts, self.substeps, self._contacts

        def step(row: int) -> None:
            model, data, control = parts[row]
            control[:] = controls[row]
            if targets is None:
                mujoco.mj_step(model, data, substeps)
            else:
                for target in targets[row]:
                    data.mocap_pos[:] = target
                    mujoco.mj_step(model, data)
            mujoco.mj_forward(model, data)
            if self._needs_contacts:
                contacts[row] = data.contact.geom.copy()

        self.simulations.advance(step)
        if self._needs_contacts:
            self._find_touched()

    def mocap_targets(self) -> Array | None:
        """Where the gremlins are drawn to before every substep, (num_envs, substeps, 3): a circle in time."""
        if not self._maker.task._mocaps:
            return None
        gremlins = self._maker.task.gremlins
        times = np.empty((self.num_envs, self.substeps))
        time = np.array([world.data.time for world in self._worlds])
        for substep in range(self.substeps):
            times[:, substep] = time
            time = time + self._maker.model.opt.timestep
        height = np.full_like(times, gremlins.size)
        return np.stack([np.sin(times) * gremlins.travel, np.cos(times) * gremlins.travel, height], axis=-1)

    def _find_touched(self) -> None:
        rows = np.repeat(np.arange(self.num_envs), [len(pairs) for pairs in self._contacts])
        first, second = np.concatenate(self._contacts).T
        self._touched[:] = False
        of_agent = self._is_agent[first]
        self._touched[rows[of_agent], second[of_agent]] = True
        of_agent = self._is_agent[second]
        self._touched[rows[of_agent], first[of_agent]] = True

    def _read(self, rows: Any = slice(None)) -> dict[str, Array]:
        return {name: values[rows] for name, values in self.simulations.fields.items()}

    def _outcome(self) -> tuple[Array, dict[str, Any], dict[str, Array], Mask, Mask]:
        fields: dict[str, Any] = self._read() | {"touched": self._touched}
        if self._needs_velocity:
            # MuJoCo gives the velocity of the point of the agent's body that is at its tree's centre of mass.
            p, q, r, *linear = fields["twist"].T
            x, y, z = (fields["agent_pos"] - fields["mass_centre"]).T
            turning = q * z - r * y, r * x - p * z, p * y - q * x
            fields["agent_vel"] = np.stack([v + w for v, w in zip(linear, turning, strict=True)], axis=1)
        rewards = self._task.reward(fields)
        if self._reward_clip:
            rewards = np.clip(rewards, -self._reward_clip, self._reward_clip)
        costs, margins = self._costs.of(fields)
        achieved = self._task.achieved(fields)
        self._task.tick()
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        for row in np.flatnonzero(achieved & ~self.diverged):
            truncated[row] = not self._renew_goal(int(row))
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        if self._can_die:
            terminated = self.simulations.fields["agent_pos"][:, 2] <= _LOWEST_ANT
        return rewards, costs, margins, terminated, truncated

    def _renew_goal(self, row: int) -> bool:
        world = self._worlds[row]
        self._maker.catch_up(world, int(self.steps[row]))
        self._maker.note_places(world)
        if not self._task.renew(row, world):
            return False  # as in NavigationEnv, the episode is truncated: the agent did not end it
        self.simulations.read([row])
        self._task.start(np.array([row]), self._read())
        return True

    def _observe(self, rows: Any) -> Array:
        hidden = self._task.timer[rows] != 0 if isinstance(self._task, ButtonBatch) else None
        return self._observer.observe(self._read(rows), hidden)

    def privileged_state(self, row: int) -> dict[str, Any]:
        """Where the agent and the obstacles of environment ``row`` are now, as its single environment says it."""
        fields = self.simulations.fields
        return self._reader.read(fields["xpos"][row], fields["agent_mat"][row], fields["sensors"][row])

    def _begin(self, row: int, seed: int | None) -> None:
        if seed is None or seed >= SEEDS:
            seed = int(self.generators[row].integers(SEEDS))  # type: ignore[union-attr]
        world = self._worlds[row]
        self._maker.place(world, seed)
        self._task.begin(row)
        if isinstance(self._task, ButtonBatch):
            self._task.goal_button[row] = world.goal_button
        self.simulations.read([row])
        self._task.start(np.array([row]), self._read())

    def _get_state(self, row: int) -> State:
        world, generator = self._worlds[row], self.generators[row]
        if generator is None or world.layout_seed is None:
            raise EnvContractError(f"{self.env_id}: the state must be taken after a reset; got one of before.")
        self._maker.catch_up(world, int(self.steps[row]))
        task = self._task
        memory = {name: float(getattr(task, name)[row]) for name in task.memory if name != "timer"}
        buttons = None
        if isinstance(task, ButtonBatch):
            buttons = {"timer": int(task.timer[row]), "goal_button": int(task.goal_button[row])}
        contract = self.arrays.contract_state(row)
        env = {
            "env_id": self.env_id,
            "layout_seed": world.layout_seed,
            "world": {
                "physics": mujoco_state(world.model, world.data),
                "body_pos": world.model.body_pos.copy(),
                "layout": {name: place.copy() for name, place in world.layout.items()},
                "generator": world.generator.get_state(legacy=False),
                "task": memory,
                "buttons": buttons,
                "builder": {"steps": int(self.steps[row]), "terminated": False, "truncated": False},
            },
            "generator": generator_state(generator),
            "generator_seed": self.generator_seeds[row],
        }
        return {
            "layers": [{"type": name, "state": state} for name, state in zip(_LAYERS, (contract, env), strict=True)]
        }

    def _set_state(self, row: int, state: State) -> None:
        names = [layer["type"] for layer in state["layers"]]
        if names != _LAYERS:
            raise EnvContractError(f"The state must be of an env made of {_LAYERS}; got one made of {names}.")
        contract, env = (layer["state"] for layer in state["layers"])
        if env["env_id"] != self.env_id:
            raise EnvContractError(f"The state must be of {self.env_id}; got one of {env['env_id']}.")
        world, saved = self._worlds[row], env["world"]
        if saved is None:
            raise EnvContractError(f"{self.env_id}: the state must be taken after a reset; got one of before.")
        self._maker.place(world, env["layout_seed"])
        world.model.body_pos[:] = saved["body_pos"]
        set_mujoco_state(world.model, world.data, saved["physics"])
        world.layout = {name: np.array(place) for name, place in saved["layout"].items()}
        world.generator.set_state(saved["generator"])
        world.steps_drawn = self.steps[row] = saved["builder"]["steps"]
        for name, value in saved["task"].items():
            getattr(self._task, name)[row] = value
        if isinstance(self._task, ButtonBatch):
            self._task.timer[row] = saved["buttons"]["timer"]
            world.goal_button = self._task.goal_button[row] = saved["buttons"]["goal_button"]
        self.generators[row] = None if env["generator"] is None else new_generator(env["generator"])
        self.generator_seeds[row] = env["generator_seed"]
        self.arrays.set_contract_state(row, contract)
