"""``check_shield``: does a shield keep the protocol? Everything that is wrong, in one list. numpy only."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saferl.errors import ConfigError, UsageError
from saferl.shields import SHIELDS, load_shield, save_shield
from saferl.shields.base import TOLERANCE, Shield
from saferl.shields.protocol import KINDS, Action, ShieldContext, ShieldDecision, ShieldSpec
from saferl.testing.inspection import Inspection, SkipCheck
from saferl.testing.reports import ShieldCheckReport

Sampler = Callable[[np.random.Generator], Any]
"""Draws an observation."""

_SAME = 1e-6
"""Length up to which two executed actions count as one (solvers end at a tolerance)."""
_EPISODE = 40
"""Steps of the checks that compare episodes."""
_REPAIR_PURE = "Draw from the context's generator only, and keep memory in get_memory and set_memory."


@dataclass(frozen=True)
class ShieldPlant:
    """What a hard guarantee is tried on: a plant with disturbances, of which the corners are the worst.

    Example:
        >>> plant = ShieldPlant(
        ...     start=lambda generator: np.array([generator.uniform(-0.9, 0.9)]),
        ...     step=lambda state, action, push: state + 0.1 * action + push,
        ...     violation=lambda state: abs(float(state[0])) - 1.0,
        ...     vertices=(np.array([-0.01]), np.array([0.01])),
        ... )
    """

    start: Callable[[np.random.Generator], Any]
    """Draws the first state of an episode."""
    step: Callable[[Any, Action, Any], Any]
    """State, executed action and disturbance to the next state; the state that it gets is left as it is."""
    violation: Callable[[Any], float]
    """How unsafe a state is; above the tolerance of the check: violated."""
    vertices: Sequence[Any] = (None,)
    """Disturbances at the corners of their set; (None,) for a nominal plant."""
    observe: Callable[[Any], Any] = lambda state: state
    """State to observation."""
    context: Callable[[Any, int], ShieldContext] | None = None
    """State and step to what the shield may know beside, for example a twin in that state."""
    tolerance: float = 1e-6
    """Largest violation that counts as none."""


@dataclass(frozen=True)
class ShieldCase:
    """A shield with what it is checked on; what a factory gives to ``saferl check shield module:factory``."""

    shield: Shield
    """The shield."""
    sample_obs: Sampler | None = None
    """Draws observations; None: from the plant, or a zero where a shield needs nothing."""
    plant: ShieldPlant | None = None
    """For a hard guarantee."""


def check_shield(
    shield: Shield | ShieldCase | Callable[[], Shield | ShieldCase],
    *,
    sample_obs: Sampler | None = None,
    plant: ShieldPlant | None = None,
    context: Callable[[np.random.Generator], ShieldContext] | None = None,
    seed: int = 0,
    steps: int = 2_000,
) -> ShieldCheckReport:
    """What is wrong with a shield, all at once.

    Checked: ``pass`` means no change, and any other kind is one of the protocol's; what was filtered passes; proposals
    that are NaN, infinite, of another shape or no numbers, observations that are not finite, and a time budget that is
    exceeded become a recorded fallback; every action lies in the space; after ``reset`` an episode repeats; memory can
    be taken and given back; copies are independent; batches decide as single calls; saving and loading change nothing;
    and a shield that claims a hard guarantee keeps a plant safe from proposals and disturbances that try to break it.

    Args:
        shield: A shield, a case, or a factory of either. What is given is copied, not used.
        sample_obs: Draws observations that the shield should understand.
        plant: For a hard guarantee; without it, that check is skipped.
        context: Draws what the shield may know beside the observation (a twin, a privileged state). A generator for
            the shield's own draws is added to it.
        seed: Of everything that is drawn.
        steps: Steps of the plant in all.

    Raises:
        UsageError: not a shield, no positive number of steps, or a shield that needs something and no observations.

    Example:
        >>> from saferl.shields import ActionSpec, Bounds
        >>> print(check_shield(Bounds(ActionSpec.box([-1.0], [1.0]), high=0.5)))
        bounds keeps saferl's contract: 13 checks, 0 problems, 0 warnings.
        Skipped:
          1. hard-guarantee (no plant was given)
    """
    if steps < 1:
        raise UsageError(f"check_shield needs at least one step; got steps={steps}.")
    given = shield if isinstance(shield, Shield | ShieldCase) or not callable(shield) else shield()
    case = ShieldCase(given) if isinstance(given, Shield) else given
    if not isinstance(case, ShieldCase) or not isinstance(case.shield, Shield):
        raise UsageError(f"check_shield needs a saferl.shields.Shield, a ShieldCase or a factory; got {given!r}.")
    case = ShieldCase(case.shield, sample_obs or case.sample_obs, plant or case.plant)
    return _Inspection(case, _sampler(case), context, seed, steps).report()


def _sampler(case: ShieldCase) -> Sampler:
    if case.sample_obs is not None:
        return case.sample_obs
    plant = case.plant
    if plant is not None:
        return lambda generator: plant.observe(plant.start(generator))
    needs = case.shield.spec().needs
    if needs:
        raise UsageError(
            f"To check {case.shield.unit!r}, which needs a {' and a '.join(needs)}, observations are needed: give "
            "sample_obs, a plant, or a factory that returns a saferl.testing.ShieldCase."
        )
    return lambda _: np.zeros(1)


class _Inspection(Inspection):
    """Runs the checks on one shield and collects what they find."""

    subject = "the shield"

    def __init__(
        self,
        case: ShieldCase,
        sample_obs: Sampler,
        context: Callable[[np.random.Generator], ShieldContext] | None,
        seed: int,
        steps: int,
    ) -> None:
        super().__init__()
        self.case, self.sample_obs, self.make_context = case, sample_obs, context
        self.seed, self.steps = seed, steps
        self.generator = np.random.default_rng(seed)
        self.space = case.shield.actions

    def report(self) -> ShieldCheckReport:
        """Run everything."""
        checks: Mapping[str, Callable[[], None]] = {
            "spec": self._check_spec,
            "kinds": self._check_kinds,
            "idempotence": self._check_idempotence,
            "bad-actions": self._check_bad_actions,
            "bad-observations": self._check_bad_observations,
            "time-budget": self._check_time_budget,
            "fallback": self._check_fallback,
            "arguments": self._check_arguments,
            "reset": self._check_reset,
            "memory": self._check_memory,
            "copy": self._check_copy,
            "batch": self._check_batch,
            "storage": self._check_storage,
            "hard-guarantee": self._check_hard_guarantee,
        }
        self.run({name: functools.partial(self._seeded, check) for name, check in checks.items()})
        return ShieldCheckReport(
            self.case.shield.unit, tuple(self.problems), tuple(self.warnings), tuple(self.checks), tuple(self.skipped)
        )

    # -- helpers --------------------------------------------------------------------------------------------------

    def _seeded(self, check: Callable[[], None]) -> None:
        """Run ``check`` with the generator at its start, so that no check depends on those before it."""
        self.generator = np.random.default_rng(self.seed)
        check()

    def _fresh(self) -> Shield:
        shield = self.case.shield.copy()
        shield.time_budget_us = None  # what is checked must not depend on how busy the machine is
        shield.reset()
        return shield

    def _context(self, step: int) -> ShieldContext:
        """What is known at a step: the same however often it is asked for."""
        drawn = np.random.default_rng([self.seed, step, 1])
        context = self.make_context(drawn) if self.make_context is not None else ShieldContext()
        return replace(context, step=step, generator=np.random.default_rng([self.seed, step]))

    def _action(self, spread: float = 1.5) -> Any:
        """A proposal, often outside a box."""
        if self.space.n is not None:
            return int(self.generator.integers(self.space.n))
        return self.space.middle + spread * self.space.half_range * self.generator.uniform(-1.0, 1.0, self.space.dim)

    def _episode(self, steps: int = _EPISODE) -> list[tuple[Any, Any, int]]:
        return [(self.sample_obs(self.generator), self._action(), step) for step in range(steps)]

    def _run(self, shield: Shield, episode: list[tuple[Any, Any, int]]) -> list[ShieldDecision]:
        return [shield.filter(obs, action, self._context(step)) for obs, action, step in episode]

    def _compare(self, what: str, one: list[ShieldDecision], other: list[ShieldDecision], way_out: str) -> None:
        for step, (first, second) in enumerate(zip(one, other, strict=True)):
            if first.kind != second.kind or not np.array_equal(first.action, second.action):
                self.fail(what, "decide alike", f"{_short(first)} and {_short(second)} at step {step}", way_out)
                return

    def _check_inside(self, what: str, decision: ShieldDecision) -> None:
        is_number = bool(np.all(np.isfinite(decision.action)))
        if not is_number or not self.space.contains(decision.action):
            self.fail(what, "stay inside the action space", _short(decision), "Let Shield.filter clip it.")

    # -- checks ---------------------------------------------------------------------------------------------------

    def _check_spec(self) -> None:
        spec = self.case.shield.spec()
        if not isinstance(spec, ShieldSpec):
            self.fail("spec()", "give a ShieldSpec", repr(spec), "Return one.")
            return
        json.dumps(spec.to_dict(), allow_nan=False)
        name = "Box" if self.space.is_box else "Discrete"
        if spec.unit != self.case.shield.unit or name not in spec.actions:
            self.fail(
                "spec()", f"name {self.case.shield.unit!r} and {name}", f"{spec.unit!r} and {spec.actions}", "Repair."
            )
        if spec.guarantee.endswith("probability") and not 0.0 < (spec.probability or 0.0) <= 1.0:
            self.fail("spec()", "say the p of its guarantee", str(spec.probability), "Give probability.")
        if spec.guarantee != "empirical" and not spec.assumptions:
            self.warn("spec()", "say what its guarantee assumes", "nothing", "Give assumptions.")

    def _check_kinds(self) -> None:
        decisions = self._run(self._fresh(), self._episode(200))
        for decision in decisions:
            self._check_inside("an executed action", decision)
            length = self.space.distance(decision.action, decision.proposed)
            is_pass = decision.kind == "pass"
            may_be_same = decision.kind in ("fallback", "infeasible")
            if decision.kind not in KINDS or (is_pass != (length < TOLERANCE) and not may_be_same):
                self.fail("kind", "be 'pass' if and only if nothing changes", _short(decision), "Let the frame set it.")
                return
            if abs(decision.distance - length) > TOLERANCE * max(1.0, length) or not decision.slack >= 0.0:
                self.fail("distance and slack", f"be {length:g} and at least 0", _short(decision), "Let it be set.")
                return
        if decisions and all(decision.kind == "fallback" for decision in decisions):
            self.fail(
                "every decision about the observations drawn",
                "not be a fallback",
                decisions[0].status,
                "Give observations that the shield understands, or repair the error that the status names.",
            )

    def _check_idempotence(self) -> None:
        shield = self._fresh()
        for obs, action, step in self._episode():
            memory = shield.get_memory()
            first = shield.filter(obs, action, self._context(step))
            after = shield.get_memory()
            shield.set_memory(memory)
            second = shield.filter(obs, first.action, self._context(step))
            shield.set_memory(after)
            if first.kind == "infeasible":
                continue
            if self.space.distance(second.action, first.action) > _SAME:
                self.fail(
                    "an action that was filtered",
                    "pass the same filter unchanged",
                    f"{first.action.tolist()} became {second.action.tolist()} ({second.kind}, step {step})",
                    "Execute only what the shield itself accepts.",
                )
                return

    def _check_bad_actions(self) -> None:
        shield, obs, dim = self._fresh(), self.sample_obs(self.generator), self.space.dim
        bad: list[Any] = [None, "left", [], np.full(dim, np.nan), np.full(dim, np.inf), np.full(dim, -np.inf)]
        bad += [np.zeros(dim + 1), {"a": 1}, object()]
        bad += [self.space.n, -1, 0.5] if self.space.n is not None else []
        for action in bad:
            decision = shield.filter(obs, action, self._context(0))
            self._check_inside(f"the action for a proposal of {action!r}", decision)
            if decision.kind != "fallback" or decision.status == "ok":
                self.fail(f"a proposal of {action!r}", "be a recorded fallback", _short(decision), "Use the frame.")
        if self.space.is_box:
            far = shield.filter(obs, np.full(dim, 1e9), self._context(0))
            self._check_inside("the action for a proposal of 1e9", far)

    def _check_bad_observations(self) -> None:
        shield = self._fresh()
        bad = [_spoilt(self.sample_obs(self.generator), value) for value in (np.nan, np.inf)]
        if all(obs is None for obs in bad):
            raise SkipCheck("observations without real numbers")
        for obs in bad:
            decision = shield.filter(obs, self._action(), self._context(0))
            self._check_inside("the action for an observation that is not finite", decision)
            if decision.kind != "fallback":
                self.fail("an observation that is not finite", "be a fallback", _short(decision), "Use the frame.")
            if not isinstance(shield.certifies(obs, self._context(0)), bool | np.bool_):
                self.fail("certifies", "give a bool", "something else", "Return one.")

    def _check_time_budget(self) -> None:
        shield = self._fresh()
        shield.time_budget_us = 1e-6
        decision = shield.filter(self.sample_obs(self.generator), self._action(), self._context(0))
        self._check_inside("the action after an exceeded time budget", decision)
        if decision.kind != "fallback":
            self.fail("an exceeded time budget", "be a recorded fallback", _short(decision), "Use the frame.")

    def _check_fallback(self) -> None:
        shield = self._fresh()
        for obs in (self.sample_obs(self.generator), _spoilt(self.sample_obs(self.generator), np.nan), None):
            action = shield.fallback(obs, self._context(0))
            if not np.all(np.isfinite(action)) or not self.space.contains(self.space.read(action)):
                self.fail("fallback", "lie in the action space", repr(action), "Override _fallback, not fallback.")

    def _check_arguments(self) -> None:
        shield = self._fresh()
        for obs, action, step in self._episode(5):
            before = json.dumps(_plain(obs)), np.array(action).tolist()
            shield.filter(obs, action, self._context(step))
            if (json.dumps(_plain(obs)), np.array(action).tolist()) != before:
                self.fail("filter", "leave observation and action as they are", "changed ones", "Copy them first.")
                return

    def _check_reset(self) -> None:
        episode, shield = self._episode(), self._fresh()
        one = self._replay(shield, episode)
        shield.reset(episode[0][0], self._context(0))
        self._compare("two equal episodes with a reset between", one, self._replay(shield, episode), _REPAIR_PURE)

    def _replay(self, shield: Shield, episode: list[tuple[Any, Any, int]]) -> list[ShieldDecision]:
        """An episode whose contexts are the same every time."""
        self.generator = np.random.default_rng([self.seed, 1])
        return self._run(shield, episode)

    def _check_memory(self) -> None:
        episode, shield = self._episode(), self._fresh()
        self._run(shield, episode[:10])
        memory = shield.get_memory()
        if memory is None:
            rest = self._replay(shield, episode[10:])
            other = self._fresh()
            way_out = "It has memory: give it get_memory, set_memory and reset."
        else:
            rest, other = self._replay(shield, episode[10:]), self._fresh()
            other.set_memory(memory)
            way_out = "get_memory must give all that decides, as a copy, and set_memory take it."
        self._compare("a shield and one with its memory", rest, self._replay(other, episode[10:]), way_out)

    def _check_copy(self) -> None:
        episode, shield = self._episode(), self._fresh()
        self._run(shield, episode[:10])
        other, twin = shield.copy(), shield.copy()
        self._run(other, list(reversed(episode)))
        rest = self._replay(shield, episode[10:])
        self._compare("a shield and its copy", rest, self._replay(twin, episode[10:]), "Share nothing that changes.")

    def _check_batch(self) -> None:
        shield, episode = self._fresh(), self._episode(8)
        obs, actions = [row[0] for row in episode], np.array([row[1] for row in episode])
        contexts = [self._context(step) for *_, step in episode]
        stacked: Any = np.array(obs) if not isinstance(obs[0], Mapping | tuple) and obs[0] is not None else obs
        if shield.get_memory() is not None:
            try:
                shield.filter_batch(stacked, actions, contexts)
            except ConfigError:
                return
            self.fail("filter_batch of a shield with memory", "refuse several rows", "decisions", "Use the frame's.")
            return
        batch = shield.filter_batch(stacked, actions, contexts)
        contexts = [replace(c, generator=self._context(step).generator) for step, c in enumerate(contexts)]
        loop = [shield.filter(o, a, c) for o, a, c in zip(obs, actions, contexts, strict=True)]
        for one, other in zip(batch, loop, strict=True):
            if self.space.distance(one.action, other.action) > _SAME:
                self.fail("filter_batch", "decide as filter does", f"{_short(one)} and {_short(other)}", "Compare.")
                return

    def _check_storage(self) -> None:
        episode, shield = self._episode(), self._fresh()
        with tempfile.TemporaryDirectory() as folder:
            try:
                saved = save_shield(shield, Path(folder) / "shield")
            except ConfigError as error:
                raise SkipCheck(f"it cannot be saved: {' '.join(str(error).split())}") from error
            if shield.unit not in SHIELDS:
                raise SkipCheck(f"{shield.unit!r} is not registered, so it can be saved but not loaded")
            loaded = load_shield(saved)
        if loaded.spec() != shield.spec():
            self.fail("a loaded shield", "have the spec of the saved one", str(loaded.spec()), "Save all options.")
        loaded.reset()
        one, other = self._replay(shield, episode), self._replay(loaded, episode)
        self._compare("a shield and what was loaded of it", one, other, "Save all that decides in _to_data.")

    def _check_hard_guarantee(self) -> None:
        from saferl.testing.shield_fuzz import fuzz

        if not self.case.shield.spec().guarantee.startswith("hard"):
            raise SkipCheck("it claims no hard guarantee")
        if self.case.plant is None:
            raise SkipCheck("no plant was given")
        result = fuzz(self._fresh(), self.case.plant, seed=self.seed, steps=self.steps)
        if result.violation is not None:
            self.fail(
                "a plant under the shield",
                "stay safe against every proposal and every disturbance of its set",
                result.violation,
                "Repair the shield, or claim a weaker guarantee.",
            )
        if result.is_uncertified:
            self.warn("certifies", "accept a start state of the plant", "False for all of 100", "Draw safe starts.")


def _short(decision: ShieldDecision) -> str:
    action = np.array2string(decision.action, precision=6)
    return f"{decision.kind} with {action} at a distance of {decision.distance:.3g} ({decision.status})"


def _spoilt(obs: Any, value: float) -> Any:
    """``obs`` with one number that is not finite; None if it holds no real numbers."""
    if isinstance(obs, Mapping):
        for key, part in obs.items():
            if (spoilt := _spoilt(part, value)) is not None:
                return {**obs, key: spoilt}
        return None
    if obs is None or isinstance(obs, tuple | list | str):
        return None
    array = np.array(obs)
    if array.dtype.kind != "f" or array.size == 0:
        return None
    array.reshape(-1)[0] = value
    return array


def _plain(obs: Any) -> Any:
    if isinstance(obs, Mapping):
        return {str(key): _plain(value) for key, value in obs.items()}
    if isinstance(obs, tuple | list):
        return [_plain(value) for value in obs]
    return obs if obs is None else np.asarray(obs).tolist()
