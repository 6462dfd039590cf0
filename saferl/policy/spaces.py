"""Gymnasium spaces as plain JSON, for artefacts that hold no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from saferl.errors import ArtefactError

_EXTREMES = {"inf": np.inf, "-inf": -np.inf}


def space_to_dict(space: spaces.Space[Any]) -> dict[str, Any]:
    """A JSON description of a Box, Discrete, MultiDiscrete, MultiBinary or flat Dict space.

    Raises:
        ArtefactError: another space.
    """
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": np.dtype(space.dtype).name,
            "low": _encode(space.low),
            "high": _encode(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": np.dtype(space.dtype).name}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
            "dtype": np.dtype(space.dtype).name,
        }
    if isinstance(space, spaces.MultiBinary):
        # A flat space keeps its int: Gymnasium tells MultiBinary(3) from MultiBinary([3]).
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_dict(part) for key, part in space.spaces.items()}}
    raise ArtefactError(
        f"A policy artefact can describe Box, Discrete, MultiDiscrete, MultiBinary and Dict spaces; got {space}."
    )


def space_from_dict(data: Mapping[str, Any]) -> spaces.Space[Any]:
    """The inverse of :func:`space_to_dict`.

    Raises:
        ArtefactError: an unknown description.
    """
    try:
        kind = data["type"]
        if kind == "Box":
            shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
            return spaces.Box(
                _decode(data["low"], shape, dtype), _decode(data["high"], shape, dtype), shape, dtype.type
            )
        if kind == "Discrete":
            return spaces.Discrete(data["n"], start=data["start"], dtype=data["dtype"])
        if kind == "MultiDiscrete":
            return spaces.MultiDiscrete(np.array(data["nvec"]), dtype=data["dtype"], start=np.array(data["start"]))
        if kind == "MultiBinary":
            return spaces.MultiBinary(data["n"])
        if kind == "Dict":
            # Pairs keep their order, which networks depend on; Gymnasium would sort the keys of a plain dict.
            return spaces.Dict([(key, space_from_dict(part)) for key, part in data["spaces"].items()])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ArtefactError(f"A space of the artefact cannot be read: {error!r} in {data!r}.") from error
    raise ArtefactError(f"The artefact names a space of type {kind!r}, which this version of saferl does not know.")


def _encode(bound: npt.NDArray[Any]) -> Any:
    """One number if all entries agree, else a flat list; infinities as text, which JSON can hold."""
    flat = bound.reshape(-1)
    items = [flat[0]] if flat.size and (flat == flat[0]).all() else list(flat)
    encoded = [("inf" if x > 0 else "-inf") if np.isinf(x) else x.item() for x in items]
    return encoded[0] if len(encoded) == 1 else encoded


def _decode(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    items = value if isinstance(value, list) else [value]
    numbers = np.array([_EXTREMES.get(x, x) if isinstance(x, str) else x for x in items], dtype=dtype)
    return np.full(shape, numbers[0], dtype) if not isinstance(value, list) else numbers.reshape(shape)
