"""Finite CMDPs: exact evaluation, and instances with a known optimum."""

from saferl.envs.tabular.cmdp import Evaluation, TabularCMDP

__all__ = ["Evaluation", "TabularCMDP"]
