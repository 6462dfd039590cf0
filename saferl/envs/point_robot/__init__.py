"""PointRobot: a point with inertia, two hazards and a goal, whose exact avoidable set can be computed."""

from saferl.envs.point_robot.env import PointRobot

__all__ = ["PointRobot"]
