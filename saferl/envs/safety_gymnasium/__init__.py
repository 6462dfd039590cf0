"""The navigation tasks of Safety-Gymnasium, run by the published package itself.

``make_navigation`` is the factory behind the catalogue's entries; ``compat`` loads the package on versions of Python,
gymnasium, mujoco and numpy that it does not know.
"""

from saferl.envs.safety_gymnasium.navigation import NavigationEnv, make_navigation

__all__ = ["NavigationEnv", "make_navigation"]
