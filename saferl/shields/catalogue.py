"""What is known of every shield without loading it; ``saferl list shields`` prints it, ``Shield.spec`` starts here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from saferl.shields.protocol import Guarantee, Need, ShieldSpec, Speed


@dataclass(frozen=True)
class ShieldFacts:
    """One shield of this package."""

    target: str
    """Import path of the class."""
    summary: str
    """One line about it."""
    needs: tuple[Need, ...]
    """:attr:`ShieldSpec.needs`."""
    guarantee: Guarantee
    """The strongest that it can promise; an instance may promise less."""
    speed: Speed
    """Class of one decision on one core."""
    actions: tuple[str, ...] = ("Box",)
    """Action spaces that it filters."""

    def spec(
        self,
        unit: str,
        *,
        assumptions: tuple[str, ...] = (),
        guarantee: Guarantee | None = None,
        probability: float | None = None,
        needs: tuple[Need, ...] | None = None,
    ) -> ShieldSpec:
        """The spec of an instance."""
        return ShieldSpec(
            unit,
            self.needs if needs is None else needs,
            self.guarantee if guarantee is None else guarantee,
            self.actions,
            assumptions,
            probability,
            self.speed,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the import path."""
        data = asdict(self)
        del data["target"]
        return {**data, "needs": list(self.needs), "actions": list(self.actions)}


CATALOGUE: Mapping[str, ShieldFacts] = {
    "action_mask": ShieldFacts(
        "saferl.shields.action_mask:ActionMask",
        "Discrete actions that a rule allows; a masked one is replaced.",
        (),
        "hard for the nominal model",
        "under 100 us",
        ("Discrete",),
    ),
    "bounds": ShieldFacts("saferl.shields.bounds:Bounds", "Clips to limits on the action.", (), "hard", "under 100 us"),
    "rate_limit": ShieldFacts(
        "saferl.shields.bounds:RateLimit", "Limits the change of the action per step.", (), "hard", "under 100 us"
    ),
    "cbf_qp": ShieldFacts(
        "saferl.shields.cbf_qp:CBFQPShield",
        "Nearest action that keeps control barrier functions, by a quadratic program.",
        ("state vector", "control-affine model"),
        "hard",
        "under 100 us",
    ),
    "backup_rollout": ShieldFacts(
        "saferl.shields.backup_rollout:BackupRolloutShield",
        "Allows what a backup policy can still recover from in a twin, in the worst case.",
        ("twin", "bounds"),
        "hard",
        "under 10 ms",
        ("Box", "Discrete"),
    ),
    "mpsc": ShieldFacts(
        "saferl.shields.mpsc:MPSCShield",
        "Predictive filter of a linear model with tightened constraints and a terminal set.",
        ("state vector", "linear model", "bounds"),
        "hard",
        "under 1 ms",
    ),
    "tabular_prob": ShieldFacts(
        "saferl.shields.tabular_prob:TabularProbShield",
        "Keeps the probability of ever being unsafe below p, by interval value iteration.",
        ("finite MDP",),
        "episode probability",
        "under 100 us",
        ("Discrete",),
    ),
    "tabular_step": ShieldFacts(
        "saferl.shields.tabular_step:TabularStepShield",
        "Blocks actions much riskier than the safest one at each step; no bound for the episode.",
        ("finite MDP",),
        "per-step probability",
        "under 100 us",
        ("Discrete",),
    ),
    "safety_layer": ShieldFacts(
        "saferl.shields.safety_layer:SafetyLayer",
        "Corrects the action by a learned linear model of the next cost.",
        ("cost model",),
        "empirical",
        "under 1 ms",
    ),
    "critic": ShieldFacts(
        "saferl.shields.critic:CriticShield",
        "Projects, resamples or replaces actions that a learned cost critic rejects.",
        ("critic",),
        "empirical",
        "under 10 ms",
        ("Box", "Discrete"),
    ),
    "simplex": ShieldFacts(
        "saferl.shields.simplex:SimplexSwitch",
        "Hands over to a verified baseline near the boundary, and back with hysteresis.",
        ("state vector",),
        "hard for the nominal model",
        "under 100 us",
        ("Box", "Discrete"),
    ),
    "monitor": ShieldFacts(
        "saferl.shields.monitor:ConstraintMonitor",
        "Watches temporal-logic rules over the episode so far and warns before they break; changes nothing by itself.",
        (),
        "empirical",
        "under 1 ms",
        ("Box", "Discrete"),
    ),
    "composite": ShieldFacts(
        "saferl.shields.composite:CompositeShield",
        "Units in order; a later one has the last word.",
        (),
        "hard",
        "under 1 ms",
        ("Box", "Discrete"),
    ),
    "diffusion_projector": ShieldFacts(
        "saferl.shields.diffusion_projector:DiffusionProjector",
        "Projects the trajectories of a diffusion policy onto a model and constraints while they are denoised.",
        ("diffusion policy", "linear model"),
        "empirical",
        "slower",
    ),
    "hazard_brake": ShieldFacts(
        "saferl.shields.hazard_brake:HazardBrake",
        "Keeps Point and Car out of hazards and walls by manoeuvres of a fitted motion model.",
        ("privileged state",),
        "empirical",
        "under 10 ms",
    ),
    "velocity_cap": ShieldFacts(
        "saferl.shields.velocity_cap:VelocityCap",
        "Keeps the runners of the velocity tasks below their limit by a fitted model of the next speed.",
        ("cost model",),
        "empirical",
        "under 1 ms",
    ),
    "scu_microgrid": ShieldFacts(
        "saferl.shields.scu:MicrogridShield",
        "A tree of shielded controller units that keeps a remote microgrid balanced.",
        ("twin", "bounds"),
        "hard",
        "under 1 ms",
    ),
}
"""Every shield of this package by name."""
