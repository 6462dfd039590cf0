"""``evaluate``: a policy, an environment and a fixed list of seeds give records, a summary and a folder."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cloudpickle
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from saferl.constraints import ConstraintSet
from saferl.deploy.channels import split_channels
from saferl.deploy.controller import ShieldedController, has_shield, shield_of
from saferl.deploy.sources import ShieldSource, find_shield, shield_name
from saferl.envs.adapters import CostContract, CostFn
from saferl.envs.core import EnvFactory, make
from saferl.errors import ConfigError, EnvContractError
from saferl.evaluation.episodes import BLOCK, BlockRunner, EpisodeRecord, Policy, Shielding
from saferl.evaluation.shielding import summarise_shield
from saferl.evaluation.summary import summarise
from saferl.policy.artefact import PolicyArtefact, load
from saferl.policy.offline_artefact import OfflineArtefact
from saferl.policy.random import RandomPolicy
from saferl.policy.standalone import standalone
from saferl.storage import prepare_output, write_json, write_text

EVALUATION_SEED = 10_000_000
"""First seed of reported evaluations; training and validation never use seeds from here on."""
VALIDATION_SEED = 20_000_000
"""First seed of the evaluations that choose ``artefact-best``."""

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    records: tuple[EpisodeRecord, ...]
    """Episodes in the order of their seeds."""
    summary: dict[str, Any]
    """The content of ``summary.json``."""
    folder: Path | None = None
    """Where it was written."""

    @property
    def verdicts(self) -> dict[str, str]:
        """Verdict by constraint name."""
        return {name: entry["verdict"] for name, entry in self.summary["constraints"].items()}


def evaluate(
    policy: Policy | str | Path,
    env_id: str | EnvFactory | None = None,
    *,
    episodes: int = 300,
    deterministic: bool = False,
    first_seed: int = EVALUATION_SEED,
    budgets: Mapping[str, float] | None = None,
    constraints: ConstraintSet | None = None,
    cost: CostFn | str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    shield: ShieldSource | Literal["none"] | None = None,
    label: str | None = None,
    out: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run ``policy`` for a fixed number of episodes and assess every constraint.

    Results depend on the policy, the environment and the seeds alone, not on ``workers``.

    Args:
        policy: Anything with Stable-Baselines3's ``predict`` on raw observations, or the path of an artefact or run.
            Of a Stable-Baselines3 algorithm the policy is taken, with the statistics of the VecNormalize around its
            environments as they are now.
        env_id: As for :func:`saferl.make`; an artefact's own environment if None.
        episodes: Number of episodes, fixed beforehand: the bounds are not valid if one stops when it looks good.
        deterministic: Mean or mode actions instead of sampled ones (of a stochastic optimum, a different policy).
        first_seed: Episode i uses seed ``first_seed + i``.
        budgets: Budgets to judge by; an artefact's own if None.
        constraints: Full constraints instead of ``budgets``.
        cost: Cost function for an environment that reports none.
        env_kwargs: More arguments of :func:`saferl.make`.
        shield: What filters the policy's actions: a :class:`saferl.shields.Shield`, the name of one, a folder,
            ``package.module:factory`` or a factory (called with the environment). None: a controller's own, else none;
            ``"none"``: none. A shield acts as in :class:`saferl.deploy.ShieldedEnv`; without one, budgets for
            interventions are left out.
        label: Name of the policy in reports.
        out: New folder for ``episodes.jsonl`` and ``summary.json``; nothing is written if None.
        workers: Processes; 1 runs in this one. Default: the usable cores, at most one per block of 16 episodes.
        progress: Called with the number of episodes finished since the last call.

    Raises:
        ConfigError: an argument out of range, a policy for other spaces, or one that cannot go to several processes.
        ArtefactError: no artefact at the path, or a damaged one.
    """
    if episodes < 1:
        raise ConfigError(f"The number of episodes must be at least 1; got {episodes}.")
    if first_seed < 0:
        raise ConfigError(f"The first seed must be at least 0; got {first_seed}.")
    if workers is not None and workers < 1:
        raise ConfigError(f"The number of workers must be at least 1; got {workers}.")
    artefact: Any = load(policy) if isinstance(policy, str | Path) else policy
    artefact, shield = _separate(artefact, shield)
    if deterministic and isinstance(artefact, RandomPolicy):
        raise ConfigError("The random policy has no deterministic actions. Leave deterministic (--deterministic) out.")
    own = artefact.provenance if isinstance(artefact, PolicyArtefact) else {}
    if env_id is None:
        env_id = own.get("env")
        if env_id is None:
            raise ConfigError("This policy does not say which environment it is for. Give env_id (--env ID).")
        cost = cost if cost is not None else own.get("cost")
        env_kwargs = {**own.get("env_kwargs", {}), **(env_kwargs or {})}
        if constraints is None and isinstance(artefact, PolicyArtefact) and len(artefact.constraints):
            budgets, constraints = _judged_by(artefact.constraints, budgets)
    budgets, constraints, channels = split_channels(budgets, constraints)
    make_env = functools.partial(
        make, env_id, budgets=budgets, constraints=constraints, cost=cost, **dict(env_kwargs or {})
    )
    probe = make_env()
    _check_spaces(probe, artefact)
    shielding = None if shield is None else Shielding(find_shield(shield, probe), channels)
    judged = probe.constraints if shielding is None else ConstraintSet([*probe.constraints, *channels])
    artefact = _at_budgets(artefact, judged)
    horizon, name = probe.horizon, probe.env_id
    probe.close()
    folder = prepare_output(Path(out), what="an evaluation") if out is not None else None
    if isinstance(artefact, PolicyArtefact):
        _ = artefact.evaluations  # a counter that cannot be read is found before the work, not after it
    start = time.perf_counter()
    source: Policy | Path = artefact.path if type(artefact) is PolicyArtefact else _acting_part(artefact)
    blocks = [
        (i, list(range(first_seed + i, first_seed + min(i + BLOCK, episodes)))) for i in range(0, episodes, BLOCK)
    ]
    count = min(workers or len(os.sched_getaffinity(0)), len(blocks))
    records: list[EpisodeRecord] = []
    run = _run_here if count == 1 else functools.partial(_run_in_processes, count=count)
    for part in run((make_env, source, deterministic, shielding), blocks):
        records += part
        if progress is not None:
            progress(len(part))
    records.sort(key=lambda record: record.episode)
    about = {
        "env": name,
        "env_kwargs": json.loads(json.dumps(dict(env_kwargs or {}), default=str)),
        "deterministic": deterministic,
        "seeds": {"first": first_seed, "count": episodes},
        "checkpoint": _checkpoint_of(artefact),
        "policy": _policy_facts(artefact, label),
        "shield": None
        if shielding is None or shield is None
        else summarise_shield(
            [r.shield for r in records if r.shield is not None], shielding.shield, name=shield_name(shield)
        ),
    }
    summary = summarise(records, judged, horizon=horizon, about=about)
    summary["duration_s"] = round(time.perf_counter() - start, 3)
    if folder is not None:
        lines = "".join(json.dumps(record.to_dict(), allow_nan=False) + "\n" for record in records)
        write_text(folder / "episodes.jsonl", lines)
        write_json(folder / "summary.json", summary)
    return Evaluation(tuple(records), summary, folder)


Blocks = list[tuple[int, list[int]]]
Work = tuple[Callable[[], CostContract], Policy | Path, bool, Shielding | None]
"""What makes an environment, the policy or its path, whether it acts deterministically, and its shield."""


def _separate(policy: Any, shield: Any) -> tuple[Any, ShieldSource | None]:
    """The policy and the shield of an evaluation; a controller brings its own, unless another or none is asked for."""
    own: ShieldSource | None = None
    if isinstance(policy, ShieldedController):
        policy, own = policy.policy, policy.shield
    elif isinstance(policy, PolicyArtefact) and has_shield(policy):
        own = shield_of(policy)
    if isinstance(shield, str) and shield == "none":
        return policy, None
    return policy, own if shield is None else shield


def _run_here(work: Work, blocks: Blocks) -> Iterator[list[EpisodeRecord]]:
    threads = th.get_num_threads()
    th.set_num_threads(1)
    runner = None
    try:
        # Blocks seed torch's global generator: the caller's random numbers (or its training) go on as if none had run.
        with th.random.fork_rng(devices=[]):
            runner = _runner(work)
            for first, seeds in blocks:
                yield runner.run(first, seeds)
    finally:
        if runner is not None:
            runner.close()
        th.set_num_threads(threads)


def _runner(work: Work) -> BlockRunner:
    make_env, source, deterministic, shielding = work
    policy = load(source) if isinstance(source, Path) else source
    return BlockRunner(make_env, policy, deterministic=deterministic, shielding=shielding)


def _run_in_processes(work: Work, blocks: Blocks, *, count: int) -> Iterator[list[EpisodeRecord]]:
    try:
        payload = cloudpickle.dumps(work)
    except (TypeError, AttributeError, NotImplementedError, pickle.PicklingError) as error:
        also = "" if work[3] is None else f", with its shield {work[3].shield.unit},"
        raise ConfigError(
            f"The policy, and what makes its environment, must go to {count} processes; {type(work[1]).__name__}{also} "
            f"cannot be pickled ({error}). Evaluate with workers=1 (--workers 1), or save it as an artefact."
        ) from error
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(payload,))
    try:
        for future in as_completed([pool.submit(_run_block, first, seeds) for first, seeds in blocks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise EnvContractError("A process of the evaluation died. Run with --workers 1 to see why.") from error
    finally:
        pool.shutdown(cancel_futures=True)


_payload: bytes | None = None


def _start_worker(payload: bytes) -> None:
    global _payload
    _payload = payload
    th.set_num_threads(1)


@functools.cache
def _worker_runner() -> BlockRunner:
    # Built in the first task, not in the initializer, so that its errors reach the parent.
    return _runner(cloudpickle.loads(_payload or b""))


def _run_block(first: int, seeds: list[int]) -> list[EpisodeRecord]:
    return _worker_runner().run(first, seeds)


def _judged_by(
    own: ConstraintSet, budgets: Mapping[str, float] | None
) -> tuple[Mapping[str, float] | None, ConstraintSet | None]:
    """Budgets or constraints for ``make``: the policy's own constraints, at other budgets where they are given.

    A budget for a cost that the policy was not trained at is left to the environment, which may know it.
    """
    if not budgets:
        return None, own
    if any(name not in own.names for name in budgets):
        return budgets, None
    return None, ConstraintSet(own[name] for name in budgets).with_budgets(budgets)


def _at_budgets(policy: Any, judged: ConstraintSet) -> Any:
    """``policy`` acting at the budgets that it is judged by, where it takes budgets at run time."""
    if not (isinstance(policy, OfflineArtefact) and policy.takes_budgets):
        return policy
    limits = [c for c in judged if c.kind == "episode_sum" and c.sense == "<=" and c.name in policy.cost_names]
    return policy.with_budgets({c.name: c.budget for c in limits}) if limits else policy


def _acting_part(policy: Any) -> Policy:
    """``policy`` without environments, which worker processes could not take over and which have no part in acting."""
    return standalone(policy) if isinstance(policy, BaseAlgorithm | BasePolicy) else policy


def _check_spaces(env: CostContract, policy: Any) -> None:
    if not isinstance(policy, PolicyArtefact):
        return
    if isinstance(policy, OfflineArtefact) and not policy.knows_its_spaces:
        _check_widths(env, policy)
        return
    for what, needed, got in (
        ("observations", policy.observation_space, env.observation_space),
        ("actions", policy.action_space, env.action_space),
    ):
        if needed != got:
            raise ConfigError(
                f"The policy {policy.path} is for {what} in {needed}; {env.env_id} has {got}. "
                "Evaluate it on the environment it was trained on, or train one for this."
            )


def _check_widths(env: CostContract, policy: OfflineArtefact) -> None:
    """Raise if a policy whose data named no environment has another number of inputs or outputs than ``env``."""
    for what, needed, got in (
        ("observations", policy.observation_space, env.observation_space),
        ("actions", policy.action_space, env.action_space),
    ):
        if not isinstance(got, spaces.Box) or needed.shape != got.shape:
            raise ConfigError(
                f"The policy {policy.path} is for {what} of shape {needed.shape}, as its data have them; {env.env_id} "
                f"has {got}. Evaluate it on the environment that was recorded."
            )
    box = env.action_space
    if isinstance(box, spaces.Box) and (np.any(box.low > -1.0) or np.any(box.high < 1.0)):
        raise ConfigError(
            f"The policy {policy.path} gives actions in [-1, 1], as its data name no environment; {env.env_id} takes "
            f"{box}. Write the environment into the metadata of the data and train again."
        )


def _checkpoint_of(policy: Any) -> str | None:
    """Which policy of a run it is; None for policies that are neither a run's last nor its best."""
    if not isinstance(policy, PolicyArtefact):
        return None
    folder = policy.path.resolve()
    if not (folder.parent / "run.json").is_file():
        return None
    return {"artefact": "last", "artefact-best": "best"}.get(folder.name)


def _policy_facts(policy: Any, label: str | None) -> dict[str, Any]:
    if not isinstance(policy, PolicyArtefact):
        name = label or type(policy).__name__
        return {
            "name": name,
            "label": name,
            "solver": None,
            "train_steps": None,
            "train_seed": None,
            "trained_for": None,
            "train_budgets": None,
            "evaluations": None,
        }
    own = policy.provenance
    return {
        "name": own.get("solver", policy.path.name),
        "label": label or own.get("label") or own.get("solver"),
        "solver": own.get("solver"),
        "train_steps": own.get("steps"),
        "train_seed": own.get("seed"),
        "trained_for": own.get("trained_for"),
        "train_budgets": own.get("train_budgets"),
        "weights_sha256": policy.header["sha256"]["weights.safetensors"],
        "evaluations": policy.count_evaluation(),
    }
