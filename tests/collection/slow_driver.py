"""A scripted behaviour that takes its time if it is told to, so that a collection can be killed in the middle of it."""

import os
import time

from saferl.envs.point_robot.behaviours import collect_scripted


def collect(episodes, seed):
    time.sleep(float(os.environ.get("SLOW_DRIVER_SECONDS", "0")))
    return collect_scripted(episodes, seed)
