"""Evaluation folders, read strictly: a record is complete and consistent, or there is one clear error.

An evaluation folder holds ``summary.json`` (schema ``saferl.evaluation/1``) and ``episodes.jsonl`` (one line per
episode). Learning curves come from :mod:`saferl.report.curves`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, cast, get_args

import numpy as np
import numpy.typing as npt

from saferl.constraints import KINDS, Kind, Sense
from saferl.errors import RunFolderError
from saferl.report.curves import Curves, find_curves
from saferl.storage import read_json

SCHEMA = "saferl.evaluation"
SCHEMA_MAJOR = 1
FloatArray = npt.NDArray[np.float64]
Verdict = Literal["satisfied", "violated", "undecided"]

_WAY_OUT = "The file was edited, cut off, or written by another version of saferl: run the evaluation again."


@dataclass(frozen=True)
class Interval:
    """A confidence interval; an end that no valid method gives is None."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class ConstraintRecord:
    """What an evaluation found about one constraint."""

    name: str
    kind: Kind
    sense: Sense
    budget: float
    description: str
    mean: float
    ci95: Interval
    """Two-sided interval of the mean."""
    lower95: float | None
    """One-sided lower bound of the mean, or None if none is valid."""
    upper95: float | None
    """One-sided upper bound of the mean, or None if none is valid."""
    cvar90: float
    """Mean of the worst tenth of the episodes."""
    max: float
    violation_rate: float
    """Share of episodes that violate the constraint by themselves, in [0, 1]."""
    violation_rate_ci95: Interval
    verdict: Verdict
    bound: str
    """How ``lower95`` and ``upper95`` were made."""
    step_violation_rate: float | None
    """Share of steps that violate the constraint, in [0, 1]; None where the evaluation did not count them."""
    step_violation_rate_ci95: Interval


@dataclass(frozen=True)
class Method:
    """How the intervals were made, in words."""

    mean_cost: str
    rates: str
    returns: str
    confidence: float
    """In (0, 1)."""


@dataclass(frozen=True)
class PolicyInfo:
    """Where the evaluated policy comes from."""

    name: str
    label: str
    """Name for readers; the policy's name if it has no label."""
    solver: str | None
    train_steps: int | None
    train_seed: int | None
    trained_for: str | None
    """What training lowered or limited; None if that is not known."""
    train_budgets: Mapping[str, float] | None
    """Budget that each constraint was trained with; None for a policy that was not trained under budgets."""
    evaluations: int | None
    """How many evaluations this artefact has had, this one included."""
    weights_sha256: str | None


@dataclass(frozen=True)
class ShieldRecord:
    """What the shield of an evaluation did."""

    unit: str
    guarantee: str
    assumptions: tuple[str, ...]
    """What must be true for the guarantee."""
    rate: float
    """Share of the steps in which it intervened, in [0, 1]."""
    rate_ci95: Interval
    kinds: Mapping[str, int]
    """Decisions by kind, those that occurred."""
    mean_distance: float | None
    """Of all decisions, in units of half the range of each action."""
    worst_margin: float | None
    """None where the shield has no margins."""
    p50_us: float
    p99_us: float


@dataclass(frozen=True)
class Episodes:
    """All episodes, in the order of the file; every array has shape (num_episodes,)."""

    returns: FloatArray
    lengths: FloatArray
    costs: Mapping[str, FloatArray]
    """Undiscounted cost sums by constraint."""
    discounted_costs: Mapping[str, FloatArray]
    """Discounted cost sums by constraint of kind ``discounted``, where the evaluation recorded them."""

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.returns)


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation folder."""

    folder: Path
    env: str
    env_kwargs: Mapping[str, Any]
    is_deterministic: bool
    first_seed: int
    seed_count: int
    checkpoint: Literal["last", "best"] | None
    versions: Mapping[str, str]
    method: Method
    policy: PolicyInfo
    shield: str | None
    shielding: ShieldRecord | None
    """None without a shield, and where the evaluation only named it."""
    num_episodes: int
    mean_length: float
    mean_return: float
    return_ci95: Interval
    return_iqm: float
    constraints: Mapping[str, ConstraintRecord]
    duration_s: float
    episodes: Episodes
    curves: Curves | None


class _Fields:
    """A JSON object whose keys are read one by one; the first missing or wrong one is the error."""

    def __init__(self, data: Any, where: str, prefix: str = "") -> None:
        self._where, self._prefix = where, prefix
        if not isinstance(data, dict):
            self.refuse(prefix.rstrip("."), "a JSON object", data)
        self.data: dict[str, Any] = data

    def refuse(self, key: str, must: str, got: Any) -> NoReturn:
        subject = f"{key!r} in {self._where}" if key else self._where
        shown = repr(got)
        raise RunFolderError(f"{subject} must be {must}; got {shown[:80]}{'...' * (len(shown) > 80)}. {_WAY_OUT}")

    def value(self, key: str) -> Any:
        if key not in self.data:
            raise RunFolderError(
                f"{self._prefix + key!r} must be in {self._where}; got only "
                f"{', '.join(map(repr, self.data)) or 'an empty object'}. {_WAY_OUT}"
            )
        return self.data[key]

    def number(self, key: str) -> float:
        return self._finite(key, self.value(key), "a finite number")

    def optional_number(self, key: str) -> float | None:
        value = self.value(key)
        return None if value is None else self._finite(key, value, "a finite number or null")

    def _finite(self, key: str, value: Any, must: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
            self.refuse(self._prefix + key, must, value)
        return float(value)

    def integer(self, key: str, *, least: int) -> int:
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.refuse(self._prefix + key, f"a whole number of at least {least}", value)
        return value

    def optional_integer(self, key: str) -> int | None:
        return None if self.value(key) is None else self.integer(key, least=0)

    def text(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str) or not value:
            self.refuse(self._prefix + key, "a text that is not empty", value)
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.value(key) is None else self.text(key)

    def flag(self, key: str) -> bool:
        value = self.value(key)
        if not isinstance(value, bool):
            self.refuse(self._prefix + key, "true or false", value)
        return value

    def choice(self, key: str, choices: Sequence[str | None]) -> Any:
        value = self.value(key)
        if value not in choices:
            self.refuse(self._prefix + key, "one of " + ", ".join(json.dumps(c) for c in choices), value)
        return value

    def object(self, key: str) -> _Fields:
        return _Fields(self.value(key), self._where, f"{self._prefix}{key}.")

    def numbers(self, key: str) -> dict[str, float]:
        inner = self.object(key)
        return {name: inner.number(name) for name in inner.data}

    def interval(self, key: str) -> Interval:
        value = self.value(key)
        if not isinstance(value, list) or len(value) != 2:
            self.refuse(self._prefix + key, "a list of two ends, [low, high]", value)
        low, high = (None if v is None else self._finite(key, v, "a list of numbers or nulls") for v in value)
        if low is not None and high is not None and low > high:
            self.refuse(self._prefix + key, "an interval whose low end comes first", value)
        return Interval(low, high)


def read_evaluation(folder: Path) -> EvaluationRecord:
    """Read an evaluation folder, and the learning curves of the run around it.

    Args:
        folder: Holds ``summary.json`` and ``episodes.jsonl``.

    Raises:
        RunFolderError: A file is missing, cut off or edited, the two do not belong together, or a newer version of
            saferl wrote them.
    """
    if not folder.is_dir():
        raise RunFolderError(
            f"An evaluation must be a folder with summary.json and episodes.jsonl; got {folder}, which is "
            f"{'a file' if folder.exists() else 'missing'}. Make one with: saferl eval POLICY --out {folder}"
        )
    path = folder / "summary.json"
    top = _Fields(read_json(path, what="summary.json of an evaluation"), str(path))
    _check_schema(top.text("schema"), path)
    constraints = top.object("constraints")
    seeds, returns = top.object("seeds"), top.object("return")
    first_seed, seed_count = seeds.integer("first", least=0), seeds.integer("count", least=1)
    num_episodes = top.integer("episodes", least=1)
    versions = top.object("versions")
    found = {name: _read_constraint(name, constraints.object(name)) for name in constraints.data}
    episodes = _read_episodes(
        folder / "episodes.jsonl", num_episodes, tuple(found.values()), range(first_seed, first_seed + seed_count)
    )
    mean_return = returns.number("mean")
    _check_mean("return", mean_return, episodes.returns, folder)
    for name, constraint in found.items():
        if constraint.kind == "episode_sum":
            _check_mean(name, constraint.mean, episodes.costs[name], folder)
    return EvaluationRecord(
        folder=folder,
        env=top.text("env"),
        env_kwargs=top.object("env_kwargs").data,
        is_deterministic=top.flag("deterministic"),
        first_seed=first_seed,
        seed_count=seed_count,
        checkpoint=top.choice("checkpoint", ("last", "best", None)),
        versions={name: versions.text(name) for name in versions.data},
        method=_read_method(top.object("method")),
        policy=_read_policy(top.object("policy")),
        shield=_describe_shield(top.value("shield")),
        shielding=_read_shield(top),
        num_episodes=num_episodes,
        mean_length=top.object("length").number("mean"),
        mean_return=mean_return,
        return_ci95=returns.interval("ci95"),
        return_iqm=returns.number("iqm"),
        constraints=found,
        duration_s=top.number("duration_s"),
        episodes=episodes,
        curves=find_curves(folder),
    )


def _check_schema(schema: str, path: Path) -> None:
    name, _, version = schema.partition("/")
    if name != SCHEMA or version.partition(".")[0] != str(SCHEMA_MAJOR):
        raise RunFolderError(
            f"'schema' in {path} must be '{SCHEMA}/{SCHEMA_MAJOR}', the only major version this saferl reads; "
            f"got {schema!r}. Read it with the saferl that wrote it, or evaluate again with this one."
        )


def _check_mean(what: str, stated: float, values: FloatArray, folder: Path) -> None:
    mean = float(values.mean())
    if not math.isclose(mean, stated, rel_tol=1e-3, abs_tol=1e-3):
        raise RunFolderError(
            f"summary.json and episodes.jsonl must come from one evaluation; {folder} has a mean {what} of {stated:g} "
            f"in the one and {mean:g} in the other. A file was edited or copied: run the evaluation again."
        )


def _read_method(fields: _Fields) -> Method:
    confidence = fields.number("confidence")
    if not 0.0 < confidence < 1.0:
        fields.refuse("method.confidence", "between 0 and 1", confidence)
    return Method(fields.text("mean_cost"), fields.text("rates"), fields.text("return"), confidence)


def _read_policy(fields: _Fields) -> PolicyInfo:
    name = fields.text("name")
    label, trained_for, sha256 = (
        fields.optional_text(key) if key in fields.data else None for key in ("label", "trained_for", "weights_sha256")
    )
    return PolicyInfo(
        name=name,
        label=label or name,
        solver=fields.optional_text("solver"),
        train_steps=fields.optional_integer("train_steps"),
        train_seed=fields.optional_integer("train_seed"),
        trained_for=trained_for,
        train_budgets=None if fields.value("train_budgets") is None else fields.numbers("train_budgets"),
        evaluations=fields.optional_integer("evaluations"),
        weights_sha256=sha256,
    )


def _read_constraint(name: str, fields: _Fields) -> ConstraintRecord:
    violation_rate = fields.number("violation_rate")
    if not 0.0 <= violation_rate <= 1.0:
        fields.refuse(f"constraints.{name}.violation_rate", "a share in [0, 1]", violation_rate)
    counts_steps = "step_violation_rate" in fields.data
    return ConstraintRecord(
        name=name,
        kind=cast("Kind", fields.choice("kind", KINDS)),
        sense=cast("Sense", fields.choice("sense", get_args(Sense))),
        budget=fields.number("budget"),
        description=fields.text("description"),
        mean=fields.number("mean"),
        ci95=fields.interval("ci95"),
        lower95=fields.optional_number("lower95"),
        upper95=fields.optional_number("upper95"),
        cvar90=fields.number("cvar90"),
        max=fields.number("max"),
        violation_rate=violation_rate,
        violation_rate_ci95=fields.interval("violation_rate_ci95"),
        verdict=cast("Verdict", fields.choice("verdict", get_args(Verdict))),
        bound=fields.text("bound"),
        step_violation_rate=fields.optional_number("step_violation_rate") if counts_steps else None,
        step_violation_rate_ci95=fields.interval("step_violation_rate_ci95") if counts_steps else Interval(None, None),
    )


def _describe_shield(data: Any) -> str | None:
    """Text for a shield that is recorded as null, a name, or an object with a name and its options."""
    if data is None or isinstance(data, str):
        return data or None
    if isinstance(data, dict) and isinstance(data.get("name"), str):
        return cast("str", data["name"])
    return json.dumps(data)


def _read_shield(top: _Fields) -> ShieldRecord | None:
    data = top.value("shield")
    if not isinstance(data, dict) or "intervention_rate" not in data:
        return None
    fields = top.object("shield")
    spec, rate, latency = fields.object("spec"), fields.object("intervention_rate"), fields.object("latency_us")
    assumptions = spec.value("assumptions")
    if not isinstance(assumptions, list) or not all(isinstance(text, str) for text in assumptions):
        fields.refuse("shield.spec.assumptions", "a list of texts", assumptions)
    mean = rate.number("mean")
    if not 0.0 <= mean <= 1.0:
        fields.refuse("shield.intervention_rate.mean", "a share in [0, 1]", mean)
    kinds = fields.object("kinds")
    return ShieldRecord(
        unit=spec.text("unit"),
        guarantee=spec.text("guarantee"),
        assumptions=tuple(assumptions),
        rate=mean,
        rate_ci95=rate.interval("ci95"),
        kinds={name: count for name in kinds.data if (count := kinds.integer(name, least=0))},
        mean_distance=fields.optional_number("mean_distance"),
        worst_margin=fields.optional_number("worst_margin"),
        p50_us=latency.number("p50"),
        p99_us=latency.number("p99"),
    )


def _read_episodes(path: Path, expected: int, constraints: Sequence[ConstraintRecord], seeds: range) -> Episodes:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise RunFolderError(
            f"episodes.jsonl of an evaluation is missing: {path}. The folder is incomplete: run the evaluation again."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"episodes.jsonl of an evaluation cannot be read: {path} ({error}).") from error
    if lines[-1] == "":
        lines.pop()
    names = [c.name for c in constraints]
    discounted = [c.name for c in constraints if c.kind == "discounted"]
    if not lines or '"discounted_costs"' not in lines[0]:
        discounted = []
    columns = [("costs", name) for name in names] + [("discounted_costs", name) for name in discounted]
    rows = [_read_episode(line, f"line {number} of {path}", columns, seeds) for number, line in enumerate(lines, 1)]
    if len(rows) != expected:
        raise RunFolderError(
            f"{path} must hold one line per episode, {expected} as summary.json says; got {len(rows)} lines. {_WAY_OUT}"
        )
    if len({row[0] for row in rows}) != expected:
        raise RunFolderError(f"{path} must hold each episode once; got an 'episode' number twice. {_WAY_OUT}")
    table = np.array([row[1:] for row in rows], dtype=np.float64)
    costs, discounted_costs = table[:, 2 : 2 + len(names)].T, table[:, 2 + len(names) :].T
    return Episodes(
        returns=table[:, 0],
        lengths=table[:, 1],
        costs=dict(zip(names, costs, strict=True)),
        discounted_costs=dict(zip(discounted, discounted_costs, strict=True)),
    )


def _read_episode(line: str, where: str, columns: Sequence[tuple[str, str]], seeds: range) -> tuple[float, ...]:
    """Episode number, return, length, then one number per (key, constraint) in ``columns``."""
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        shown = line if len(line) <= 60 else f"...{line[-57:]}"
        raise RunFolderError(
            f"{where[0].upper()}{where[1:]} must be one JSON object, the record of an episode; got {shown!r} "
            f"({error.msg}). {_WAY_OUT}"
        ) from error
    fields = _Fields(data, where)
    seed = fields.integer("seed", least=0)
    if seed not in seeds:
        fields.refuse("seed", f"in {seeds.start} to {seeds.stop - 1}, as summary.json says", seed)
    fields.flag("terminated")
    fields.number("cost")
    costs = {key: fields.object(key) for key in {"costs", *(key for key, _ in columns)}}
    return (
        fields.integer("episode", least=0),
        fields.number("return"),
        fields.integer("length", least=1),
        *(costs[key].number(name) for key, name in columns),
    )
