"""How the checks of a contract run one after the other, and what they find is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from saferl.testing.reports import Finding, Problem


class SkipCheck(Exception):  # noqa: N818 - no caller of a checker ever meets it
    """The running check does not apply; the message says why."""


class Inspection:
    """Problems, warnings, and which checks ran; an error in a check is a problem of what is checked."""

    subject: str
    """What is checked, as problems name it: "the solver"."""

    def __init__(self) -> None:
        """Nothing has run."""
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.checks: list[str] = []
        self.skipped: list[str] = []

    def run(self, checks: Mapping[str, Callable[[], None]]) -> None:
        """Run the checks in their order."""
        for name, check in checks.items():
            self.checks.append(name)
            try:
                check()
            except SkipCheck as reason:
                self.checks.remove(name)
                self.skipped.append(f"{name} ({reason})")
            except Exception as error:
                text = " ".join(str(error).split())
                self.fail(self.subject, "not raise an error", f"{type(error).__name__}: {text}", "Repair it there.")

    def fail(self, what: str, must: str, got: str, way_out: str) -> None:
        """Note a problem that the running check found."""
        self.problems.append(Finding(what, must, got, way_out).of(self.checks[-1]))

    def warn(self, what: str, must: str, got: str, way_out: str) -> None:
        """Note advice of the running check."""
        self.warnings.append(Finding(what, must, got, way_out).of(self.checks[-1]))
