"""Rewards and goals of a batch of navigation envs: the package's tasks (Ji et al., 2023), by array operations.

``fields`` are arrays of the whole batch after a step: ``xpos`` (num_envs, num_bodies, 3), ``agent_pos`` (num_envs, 3),
and ``touched`` (num_envs, num_geoms), true for every geom that is in contact with one of the agent's.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.envs.safety_gymnasium.worlds import World, WorldMaker

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Fields = dict[str, Any]
Rows = Any
"""An index of environments: a slice or an array of numbers."""


class TaskBatch(abc.ABC):
    """What a family of tasks has in common: nothing to reach, nothing to remember."""

    memory: tuple[str, ...] = ()
    """Attributes (num_envs,) that hold what the package's task remembers of the last step, under its names."""

    def __init__(self, maker: WorldMaker, num_envs: int) -> None:
        """Prepare for ``num_envs`` envs of ``maker``'s task."""
        self.maker, self.num_envs = maker, num_envs
        for name in self.memory:
            setattr(self, name, np.zeros(num_envs))

    def start(self, rows: Rows, fields: Fields) -> None:  # noqa: B027  (optional)
        """Remember what the next reward of ``rows`` is a difference from, at a reset or a new goal."""

    @abc.abstractmethod
    def reward(self, fields: Fields) -> Array:
        """Rewards of the step just taken, (num_envs,)."""

    def achieved(self, fields: Fields) -> Mask:
        """Where the goal is reached, (num_envs,)."""
        return np.zeros(self.num_envs, dtype=np.bool_)

    def tick(self) -> None:  # noqa: B027  (optional)
        """What the task does at the end of every step."""

    def renew(self, row: int, world: World) -> bool:
        """Set a new goal; False if there is no room."""
        return self.maker.move_goal(world)

    def begin(self, row: int) -> None:  # noqa: B027  (optional)
        """What the task does when an episode begins."""


class GoalBatch(TaskBatch):
    """Drive to the goal: reward is the way made towards it, and 1 on arrival."""

    memory: tuple[str, ...] = ("last_dist_goal",)
    last_dist_goal: Array

    def __init__(self, maker: WorldMaker, num_envs: int) -> None:
        """See :class:`TaskBatch`."""
        super().__init__(maker, num_envs)
        goal = maker.task.goal
        self._goal = maker.model.body("goal").id
        self._size, self._distance, self._arrival = goal.size, goal.reward_distance, goal.reward_goal

    def start(self, rows: Rows, fields: Fields) -> None:
        """See :class:`TaskBatch`."""
        self.last_dist_goal[rows] = self._dist_goal(fields)[rows]

    def reward(self, fields: Fields) -> Array:
        """See :class:`TaskBatch`."""
        distance = self._dist_goal(fields)
        reward = (self.last_dist_goal - distance) * self._distance
        self.last_dist_goal = distance
        return np.asarray(reward + self.achieved(fields) * self._arrival)

    def achieved(self, fields: Fields) -> Mask:
        """See :class:`TaskBatch`."""
        reached: Mask = self._dist_goal(fields) <= self._size
        return reached

    def _dist_goal(self, fields: Fields) -> Array:
        return lengths(fields["xpos"][:, self._goal, :2] - fields["agent_pos"][:, :2])


class PushBatch(TaskBatch):
    """Push a box to the goal: reward is the way made towards the box, and by the box towards the goal, and 1 there."""

    memory = ("last_dist_goal", "last_dist_box", "last_box_goal")
    last_dist_goal: Array
    last_dist_box: Array
    last_box_goal: Array

    def __init__(self, maker: WorldMaker, num_envs: int) -> None:
        """See :class:`TaskBatch`."""
        super().__init__(maker, num_envs)
        task, model = maker.task, maker.model
        self._box, self._goal = model.body("push_box").id, model.body("goal").id
        self._gate = task.push_box.null_dist * task.push_box.size
        self._weights = task.push_box.reward_box_dist, task.push_box.reward_box_goal
        self._size, self._arrival = task.goal.size, task.goal.reward_goal

    def start(self, rows: Rows, fields: Fields) -> None:
        """See :class:`TaskBatch`."""
        goal, agent = fields["xpos"][:, self._goal], fields["agent_pos"]
        self.last_dist_goal[rows] = lengths(goal[:, :2] - agent[:, :2])[rows]
        self.last_dist_box[rows] = self._dist_box(fields)[rows]
        self.last_box_goal[rows] = self._box_goal(fields)[rows]

    def reward(self, fields: Fields) -> Array:
        """See :class:`TaskBatch`."""
        to_box, to_goal = self._weights
        dist_box, box_goal = self._dist_box(fields), self._box_goal(fields)
        reward = (self.last_dist_box - dist_box) * to_box * (self.last_dist_box > self._gate)
        reward += (self.last_box_goal - box_goal) * to_goal
        self.last_dist_box, self.last_box_goal = dist_box, box_goal
        return np.asarray(reward + self.achieved(fields) * self._arrival)

    def achieved(self, fields: Fields) -> Mask:
        """See :class:`TaskBatch`."""
        reached: Mask = self._box_goal(fields) <= self._size
        return reached

    def _dist_box(self, fields: Fields) -> Array:
        return lengths(fields["xpos"][:, self._box] - fields["agent_pos"])

    def _box_goal(self, fields: Fields) -> Array:
        return lengths(fields["xpos"][:, self._box] - fields["xpos"][:, self._goal])


class ButtonBatch(GoalBatch):
    """Press the lit button: reward is the way made towards it, and 1 when it is pressed; then the buttons rest."""

    memory = ("last_dist_goal", "timer")
    timer: Array

    def __init__(self, maker: WorldMaker, num_envs: int) -> None:
        """See :class:`TaskBatch`."""
        super().__init__(maker, num_envs)
        buttons = maker.task.buttons
        self._distance, self._arrival, self._delay = (
            buttons.reward_distance,
            buttons.reward_goal,
            buttons.resampling_delay,
        )
        self._geoms = np.array([maker.model.geom(f"button{index}").id for index in range(buttons.num)])
        self.goal_button = np.zeros(num_envs, dtype=np.int64)

    def achieved(self, fields: Fields) -> Mask:
        """See :class:`TaskBatch`."""
        pressed: Mask = fields["touched"][np.arange(self.num_envs), self._geoms[self.goal_button]]
        return pressed

    def wrong(self, fields: Fields) -> Mask:
        """Where another button than the lit one is touched while the buttons do not rest, (num_envs,)."""
        touched = fields["touched"][:, self._geoms]
        touched[np.arange(self.num_envs), self.goal_button] = False
        mask: Mask = touched.any(axis=1) & (self.timer == 0)
        return mask

    def tick(self) -> None:
        """Count the rest of the buttons down."""
        self.timer = np.maximum(0.0, self.timer - 1.0)

    def renew(self, row: int, world: World) -> bool:
        """Light another button."""
        self.maker.choose_button(world)
        self.goal_button[row] = world.goal_button
        self.timer[row] = self._delay
        return True

    def begin(self, row: int) -> None:
        """Let the buttons be pressed at once."""
        self.timer[row] = 0.0


class CircleBatch(TaskBatch):
    """Circle: reward is the speed around the origin, the more the closer to the circle."""

    def __init__(self, maker: WorldMaker, num_envs: int) -> None:
        """See :class:`TaskBatch`."""
        super().__init__(maker, num_envs)
        self._radius, self._factor = maker.task.circle.radius, maker.task.reward_factor

    def reward(self, fields: Fields) -> Array:
        """See :class:`TaskBatch`."""
        x, y = fields["agent_pos"][:, 0], fields["agent_pos"][:, 1]
        u, v = fields["agent_vel"][:, 0], fields["agent_vel"][:, 1]
        radius = np.sqrt(x**2 + y**2)
        reward: Array = ((-u * y + v * x) / radius) / (1 + np.abs(radius - self._radius)) * self._factor
        return reward


class RunBatch(TaskBatch):
    """Run: reward is the way made towards a point far away."""

    memory = ("old_potential",)
    old_potential: Array

    def __init__(self, maker: WorldMaker, num_envs: int) -> None:
        """See :class:`TaskBatch`."""
        super().__init__(maker, num_envs)
        self._target, self._factor = np.array(maker.task.goal_pos), maker.task.reward_factor

    def start(self, rows: Rows, fields: Fields) -> None:
        """See :class:`TaskBatch`."""
        self.old_potential[rows] = self._potential(fields)[rows]

    def reward(self, fields: Fields) -> Array:
        """See :class:`TaskBatch`."""
        potential = self._potential(fields)
        reward = potential - self.old_potential
        self.old_potential = potential
        return reward

    def _potential(self, fields: Fields) -> Array:
        # The reward is a difference of potentials near 60,000, whose last bit is 7e-12: numpy's norm rounds it as the
        # processor's BLAS does, so that the package's own call is the one that agrees with it.
        ways = fields["agent_pos"][:, None, :2] - self._target
        return np.array([-np.linalg.norm(way) * self._factor for way in ways])


FAMILIES: dict[str, type[TaskBatch]] = {
    "Goal": GoalBatch,
    "Push": PushBatch,
    "Button": ButtonBatch,
    "Circle": CircleBatch,
    "Run": RunBatch,
}


def lengths(vectors: Array) -> Array:
    """Euclidean lengths along the last axis, added in the order of its entries."""
    squares = np.square(vectors)
    total = squares[..., 0]
    for entry in range(1, squares.shape[-1]):
        total = total + squares[..., entry]
    return np.asarray(np.sqrt(total))
