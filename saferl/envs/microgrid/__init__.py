"""A remote microgrid: two diesel gensets, a battery, a wind turbine and a demand that must be met every minute.

numpy only; the environment itself (:mod:`saferl.envs.microgrid.env`) needs gymnasium, the devices and the twin do not.
"""

from saferl.envs.microgrid.params import MicrogridParams
from saferl.envs.microgrid.series import ExogenousBounds, Series, adversarial, synthetic
from saferl.envs.microgrid.twin import MicrogridTwin

__all__ = ["ExogenousBounds", "MicrogridParams", "MicrogridTwin", "Series", "adversarial", "synthetic"]
