"""``check_solver``: does a solver keep saferl's contract? Everything that is wrong, in one list.

Online solvers are checked here, those that learn from data in :mod:`saferl.testing.offline_checker`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import unwrap_vec_normalize

import saferl
from saferl.constraints import KINDS as CONSTRAINT_KINDS
from saferl.constraints import Constraint, ConstraintSet
from saferl.errors import ConstraintError, CostError, SaferlError
from saferl.evaluation import evaluate
from saferl.policy import load
from saferl.solvers import SOLVERS
from saferl.testing.inspection import Inspection, SkipCheck
from saferl.testing.offline_checker import OfflineInspection
from saferl.testing.reports import SolverCheckReport
from saferl.testing.solver_envs import KINDS
from saferl.training import RunSettings, TrainResult, resume, train

ENV = "saferl.testing.solver_envs:drift"
_SMALL: dict[str, Any] = {
    "n_steps": 20,
    "batch_size": 20,
    "n_epochs": 1,
    "target_period": 2,
    "learning_starts": 0,
    "dual_min_episodes": 1,
    "negative_rewards": "positive_part_only",  # the rewards of ENV have both signs
}
"""Options of every training, as far as a solver has them."""
_STEPS = 160
_SETTINGS = RunSettings(num_envs=2, backend="sync", net_arch=(8,), num_checkpoints=0, validation_share=0.0)


def check_solver(solver: str | type[Any], *, seed: int = 0) -> SolverCheckReport:
    """What is wrong with a solver, all at once, found by some twenty trainings of a second or less.

    Checked: the same seed gives the same weights, whatever the process's generators are; Box, Discrete, MultiDiscrete
    and Dict spaces; predictions; one multiplier per constraint, moved by its own cost; save and load; a normaliser that
    nothing moves after training; resuming a cut training; and that missing costs and unsupported constraints are
    refused. Of an offline solver: that training is deterministic, on any bounded Box of actions and flat form of
    observations, with one constraint or several; that rows and lanes do not touch each other; save, load and resume;
    that missing margins and budgets are refused where they are needed, and budgets at run time work where claimed.

    Args:
        solver: A registered name, or a class like those of :mod:`saferl.solvers`.
        seed: Training seed.

    Raises:
        UnknownNameError: no such solver.

    Example:
        >>> print(check_solver("ppo_lag"))  # doctest: +SKIP
        ppo_lag keeps saferl's contract: 9 checks, 0 problems, 0 warnings.
    """
    name = solver if isinstance(solver, str) else f"{solver.__module__}.{solver.__qualname__}"
    registered = nullcontext() if isinstance(solver, str) else SOLVERS.temporarily(name, solver)
    with registered, tempfile.TemporaryDirectory() as folder:
        solver_class = SOLVERS.load(name)
        if getattr(solver_class, "sampling", None) == "offline":
            return OfflineInspection(name, solver_class, seed, Path(folder)).report()
        return _Inspection(name, solver_class, seed, Path(folder)).report()


class _CutError(Exception):
    """Ends a training in the middle."""


class _Inspection(Inspection):
    """Runs the checks on one solver and collects what they find."""

    subject = "the solver"

    def __init__(self, name: str, solver_class: Any, seed: int, folder: Path) -> None:
        super().__init__()
        self.name, self.solver_class, self.seed, self.folder = name, solver_class, seed, folder
        known = {field.name for field in fields(solver_class.config_class)}
        self.options = {key: value for key, value in _SMALL.items() if key in known}
        self._runs = 0

    def report(self) -> SolverCheckReport:
        """Run everything."""
        checks: Mapping[str, Callable[[], None]] = {
            "determinism": self._check_determinism,
            "spaces": self._check_spaces,
            "vector-costs": self._check_vector_costs,
            "save-and-load": self._check_save_and_load,
            "frozen-normaliser": self._check_frozen_normaliser,
            "resume": self._check_resume,
            "missing-costs": self._check_missing_costs,
            "supported-kinds": self._check_supported_kinds,
            "unsupported-kinds": self._check_unsupported_kinds,
        }
        self.run(checks)
        return SolverCheckReport(self.name, tuple(self.problems), (), tuple(self.checks), tuple(self.skipped))

    def _train(self, *, out: Path | None = None, settings: RunSettings = _SETTINGS, **kwargs: Any) -> TrainResult:
        self._runs += 1
        arguments = {"steps": _STEPS, "seed": self.seed, "options": self.options, "device": "cpu", **kwargs}
        return train(self.name, ENV, out=out or self.folder / f"run-{self._runs}", settings=settings, **arguments)

    def _check_determinism(self) -> None:
        result = self._train()
        first = _weights(result)
        # Whatever a caller did with the process's generators before must not matter.
        th.manual_seed(987)
        np.random.seed(987)  # noqa: NPY002
        if _weights(self._train()) != first:
            self.fail(
                "two trainings with the same seed",
                "end with the same weights",
                "other weights",
                "Draw from generators that the seed alone decides, and call set_random_seed(seed) in _setup_model.",
            )
        other = self._train(seed=self.seed + 1)
        # Parameters alone: the normaliser's statistics differ by themselves.
        if _parameters(other) == _parameters(result):
            self.fail("trainings with different seeds", "differ", "the same weights", "Use the seed.")

    def _check_spaces(self) -> None:
        for kind in KINDS:
            try:
                result = self._train(env_kwargs={"kind": kind})
            except Exception as error:
                text = " ".join(str(error).split())
                self.fail(f"training with spaces of {kind}", "work", f"{type(error).__name__}: {text}", "Support them.")
                continue
            self._check_predictions(kind, load(result.folder))

    def _check_predictions(self, kind: str, policy: Any) -> None:
        space: spaces.Space[Any] = policy.action_space
        batch = _observations(policy.observation_space, 5)
        for deterministic in (True, False):
            actions, _ = policy.predict(batch, deterministic=deterministic)
            if len(actions) != 5 or not all(space.contains(action) for action in actions):
                self.fail(f"predict ({kind})", f"give 5 members of {space} for 5 observations", repr(actions), "Clip.")
        one, other = (policy.predict(batch, deterministic=True)[0] for _ in range(2))
        if not np.array_equal(one, other):
            self.fail(f"predict ({kind}) with deterministic=True", "repeat", "other actions", "Take the mode.")

    def _check_vector_costs(self) -> None:
        model = self._train(steps=4 * _STEPS).model
        if not hasattr(model, "multipliers"):
            raise SkipCheck("it has no multipliers")
        values = np.asarray(model.multipliers)
        if values.shape != (2,):
            self.fail("multipliers", "have shape (2,) for two constraints", str(values.shape), "One per constraint.")
        elif not (values[0] > 0 and values[1] == 0):
            self.fail(
                "multipliers",
                "be positive for a cost above its budget and 0 for one that never occurs",
                f"{values.tolist()} for (always 10 against 2, always 0 against 5)",
                "Estimate and update every constraint by itself.",
            )

    def _check_save_and_load(self) -> None:
        result = self._train(settings=replace(_SETTINGS, normalize_observations=False, normalize_rewards=False))
        obs = _observations(result.model.observation_space, 8)
        expected = result.model.predict(obs, deterministic=True)[0]
        path = self.folder / "model.zip"
        result.model.save(path)
        again = self.solver_class.load(path, device="cpu")
        for what, policy in (("Stable-Baselines3's save and load", again), ("the artefact", load(result.folder))):
            if not np.array_equal(policy.predict(obs, deterministic=True)[0], expected):
                self.fail(what, "keep the policy", "other deterministic actions", "Save every parameter.")

    def _check_frozen_normaliser(self) -> None:
        result = self._train()
        artefact, layer = load(result.folder), unwrap_vec_normalize(result.model.env)
        if layer is None or artefact.normaliser is None:
            self.fail("the artefact", "hold the normaliser of the training", "none", "Train on the env as given.")
            return
        obs = _observations(artefact.observation_space, 8)
        expected = result.model.predict(layer.normalize_obs(obs), deterministic=True)[0]
        before = _weights(result)
        evaluate(result.folder, episodes=2, workers=1)
        for policy in (artefact, load(result.folder)):
            if not np.array_equal(policy.predict(obs, deterministic=True)[0], expected):
                self.fail(
                    "the artefact on raw observations",
                    "act as the model on normalised ones",
                    "other deterministic actions",
                    "Freeze the statistics of VecNormalize as they are when training ends.",
                )
        if _weights(result) != before:
            self.fail("an evaluation", "leave the artefact as it is", "changed weights", "Never train in predict.")

    def _check_resume(self) -> None:
        settings = replace(_SETTINGS, num_checkpoints=4)
        whole = _weights(self._train(settings=settings))
        out = self.folder / "cut"

        def cut(done: int, latest: dict[str, float]) -> None:
            if done >= _STEPS // 2 + 1:
                raise _CutError

        with suppress(_CutError):
            self._train(out=out, settings=settings, progress=cut)
        if _weights(resume(out)) != whole:
            self.fail(
                "a training that is cut and resumed",
                "end with the weights of one that is not",
                "other weights",
                "Add what is missing to get_extra_state and set_extra_state.",
            )

    def _check_missing_costs(self) -> None:
        way_out = "Collect with saferl's base, or read costs with saferl.envs.costs.read_costs."
        try:
            self.solver_class("MlpPolicy", gymnasium.make("CartPole-v1"), **self.options)
        except SaferlError:
            pass
        else:
            self.fail("an env without costs", "be refused", "a model", way_out)
        try:
            self._train(env_kwargs={"silent_after": 30})
        except CostError:
            return
        self.fail("a cost that is missing from step 31 on", "end the training with a CostError", "no error", way_out)

    def _check_supported_kinds(self) -> None:
        for kind in self.solver_class.supported_kinds:
            self._train(constraints=_constraints(kind), steps=2 * self.options.get("n_steps", 20))

    def _check_unsupported_kinds(self) -> None:
        kinds = [kind for kind in CONSTRAINT_KINDS if kind not in self.solver_class.supported_kinds]
        if not kinds:
            raise SkipCheck("it supports every kind")
        for kind in kinds:
            env = saferl.make_vec(ENV, 1, constraints=_constraints(kind))
            try:
                self.solver_class("MlpPolicy", env, **self.options)
            except ConstraintError:
                continue
            finally:
                env.close()
            self.fail(f"a constraint of kind {kind}", "be refused", "a model", "Check kinds with require_kinds.")


def _weights(result: TrainResult) -> bytes:
    return (result.folder / "artefact" / "weights.safetensors").read_bytes()


def _parameters(result: TrainResult) -> bytes:
    return b"".join(p.detach().cpu().numpy().tobytes() for p in result.model.policy.parameters())


def _observations(space: spaces.Space[Any], count: int) -> Any:
    space.seed(5)
    samples = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in space}
    return np.stack(samples)


def _constraints(kind: str) -> ConstraintSet:
    gamma = {"gamma": 0.9} if kind == "discounted" else {}
    budget = 0.5 if kind in ("probability", "step_rate", "statewise") else 2.0
    return ConstraintSet([Constraint("always", budget, kind=kind, max_step_cost=1.0, **gamma)])  # type: ignore[arg-type]
