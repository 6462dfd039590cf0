"""Units of work of a collection: each runs in one process, writes whole shards and goes on where it was cut."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch as th

from saferl.collection.episodes import Act, Arrays, noisy, record_episodes, require_box, uniform
from saferl.collection.plan import Agent
from saferl.constraints import ConstraintSet
from saferl.envs.core import find_spec, make
from saferl.envs.vector import make_vec
from saferl.errors import RunFolderError
from saferl.policy.artefact import load
from saferl.registry import load_object
from saferl.solvers import SOLVERS
from saferl.storage import read_json
from saferl.training import resume, train
from saferl.training.recipes import find_recipe
from saferl.training.settings import split_assignments

_LANES = 16
_SHARD = 48
"""Episodes of a scripted shard."""
_UNKNOWN_HORIZON = 1000


@dataclass(frozen=True)
class _Unit:
    """What every unit knows."""

    work: Path
    """Working folder of the collection."""
    env_id: str
    """Name of the environment."""
    env_kwargs: Mapping[str, Any]
    """Its arguments."""
    seed: int
    """Of everything in the unit."""

    @property
    def horizon(self) -> int:
        """Steps of an episode, at most or as a guess."""
        spec = find_spec(self.env_id)
        return (spec.horizon if spec is not None else None) or _UNKNOWN_HORIZON

    def record(self, name: str, behaviour: str, act: Any, episodes: int, seed: int) -> None:
        """Write the shard ``name`` unless it is there; ``act`` is called with the action space and gives an Act."""
        if _shard(self.work, name).exists():
            return
        envs = make_vec(self.env_id, min(_LANES, episodes), **self.env_kwargs)
        try:
            chosen: Act = act(require_box(self.env_id, envs))
            write_shard(self.work, name, behaviour, record_episodes(envs, chosen, episodes, seed))
        finally:
            envs.close()


@dataclass(frozen=True)
class UniformActions(_Unit):
    """Uniformly random actions."""

    episodes: int
    """How many."""

    @property
    def steps(self) -> int:
        """Environment steps, at most."""
        return self.episodes * self.horizon

    def run(self) -> None:
        """Collect."""
        th.set_num_threads(1)
        self.record("random", "random", uniform, self.episodes, self.seed)
        note_progress(self.work, "random", self.steps)


@dataclass(frozen=True)
class Scripted(_Unit):
    """A function that collects by rule."""

    function: str
    """``package.module:function``, called with ``episodes`` and ``seed``."""
    episodes: int
    """How many."""

    @property
    def steps(self) -> int:
        """Environment steps, at most."""
        return self.episodes * self.horizon

    def run(self) -> None:
        """Collect."""
        collect = load_object(self.function)
        for index, first in enumerate(range(0, self.episodes, _SHARD)):
            name = f"scripted-{index:04d}"
            if not _shard(self.work, name).exists():
                count = min(_SHARD, self.episodes - first)
                arrays = dict(collect(episodes=count, seed=int(self.seed + index)))
                labels = arrays.pop("behaviours", None)
                write_shard(self.work, name, "scripted", arrays, labels=labels)
            note_progress(self.work, "scripted", min(first + _SHARD, self.episodes) * self.horizon)


@dataclass(frozen=True)
class Agents(_Unit):
    """The chain of one agent: train a stage, collect with it at every level of noise, go on to the next."""

    agent: Agent
    """The chain."""
    noise: tuple[float, ...]
    """Levels of noise."""
    episodes: int
    """Per stage and level of noise."""

    @property
    def steps(self) -> int:
        """Environment steps of training and collecting, at most."""
        return sum(self.agent.steps) + len(self.agent.steps) * len(self.noise) * self.episodes * self.horizon

    def run(self) -> None:
        """Train and collect."""
        th.set_num_threads(1)
        folder = self.work / "agents" / self.agent.name
        previous: Path | None = None
        done = 0
        for stage, steps in enumerate(self.agent.steps):
            run = folder / f"stage-{stage}"
            before = done
            self._train(run, stage, steps, previous, lambda now, _, before=before: self._note(before + now))
            done += steps
            policy = load(run)
            for level, noise in enumerate(self.noise):
                name = f"{self.agent.name}-{stage}-{level}"
                seed = int(np.random.SeedSequence([self.seed, stage, level]).generate_state(1)[0])

                def act(space: Any, noise: float = noise, policy: Any = policy) -> Act:
                    return noisy(policy, space, noise)

                self.record(name, f"{self.agent.name}/{stage}/noise={noise:g}", act, self.episodes, seed)
                done += self.episodes * self.horizon
                self._note(done)
            previous = run

    def _note(self, steps: int) -> None:
        note_progress(self.work, self.agent.name, steps)

    def _train(self, run: Path, stage: int, steps: int, previous: Path | None, progress: Any) -> None:
        if (run / "run.json").exists():
            if read_json(run / "run.json", what="A run").get("status") != "finished":
                resume(run, progress=progress)
            return
        agent = self.agent
        recipe = find_recipe(self.env_id)
        base = recipe.options_for(agent.solver) if recipe is not None else {}
        options, settings = split_assignments([], SOLVERS.load(agent.solver).config_class, {**base, **agent.options})
        names = constraints_of(self.env_id, self.env_kwargs).names
        train(
            agent.solver,
            self.env_id,
            steps=steps,
            out=run,
            seed=int(np.random.SeedSequence([self.seed, stage]).generate_state(1)[0] % 2**31),
            train_budgets=None if agent.budgets is None else dict.fromkeys(names, agent.budgets[stage]),
            env_kwargs=self.env_kwargs,
            options=asdict(options),
            settings=settings,
            init_from=previous,
            progress=progress,
        )


def constraints_of(env_id: str, env_kwargs: Mapping[str, Any]) -> ConstraintSet:
    """The constraints that an environment has by default."""
    env = make(env_id, **env_kwargs)
    try:
        return env.constraints
    finally:
        env.close()


def write_shard(work: Path, name: str, behaviour: str, arrays: Arrays, *, labels: Any = None) -> None:
    """Write episodes and who collected each, whole or not at all."""
    ends = int(np.sum(arrays["terminals"] | arrays["timeouts"]))
    who = np.array([behaviour] * ends if labels is None else list(labels), dtype=np.str_)
    path = _shard(work, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, behaviours=who, **arrays)
    temporary.replace(path)


def read_shards(work: Path) -> tuple[Arrays, list[str]]:
    """All shards in the order of their names, concatenated, and who collected each episode.

    Raises:
        RunFolderError: a shard that cannot be read.
    """
    parts: list[Arrays] = []
    behaviours: list[str] = []
    for path in sorted((work / "shards").glob("*.npz")):
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
        except (OSError, ValueError, BadZipFile) as error:
            raise RunFolderError(f"The shard {path} cannot be read ({error}). Remove it and collect again.") from error
        behaviours += arrays.pop("behaviours").tolist()
        parts.append(arrays)
    # Margins and the like are kept only where every behaviour knows them.
    common = set.intersection(*(set(part) for part in parts))
    return {key: np.concatenate([part[key] for part in parts]) for key in sorted(common)}, behaviours


def note_progress(work: Path, unit: str, steps: int) -> None:
    """Say how many steps a unit has done."""
    folder = work / "progress"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / unit).write_text(str(steps), encoding="utf-8")


def read_progress(work: Path) -> int:
    """Steps that all units have done."""
    total = 0
    for path in (work / "progress").glob("*"):
        text = path.read_text(encoding="utf-8")
        total += int(text) if text.isdecimal() else 0  # a note that is being written is empty
    return total


def _shard(work: Path, name: str) -> Path:
    return work / "shards" / f"{name}.npz"
