"""Small networks in numpy: what learned shields evaluate without torch, and what travels in an artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from saferl.errors import ArtefactError, ConfigError

Array = npt.NDArray[np.float64]
Activation = Literal["relu", "tanh", "elu"]
_ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


@dataclass(frozen=True, eq=False)
class Network:
    """A multi-layer perceptron: y = W_L f(... f(W_1 x' + b_1)) + b_L with x' = (x - mean) / scale.

    Example:
        >>> network = Network((np.array([[1.0, -1.0]]),), (np.array([0.5]),))
        >>> network(np.array([[3.0, 1.0]])).tolist()
        [[2.5]]
    """

    weights: Sequence[Array]
    """W of every layer, shape (out, in)."""
    biases: Sequence[Array]
    """b of every layer, shape (out,)."""
    activation: Activation = "relu"
    """f, after every layer but the last."""
    mean: Array | None = None
    """Of the inputs, shape (in,); None: 0. Frozen."""
    scale: Array | None = None
    """Of the inputs, shape (in,), positive; None: 1."""

    def __post_init__(self) -> None:
        """Refuse layers that do not fit."""
        weights = tuple(np.asarray(part, dtype=np.float64) for part in self.weights)
        biases = tuple(np.asarray(part, dtype=np.float64) for part in self.biases)
        widths = [weights[0].shape[1], *(len(part) for part in weights)] if weights else []
        fits = bool(weights) and len(weights) == len(biases)
        for layer, (w, b) in enumerate(zip(weights, biases, strict=False)):
            fits = fits and w.shape == (widths[layer + 1], widths[layer]) and b.shape == (widths[layer + 1],)
        is_finite = all(np.isfinite(part).all() for part in (*weights, *biases))
        if not fits or not is_finite or self.activation not in _ACTIVATIONS:
            raise ConfigError(
                "A network needs finite weights (out, in) and biases (out,) that follow each other, and an activation "
                f"of {', '.join(_ACTIVATIONS)}; got {[w.shape for w in weights]}, {[b.shape for b in biases]}, "
                f"{self.activation!r}."
            )
        mean = np.zeros(widths[0]) if self.mean is None else np.asarray(self.mean, dtype=np.float64)
        scale = np.ones(widths[0]) if self.scale is None else np.asarray(self.scale, dtype=np.float64)
        if mean.shape != (widths[0],) or scale.shape != (widths[0],) or not (scale > 0.0).all():
            raise ConfigError(f"A normaliser needs mean and positive scale of shape ({widths[0]},).")
        for name, value in (("weights", weights), ("biases", biases), ("mean", mean), ("scale", scale)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_torch(
        cls, module: Any, *, mean: npt.ArrayLike | None = None, scale: npt.ArrayLike | None = None
    ) -> Network:
        """The same of a ``torch.nn.Sequential`` of Linear layers and one kind of ReLU, Tanh or ELU between them.

        Raises:
            ConfigError: another layer.
        """
        layers = [layer for layer in module if type(layer).__name__ != "Identity"]
        linear, between = layers[::2], {type(layer).__name__.lower() for layer in layers[1::2]}
        if not all(type(layer).__name__ == "Linear" for layer in linear) or len(layers) % 2 == 0 or len(between) > 1:
            raise ConfigError(f"A network must be Linear layers with one activation between them; got {module!r}.")
        name: Any = between.pop() if between else "relu"
        normal = [None if part is None else np.asarray(part, dtype=np.float64) for part in (mean, scale)]
        return cls(
            [layer.weight.detach().cpu().numpy() for layer in linear],
            [layer.bias.detach().cpu().numpy() for layer in linear],
            name,
            *normal,
        )

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return int(self.weights[0].shape[1])

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return len(self.biases[-1])

    def __call__(self, x: Array) -> Array:
        """Outputs of shape (n, out) for inputs of shape (n, in)."""
        hidden = self._centred(x)
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = _apply(self.activation, hidden @ w.T + b)
        return np.asarray(hidden @ self.weights[-1].T + self.biases[-1])

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """The first output at one input, shape (in,), and its gradient, shape (in,)."""
        hidden, slopes = self._centred(x), []
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            before = w @ hidden + b
            hidden = _apply(self.activation, before)
            slopes.append(_slope(self.activation, before, hidden))
        gradient = self.weights[-1][0]
        for w, slope in zip(reversed(self.weights[:-1]), reversed(slopes), strict=True):
            gradient = (gradient * slope) @ w
        return float(self.weights[-1][0] @ hidden + self.biases[-1][0]), gradient / np.asarray(self.scale)

    def _centred(self, x: Array) -> Array:
        return np.asarray((x - np.asarray(self.mean)) / np.asarray(self.scale))

    def to_arrays(self, prefix: str) -> tuple[dict[str, Any], dict[str, Array]]:
        """Plain options, and arrays whose names begin with ``prefix``; :meth:`from_arrays` is the inverse."""
        arrays = {f"{prefix}/mean": np.asarray(self.mean), f"{prefix}/scale": np.asarray(self.scale)}
        for layer, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            arrays |= {f"{prefix}/weight{layer}": w, f"{prefix}/bias{layer}": b}
        return {"prefix": prefix, "layers": len(self.weights), "activation": self.activation}, arrays

    @classmethod
    def from_arrays(cls, options: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Network:
        """Read what :meth:`to_arrays` gave.

        Raises:
            ArtefactError: an array is missing.
        """
        prefix, layers = options["prefix"], range(int(options["layers"]))
        try:
            return cls(
                [arrays[f"{prefix}/weight{layer}"] for layer in layers],
                [arrays[f"{prefix}/bias{layer}"] for layer in layers],
                options["activation"],
                arrays[f"{prefix}/mean"],
                arrays[f"{prefix}/scale"],
            )
        except KeyError as error:
            raise ArtefactError(f"A network of a shield must have all its arrays; {error} is missing.") from error


def _apply(activation: Activation, x: Array) -> Array:
    if activation == "relu":
        return np.maximum(x, 0.0)
    return np.tanh(x) if activation == "tanh" else np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))


def _slope(activation: Activation, before: Array, after: Array) -> Array:
    if activation == "relu":
        return np.asarray(before > 0.0, dtype=np.float64)
    return 1.0 - after * after if activation == "tanh" else np.where(before > 0.0, 1.0, after + 1.0)
