"""Adversaries for a shield that claims a hard guarantee: proposals and disturbances that try to break a plant."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saferl.shields.base import Shield
from saferl.shields.protocol import Action, ActionSpec, ShieldContext

if TYPE_CHECKING:
    from saferl.testing.shield_checker import ShieldPlant

EPISODE = 100
"""Steps of one episode."""
_TRIES = 100
"""Start states that are drawn until one is certified."""
_MOST_CORNERS = 16
"""Corners of the action space that propose for a whole episode."""


@dataclass(frozen=True)
class FuzzResult:
    """What the adversaries reached."""

    steps: int
    """Steps of the plant."""
    violation: str | None
    """What broke first; None: nothing did."""
    worst: float
    """Largest violation seen (below 0: the closest approach)."""
    interventions: int
    """Steps in which the shield changed the proposal."""
    is_uncertified: bool
    """Whether no start state was certified, so that episodes began in any."""


def fuzz(shield: Shield, plant: ShieldPlant, *, seed: int = 0, steps: int = 2_000) -> FuzzResult:
    """Try to break a plant under a shield; end at the first violation.

    Episodes of 100 steps go through all pairs of

    - proposals: random ones, each corner of the action space for ever, and corners that change every seven steps;
    - disturbances: a random corner of their set at every step, each corner for ever, and the one that leads to the
      largest violation in the next step.

    Args:
        shield: Reset at the start of every episode.
        plant: What is to stay safe.
        seed: Of all that is drawn.
        steps: Steps in all.
    """
    generator = np.random.default_rng(seed)
    pairs = list(itertools.product(_proposers(shield.actions, generator), _disturbers(plant, generator)))
    order = itertools.cycle(generator.permutation(len(pairs)).tolist())
    done, interventions, worst, is_uncertified = 0, 0, -float("inf"), False
    while done < steps:
        propose, disturb = pairs[next(order)]
        state, is_certified = _start(shield, plant, generator)
        is_uncertified |= not is_certified
        for step in range(min(EPISODE, steps - done)):
            before = state
            decision = shield.filter(plant.observe(state), propose(step), _context(plant, state, step))
            state = plant.step(state, decision.action, disturb(state, decision.action))
            interventions += decision.intervened
            done += 1
            violation = float(plant.violation(state))
            worst = max(worst, violation)
            if not violation <= plant.tolerance:  # a violation that is NaN is one
                text = (
                    f"a violation of {violation:.6g} at step {step}, where the shield made {decision.action.tolist()} "
                    f"({decision.kind}: {decision.status}) of {decision.proposed.tolist()} in the state {before!r}"
                )
                return FuzzResult(done, text, worst, interventions, is_uncertified)
    return FuzzResult(done, None, worst, interventions, is_uncertified)


def _context(plant: ShieldPlant, state: Any, step: int) -> ShieldContext:
    context = ShieldContext(step=step) if plant.context is None else plant.context(state, step)
    context.generator = context.generator or np.random.default_rng(step)
    return context


def _start(shield: Shield, plant: ShieldPlant, generator: np.random.Generator) -> tuple[Any, bool]:
    """A start state, certified if one is found, and whether it is."""
    for _ in range(_TRIES):
        state = plant.start(generator)
        obs, context = plant.observe(state), _context(plant, state, 0)
        shield.reset(obs, context)
        if shield.certifies(obs, context):
            return state, True
    return state, False


def _proposers(space: ActionSpec, generator: np.random.Generator) -> list[Callable[[int], Action]]:
    if space.n is not None:
        all_corners = np.arange(space.n)
    else:
        signs = np.array(list(itertools.islice(itertools.product((-1.0, 1.0), repeat=space.dim), 2**12)))
        all_corners = space.middle + space.half_range * signs
    corners = generator.permutation(all_corners)

    def draw(_: int) -> Action:
        if space.n is not None:
            return np.array(generator.integers(space.n))
        return np.array(space.middle + 1.2 * space.half_range * generator.uniform(-1.0, 1.0, space.dim))

    def change(step: int) -> Action:
        return np.array(corners[step // 7 * 5 % len(corners)])

    def stay(corner: Action) -> Callable[[int], Action]:
        return lambda _: corner

    return [draw, change, *(stay(np.array(corner)) for corner in corners[:_MOST_CORNERS])]


def _disturbers(plant: ShieldPlant, generator: np.random.Generator) -> list[Callable[[Any, Action], Any]]:
    vertices = list(plant.vertices)
    if len(vertices) == 1:
        return [lambda *_: vertices[0]]

    def draw(state: Any, action: Action) -> Any:
        return vertices[generator.integers(len(vertices))]

    def worst(state: Any, action: Action) -> Any:
        violations = [plant.violation(plant.step(state, action, vertex)) for vertex in vertices]
        return vertices[int(np.argmax(violations))]

    def stay(vertex: Any) -> Callable[[Any, Action], Any]:
        return lambda *_: vertex

    return [draw, worst, *(stay(vertex) for vertex in vertices)]
