"""Every error that saferl raises on purpose.

```
SaferlError
├── UsageError            the caller asked for something that does not exist or does not fit   (CLI exit code 2)
│   ├── UnknownNameError  an env, solver, shield, constraint or option name nobody registered
│   ├── ConfigError       an option has a wrong type or value
│   ├── ConstraintError   a constraint or budget is malformed or does not match the env
│   └── MissingExtraError the command needs an optional dependency
├── CostError             an env gave a missing, NaN or infinite cost                          (CLI exit code 1)
├── EnvContractError      an env breaks the contract in another way
├── ArtefactError         an artefact folder is incomplete, changed or from a newer version
├── DataError             a data set cannot be read or used as it is
├── RunFolderError        a run or evaluation folder cannot be read or written
└── TrainingError         training could not go on (non-finite loss, no episode ended, ...)
```

Messages say, in this order: what it is, what it must be, what was got, and the way out.
"""

import difflib
from collections.abc import Iterable
from typing import Any


class SaferlError(Exception):
    """Base of all errors that saferl raises on purpose."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by message, so that worker processes can hand errors over."""
        return _restore, (type(self), str(self)), self.__dict__


class UsageError(SaferlError):
    """The caller asked for something that does not exist or does not fit."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that nobody registered; the message suggests the nearest ones."""

    def __init__(self, what: str, name: object, known: Iterable[str], *, hint: str = "") -> None:
        """Build the message.

        Args:
            what: What the name should have been, for example ``"solver"``.
            name: The unknown name.
            known: All names that would have been accepted.
            hint: The way out, if there is a better one than the list of known names.
        """
        names = sorted(known)
        close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
        if close:
            way_out = f"Did you mean {' or '.join(repr(c) for c in close)}?"
        elif names:
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            way_out = f"Known: {shown}."
        else:
            way_out = "There is none."
        super().__init__(f"Unknown {what} {str(name)!r}. {way_out}" + (f" {hint}" if hint else ""))
        self.suggestions = tuple(close)


class ConfigError(UsageError):
    """An option has a wrong type or value."""


class ConstraintError(UsageError):
    """A constraint or budget is malformed or does not match the env."""


class MissingExtraError(UsageError):
    """The call needs an optional dependency that is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        """Build the message.

        Args:
            what: What was asked for, for example ``"Training"``.
            package: The distribution that is missing.
            extra: The extra of saferl that brings it.
        """
        super().__init__(
            f"{what} needs {package}, which is not installed. Install it with: pip install 'saferl[{extra}]'"
        )


_EXTRA_OF = {
    "cloudpickle": ("cloudpickle", "train"),
    "dm_control": ("dm-control", "control"),
    "gymnasium": ("gymnasium", "train"),
    "h5py": ("h5py", "train"),
    "jinja2": ("jinja2", "report"),
    "matplotlib": ("matplotlib", "report"),
    "minari": ("minari", "minari"),
    "mujoco": ("mujoco", "train"),
    "plotly": ("plotly", "report"),
    "shimmy": ("shimmy", "control"),
    "stable_baselines3": ("stable-baselines3", "train"),
    "tensorboard": ("tensorboard", "train"),
    "torch": ("torch", "train"),
}
"""Distribution and extra of modules that the base does not bring."""


def missing_extra(error: ModuleNotFoundError, what: str) -> MissingExtraError | None:
    """The error that names the extra to install, or None if the missing module belongs to no extra of saferl."""
    module = (error.name or "").partition(".")[0]
    return MissingExtraError(what, *_EXTRA_OF[module]) if module in _EXTRA_OF else None


class CostError(SaferlError):
    """An env gave a missing, NaN or infinite cost."""


class EnvContractError(SaferlError):
    """An env breaks the contract in another way than by its costs."""


class ArtefactError(SaferlError):
    """A policy artefact is incomplete, changed, or from a newer major version."""


class DataError(SaferlError):
    """A data set that cannot be read or used as it is."""


class RunFolderError(SaferlError):
    """A run or evaluation folder cannot be read or written."""


class TrainingError(SaferlError):
    """Training could not go on."""


def _restore(kind: type[SaferlError], message: str) -> SaferlError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error
