"""What a conformance checker hands back: every breach in one list."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from saferl.errors import EnvContractError


@dataclass(frozen=True)
class Problem:
    """One breach of the contract, or one piece of advice."""

    check: str
    """The check that found it."""
    what: str
    """The part of the env that is wrong."""
    must: str
    """What it must do or be."""
    got: str
    """What it did or was."""
    way_out: str
    """How to repair it."""

    def __str__(self) -> str:
        """The whole in one line."""
        return f"{self.check}: {self.what} must {self.must}; got {self.got}. {self.way_out}"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, before it is known which check found it."""

    what: str
    """The part of the env that is wrong."""
    must: str
    """What it must do or be."""
    got: str
    """What it did or was."""
    way_out: str
    """How to repair it."""
    is_warning: bool = False
    """Whether it is advice only."""

    def of(self, check: str) -> Problem:
        """The same with the name of its check."""
        return Problem(check, self.what, self.must, self.got, self.way_out)


@dataclass(frozen=True)
class CheckReport:
    """What a checker found; ``str(report)`` is a readable list."""

    subject: ClassVar[str]
    """What is checked: env, solver, shield."""

    name: str
    """Name of what was checked."""
    problems: tuple[Problem, ...]
    """Breaches of the contract."""
    warnings: tuple[Problem, ...]
    """What is allowed but seldom meant."""
    checks: tuple[str, ...]
    """Names of the checks that ran."""
    skipped: tuple[str, ...] = ()
    """Checks that could not run, each with the reason."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong (warnings are allowed)."""
        return not self.problems

    def __str__(self) -> str:
        """A readable list."""
        verdict = "keeps saferl's contract" if self.ok else "breaks saferl's contract"
        counts = (_count(self.checks, "check"), _count(self.problems, "problem"), _count(self.warnings, "warning"))
        lines = [f"{self.name} {verdict}: {', '.join(counts)}."]
        for title, items in (("Problems", self.problems), ("Warnings", self.warnings), ("Skipped", self.skipped)):
            if items:
                lines += [f"{title}:", *(f"  {number}. {item}" for number, item in enumerate(items, start=1))]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            self.subject: self.name,
            "ok": self.ok,
            "problems": [asdict(problem) for problem in self.problems],
            "warnings": [asdict(warning) for warning in self.warnings],
            "checks": list(self.checks),
            "skipped": list(self.skipped),
        }

    def raise_if_failed(self) -> None:
        """Return if nothing is wrong.

        Raises:
            EnvContractError: something is; the message lists everything.
        """
        if not self.ok:
            raise EnvContractError(str(self))


class EnvCheckReport(CheckReport):
    """What :func:`saferl.testing.check_env` found."""

    subject = "env"

    @property
    def env(self) -> str:
        """Name of the env."""
        return self.name


class SolverCheckReport(CheckReport):
    """What :func:`saferl.testing.check_solver` found."""

    subject = "solver"

    @property
    def solver(self) -> str:
        """Name of the solver."""
        return self.name


class ShieldCheckReport(CheckReport):
    """What :func:`saferl.testing.check_shield` found."""

    subject = "shield"

    @property
    def shield(self) -> str:
        """Name of the shield."""
        return self.name


def _count(items: Sized, noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
