"""``check_solver`` for solvers that learn from data alone: everything that is wrong, in one list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from saferl.constraints import ConstraintSet
from saferl.data import Dataset, write_dsrl
from saferl.errors import ConfigError, ConstraintError, DataError
from saferl.policy import load
from saferl.policy.offline_artefact import save_offline_artefact
from saferl.solvers.offline.base import OfflineSolver, choose_options
from saferl.solvers.offline.data import Spaces
from saferl.testing.inspection import Inspection, SkipCheck
from saferl.testing.reports import SolverCheckReport
from saferl.training import OfflineSettings, TrainResult, resume, train_offline
from saferl.trees import read_tree, write_tree

_SMALL: dict[str, Any] = {
    "batch_size": 16,
    "critic_batch": 16,
    "actor_batch": 16,
    "net_arch": (8,),
    "critic_arch": (8,),
    "standardise": True,
}
"""Options of every training, as far as a solver has them."""
_STEPS = 8
_EPISODES, _LENGTH = 12, 10
_FEATURES, _ACTIONS = 4, 2


def small_data(*, num_costs: int = 2, has_margins: bool = True, seed: int = 0, scale: float = 1.0) -> Dataset:
    """Twelve episodes of ten steps in a task without dynamics, whose cost sums run from 0 to 10.

    Args:
        num_costs: Constraints.
        has_margins: Whether there are ``h`` and ``next_h``.
        seed: Of everything drawn.
        scale: Actions lie in ``[0, scale]`` and not in [-1, 1] where it is not 1.
    """
    rng = np.random.default_rng(seed)
    count = _EPISODES * _LENGTH
    observations = rng.normal(size=(count + 1, _FEATURES))
    actions = rng.uniform(-1.0, 1.0, size=(count, _ACTIONS))
    rates = np.repeat(np.linspace(0.0, 1.0, _EPISODES), _LENGTH)[:, None]
    costs = (rng.random((count, num_costs)) < rates).astype(np.float32)
    timeouts = np.zeros(count, dtype=bool)
    timeouts[_LENGTH - 1 :: _LENGTH] = True
    margins = np.concatenate([2.0 * costs - 1.0, -np.ones((1, num_costs))])
    return Dataset.from_arrays(
        observations=observations[:-1],
        next_observations=observations[1:],
        actions=actions if scale == 1.0 else 0.5 * scale * (actions + 1.0),
        rewards=actions[:, 0] + observations[:-1, 0],
        costs=costs,
        terminals=np.zeros(count, dtype=bool),
        timeouts=timeouts,
        h=margins[:-1] if has_margins else None,
        next_h=margins[1:] if has_margins else None,
        cost_names=tuple(f"cost_{index}" for index in range(num_costs)),
    )


class _CutError(Exception):
    """Ends a training in the middle."""


class OfflineInspection(Inspection):
    """Runs the checks on one offline solver and collects what they find."""

    subject = "the solver"

    def __init__(self, name: str, solver_class: type[OfflineSolver], seed: int, folder: Path) -> None:
        """Check the solver that is registered as ``name``, with files below ``folder``."""
        super().__init__()
        self.name, self.solver_class, self.seed, self.folder = name, solver_class, seed, folder
        known = {field.name for field in fields(solver_class.config_class)}
        self.preset = "small" if "small" in solver_class.presets else None
        self.options = {key: value for key, value in _SMALL.items() if key in known}

    def report(self) -> SolverCheckReport:
        """Run everything."""
        checks: Mapping[str, Callable[[], None]] = {
            "determinism": self._check_determinism,
            "spaces": self._check_spaces,
            "batches": self._check_batches,
            "generators": self._check_generators,
            "lanes": self._check_lanes,
            "vector-costs": self._check_vector_costs,
            "save-and-load": self._check_save_and_load,
            "resume": self._check_resume,
            "cut-run": self._check_cut_run,
            "missing-margins": self._check_missing_margins,
            "missing-budgets": self._check_missing_budgets,
            "budgets-at-run-time": self._check_budgets_at_run_time,
            "density": self._check_density,
        }
        self.run(checks)
        return SolverCheckReport(self.name, tuple(self.problems), (), tuple(self.checks), tuple(self.skipped))

    def _budgets(self, data: Dataset) -> dict[str, float]:
        return {name: 5.0 + index for index, name in enumerate(data.cost_names)}

    def _new(self) -> OfflineSolver:
        return self.solver_class(choose_options(self.solver_class, self.preset, self.options))

    def _started(self, data: Dataset | None = None, **kwargs: Any) -> OfflineSolver:
        data = small_data() if data is None else data
        model = self._new()
        model.start(data, **{"seed": self.seed, "budgets": self._budgets(data), **kwargs})
        return model

    def _trained(self, data: Dataset | None = None, **kwargs: Any) -> OfflineSolver:
        model = self._started(data, **kwargs)
        metrics = model.advance(_STEPS).metrics
        bad = [key for key, value in metrics.items() if not np.isfinite(value)]
        if not metrics or bad:
            self.fail("update", "log finite numbers", f"{bad or 'nothing'}", "Return a dict of floats.")
        return model

    def _check_determinism(self) -> None:
        first = _weights(self._trained())
        th.manual_seed(987)
        np.random.seed(987)  # noqa: NPY002 - whatever a caller did with these before must not matter
        before = th.get_rng_state()
        if _weights(self._trained()) != first:
            self.fail(
                "two trainings with the same seed",
                "end with the same weights",
                "other weights",
                "Draw from self.generator, from a numpy generator of the seed, or from torch's global one in update.",
            )
        if not th.equal(th.get_rng_state(), before):
            self.fail("a training", "leave torch's global generator alone", "it moved", "Do not seed it in build.")
        if _weights(self._trained(seed=self.seed + 1)) == first:
            self.fail("trainings with different seeds", "differ", "the same weights", "Use the seed.")

    def _check_spaces(self) -> None:
        action = spaces.Box(np.zeros(_ACTIONS, np.float32), np.full(_ACTIONS, 10.0, np.float32))
        parts = spaces.Dict({"a": spaces.Box(-9.0, 9.0, (2,)), "b": spaces.Box(-9.0, 9.0, (2, 1))})
        for observation in (spaces.Box(-9.0, 9.0, (2, 2)), parts):
            known = Spaces(observation, action, "environment")
            actor = self._trained(small_data(scale=10.0), known_spaces=known).actor()
            batch = _observations(observation, 5)
            for deterministic in (True, False):
                actions, _ = actor.predict(batch, deterministic=deterministic)
                if len(actions) != 5 or not all(action.contains(row) for row in actions):
                    self.fail("predict", f"give 5 members of {action} for 5 observations", repr(actions), "Clip.")

    def _check_batches(self) -> None:
        actor = self._trained().actor()
        batch = _observations(actor.observation_space, 5)
        together = actor.predict(batch, deterministic=True)[0]
        if not np.array_equal(together, actor.predict(batch, deterministic=True)[0]):
            self.fail("predict with deterministic=True", "repeat", "other actions", "Take the mode.")
        alone = np.stack([actor.predict(row, deterministic=True)[0] for row in batch])
        if not np.allclose(together, alone, atol=1e-4):
            self.fail("predict on a batch", "act as on single observations", "other actions", "Keep rows apart.")

    def _check_generators(self) -> None:
        actor = self._trained().actor()
        batch = _observations(actor.observation_space, 4)
        order = np.array([2, 0, 3, 1])

        def draws(rows: Any) -> Any:
            generators = [np.random.default_rng([7, int(row)]) for row in rows]
            return actor.act(batch[rows], actor.begin(4), generators, deterministic=False)

        if not np.allclose(draws(np.arange(4))[order], draws(order), atol=1e-4):
            self.fail(
                "act with generators", "draw row i from generators[i] alone", "other actions in another order",
                "Draw each row's numbers from its own generator.",
            )  # fmt: skip

    def _check_lanes(self) -> None:
        actor = self._trained().actor()
        if not actor.is_stateful:
            raise SkipCheck("it has no state")
        steps = [_observations(actor.observation_space, 3, seed=step) for step in range(4)]

        def roll(rows: list[int], *, restarted: bool) -> Any:
            state = actor.begin(len(rows))
            if restarted:
                actor.act(steps[3][rows], state, None, deterministic=True)
                actor.observe(state, np.ones(len(rows)), np.ones((len(rows), 2)), np.ones(len(rows), dtype=bool))
                actor.restart(state, np.arange(len(rows)))
            taken = []
            for obs in steps:
                taken.append(actor.act(obs[rows], state, None, deterministic=True))
                costs = np.tile([1.0, 0.0], (len(rows), 1))
                actor.observe(state, np.asarray(rows, dtype=float), costs, np.zeros(len(rows), dtype=bool))
            return np.stack(taken)

        together = roll([0, 1, 2], restarted=False)
        for row in range(3):
            if not np.allclose(together[:, row], roll([row], restarted=False)[:, 0], atol=1e-4):
                self.fail("a lane", "act as if it were alone", "other actions", "Keep the lanes' states apart.")
        if not np.allclose(together, roll([0, 1, 2], restarted=True), atol=1e-4):
            self.fail("restart", "forget the episode before", "other actions", "Clear the rows as begin makes them.")

    def _check_vector_costs(self) -> None:
        for count in (1, 3):
            actor = self._trained(small_data(num_costs=count)).actor()
            if len(actor.cost_names) != count:
                self.fail("the policy", f"know {count} costs", str(actor.cost_names), "Do not sum them.")

    def _check_save_and_load(self) -> None:
        model = self._trained()
        folder = save_offline_artefact(self.folder / "artefact", model.actor(), ConstraintSet(), {})
        batch = _observations(model.actor().observation_space, 8)
        expected = model.predict(batch, deterministic=True)[0]
        if not np.array_equal(load(folder).predict(batch, deterministic=True)[0], expected):
            self.fail("the artefact", "keep the policy", "other deterministic actions", "Put everything into arch.")

    def _check_resume(self) -> None:
        whole = _weights(self._trained())
        half = self._started()
        half.advance(_STEPS // 2)
        write_tree(self.folder, "half", half.state_dict())
        again = self._started()
        again.load_state_dict(read_tree(self.folder, "half"))
        again.advance(_STEPS - _STEPS // 2)
        if _weights(again) != whole:
            self.fail(
                "a training that goes on from state_dict",
                "end with the weights of one that was not cut",
                "other weights",
                "Keep every network, optimiser and generator; add counters to state_dict and load_state_dict.",
            )

    def _run(self, out: Path, progress: Any = None) -> TrainResult:
        data = self.folder / "data.hdf5"
        if not data.exists():
            write_dsrl(small_data(), data)
        return train_offline(
            self.name,
            data,
            out=out,
            steps=_STEPS,
            seed=self.seed,
            budgets=self._budgets(small_data()),
            preset=self.preset,
            options=self.options,
            settings=OfflineSettings(num_checkpoints=4, log_every=1),
            progress=progress,
        )

    def _check_cut_run(self) -> None:
        def cut(done: int, latest: Mapping[str, float]) -> None:
            if done == _STEPS // 2 + 1:
                raise _CutError

        whole = self._run(self.folder / "whole")
        with suppress(_CutError):
            self._run(self.folder / "cut", cut)
        resume(self.folder / "cut")
        for name in ("artefact/weights.safetensors",):
            if (self.folder / "cut" / name).read_bytes() != (whole.folder / name).read_bytes():
                self.fail("a run that is cut and resumed", f"leave the same {name}", "another one", "See resume.")

    def _check_missing_margins(self) -> None:
        data = small_data(has_margins=False)
        if not self.solver_class.needs_margins:
            self._trained(data)
            return
        try:
            self._started(data)
        except DataError:
            return
        self.fail("data without h", "be refused with a DataError", "a solver", "Raise it in build.")

    def _check_missing_budgets(self) -> None:
        if not self.solver_class.needs_budgets:
            self._trained(budgets=None)
            return
        try:
            self._started(budgets=None)
        except ConstraintError:
            return
        self.fail("a training without budgets", "be refused with a ConstraintError", "a solver", "Raise it in build.")

    def _check_budgets_at_run_time(self) -> None:
        actor = self._trained().actor()
        batch = _observations(actor.observation_space, 5)
        if not actor.policy.takes_budgets:
            try:
                actor.with_budgets({"cost_0": 3.0})
            except ConfigError:
                return
            self.fail("with_budgets", "refuse, as it takes none", "a policy", "Set takes_budgets.")
        for budgets in ({"cost_0": 1.0, "cost_1": 1.0}, {"cost_0": 9.0, "cost_1": 9.0}):
            actions = actor.with_budgets(budgets).predict(batch, deterministic=True)[0]
            if not all(actor.action_space.contains(row) for row in actions):
                self.fail(f"predict at {budgets}", f"give members of {actor.action_space}", repr(actions), "Clip.")

    def _check_density(self) -> None:
        policy = self._trained().policy()
        if not policy.has_density:
            raise SkipCheck("its policy has no density")
        data = small_data()
        values = policy.log_prob(th.from_numpy(data.observations), th.from_numpy(0.99 * data.actions))
        if values.shape != (len(data),) or not th.isfinite(values).all():
            self.fail("log_prob", f"give {len(data)} finite numbers", f"shape {tuple(values.shape)}", "Sum the action.")


def _weights(model: OfflineSolver) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.policy().state_dict().values())


def _observations(space: spaces.Space[Any], count: int, *, seed: int = 5) -> Any:
    rng = np.random.default_rng(seed)
    if isinstance(space, spaces.Dict):
        return {key: _observations(part, count, seed=seed) for key, part in space.spaces.items()}
    return rng.normal(size=(count, *(space.shape or ()))).astype(np.float32)
