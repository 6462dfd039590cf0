"""Checkpoints: everything that a cut training needs to end with the same bits, written whole or not at all.

```
step-000102400/
  checkpoint.json                   schema, what the run is, versions, sha256 of every other file
  state.json, state.safetensors     saferl.training.state, and the state of the run's callbacks
  artefact/                         the policy at this step, to evaluate
```
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from saferl.constraints import ConstraintSet
from saferl.errors import RunFolderError
from saferl.policy.artefact import save_artefact
from saferl.storage import atomic_folder, read_json, remove_folder, sha256, write_json
from saferl.training.state import restore_training_state, training_state
from saferl.trees import read_tree, write_tree

SCHEMA = "saferl.checkpoint/1"
HEADER = "checkpoint.json"
KEPT = 2
IDENTITY = (
    "run_id",
    "solver",
    "env",
    "env_kwargs",
    "cost",
    "seed",
    "steps",
    "constraints",
    "train_budgets",
    "config",
    "settings",
    "shield",
    "dataset",
)
"""The keys of ``run.json`` that a checkpoint repeats: it belongs to a run that has the same ones."""
Provenance = Callable[[int], dict[str, Any]]


class Checkpoints(BaseCallback):
    """Writes a checkpoint at the first rollout start after every so many steps, and keeps the newest two.

    Environments without a state of their own are reset first, with a seed from (seed of the run, number of the
    checkpoint): they then go on in the same way in this run and in one that is resumed from here. Their open episodes
    are cut; the value of the state where they were cut has been bootstrapped, as at any truncation.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        record: Mapping[str, Any],
        constraints: ConstraintSet,
        provenance: Provenance,
        state_of_run: Callable[[], dict[str, Any]],
    ) -> None:
        """Write below ``folder``; ``record`` is the content of ``run.json``."""
        super().__init__()
        self._folder, self._every, self._record = folder, every, record
        self._constraints, self._provenance, self._state_of_run = constraints, provenance, state_of_run
        self.number = 0
        self.next = every

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps < self.next:
            return
        self.next = self.num_timesteps - self.num_timesteps % self._every + self._every
        self.number += 1
        self._reset_stateless_envs()
        self.write()
        for old in checkpoint_folders(self._folder)[:-KEPT]:
            remove_folder(old)

    def _reset_stateless_envs(self) -> None:
        if self.training_env.venv_with_costs.get_states() is not None:  # type: ignore[attr-defined]
            return
        if hasattr(self.model, "drop_open_episodes"):
            self.model.drop_open_episodes()
        self.model._last_obs = reset_envs(self.training_env, self._record["seed"], self.number)
        self.model._last_episode_starts = np.ones(self.training_env.num_envs, dtype=bool)

    def write(self) -> None:
        """Write the checkpoint of this moment."""
        steps = self.num_timesteps
        with atomic_folder(self._folder / f"step-{steps:09d}") as temporary:
            save_artefact(temporary / "artefact", self.model, self._constraints, self._provenance(steps))
            state = {
                "training": training_state(self.model),
                "run": self._state_of_run(),
                "checkpoints": {"number": self.number, "next": self.next},
            }
            write_tree(temporary, "state", state)
            files = sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file())
            write_json(
                temporary / HEADER,
                {
                    "schema": SCHEMA,
                    "steps": steps,
                    "run": {key: self._record.get(key) for key in IDENTITY},
                    "versions": self._record["versions"],
                    "sha256": {name: sha256(temporary / name) for name in files},
                },
            )


def reset_envs(env: Any, seed: int, number: int) -> Any:
    """Reset environments that have no state at checkpoint ``number`` of a run with ``seed``; the first observations."""
    # Training episodes are seeded apart from the evaluation's fixed list.
    env.seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0] % 9_000_000))
    return env.reset()


class Checkpoint:
    """A checkpoint that was read and found whole."""

    def __init__(self, folder: Path) -> None:
        """Read ``folder``.

        Raises:
            RunFolderError: a file is missing, changed, or of another schema.
        """
        self.folder = folder
        self.header = read_json(folder / HEADER, what="The header of a checkpoint")
        if not isinstance(self.header, dict) or self.header.get("schema") != SCHEMA:
            got = self.header.get("schema") if isinstance(self.header, dict) else type(self.header).__name__
            raise RunFolderError(f"{folder / HEADER} must have schema {SCHEMA!r}; got {got!r}. Use a matching saferl.")
        for name, expected in self.header["sha256"].items():
            file = folder / name
            if not file.is_file():
                raise RunFolderError(f"The checkpoint {folder} is incomplete: {name} is missing.")
            if sha256(file) != expected:
                raise RunFolderError(f"{file} was changed after it was written: its sha256 is another one.")
        self.state = read_tree(folder, "state")

    @property
    def steps(self) -> int:
        """Environment steps done."""
        return int(self.header["steps"])

    def require_same_run(self, record: Mapping[str, Any]) -> None:
        """Raise if it belongs to another run than ``record``, the content of ``run.json``."""
        own = self.header["run"]
        different = [key for key in IDENTITY if own.get(key) != record.get(key)]
        if different:
            names = "; ".join(
                f"{key} is {own.get(key)!r} in it and {record.get(key)!r} in the run" for key in different
            )
            raise RunFolderError(
                f"The checkpoint {self.folder} is not of this run: {names}. Put back the folder that belongs here, or "
                "start from its policy with --init-from."
            )

    def restore(self, model: Any, checkpoints: Checkpoints | None) -> dict[str, Any]:
        """Bring ``model`` to the state, and give that of the run's other callbacks."""
        training, own = self.state["training"], self.state["checkpoints"]
        if training["wrappers"][-1]["envs"] is None:
            reset_envs(model.env, self.header["run"]["seed"], own["number"])
        restore_training_state(model, training)
        if checkpoints is not None:
            checkpoints.number, checkpoints.next = own["number"], own["next"]
        return dict(self.state["run"])


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint in ``folder``; None if there is none at all.

    A damaged one is passed over with a warning, as the one before it leads to the same end.

    Raises:
        RunFolderError: there are checkpoints, and all are damaged.
    """
    damage: list[str] = []
    for path in reversed(checkpoint_folders(folder)):
        try:
            checkpoint = Checkpoint(path)
        except (RunFolderError, KeyError, TypeError, AttributeError) as error:
            damage.append(str(error))
            continue
        for text in damage:
            warnings.warn(f"{text} Going on from the checkpoint before it, {path.name}.", stacklevel=2)
        return checkpoint
    if damage:
        raise RunFolderError(
            f"No checkpoint in {folder} is whole, so this run cannot go on: {' '.join(damage)} Nothing was changed. "
            "Train again into a new folder."
        )
    return None


def new_run_id(record: Mapping[str, Any], started: float) -> str:
    """A name for one run, which tells its checkpoints from those of other runs."""
    return hashlib.sha256(repr((sorted(record.items(), key=str), started)).encode()).hexdigest()[:16]


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())
