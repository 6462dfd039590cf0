"""The table of environments: the catalogue plus installed plug-ins (entry-point group ``saferl.envs``)."""

from saferl.envs.catalogue import SPECS
from saferl.envs.spec import EnvSpec
from saferl.registry import Registry

ENVS = Registry("environment", "saferl.envs")


def register(spec: EnvSpec) -> None:
    """Add an environment to the catalogue of this process; a taken id is an error."""
    ENVS.register(spec.id, spec, summary=spec.summary)


for _spec in SPECS:
    register(_spec)
