"""Places for the objects of a navigation task, drawn like the package draws them, but without an array per trial.

Same generator, same draws, same decisions as the package's ``RandomGenerator`` (the tests compare layouts and what the
generator gives next); the package takes 160 ms for a layout of PointButton1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Rectangle = Sequence[float]
"""``xmin, ymin, xmax, ymax`` in m."""
Placements = Mapping[str, tuple[Sequence[Rectangle] | None, float]]
"""By object: rectangles to draw from (None: everywhere), and the radius to keep free around it in m."""

_LAYOUT_TRIALS = 10_000
_OBJECT_TRIALS = 100
_GOAL_TRIALS = 10_000


class LayoutSampler:
    """Draws layouts for one task."""

    def __init__(self, placements: Placements, extents: Rectangle, margin: float) -> None:
        """Take over what the package says of a task.

        Args:
            placements: Where each object may lie.
            extents: Where objects without rectangles of their own may lie.
            margin: Added to what two objects keep free, in m.
        """
        self._margin = margin
        self._keepouts = {name: float(keepout) for name, (_, keepout) in placements.items()}
        self._areas = {name: _areas(rectangles, extents, keepout) for name, (rectangles, keepout) in placements.items()}

    def layout(self, generator: np.random.RandomState) -> dict[str, Array] | None:
        """Positions in m by object, each (2,); None if no trial found room for all."""
        for _ in range(_LAYOUT_TRIALS):
            layout = self._trial(generator)
            if layout is not None:
                return {name: np.array(xy) for name, xy in layout.items()}
        return None

    def _trial(self, generator: np.random.RandomState) -> dict[str, tuple[float, float]] | None:
        layout: dict[str, tuple[float, float]] = {}
        taken: list[tuple[float, float, float]] = []
        for name, keepout in self._keepouts.items():
            xmin, xrange, ymin, yrange = _choose(self._areas[name], generator)
            uniform, margin = generator.random_sample, self._margin
            for _ in range(_OBJECT_TRIALS):
                x = xmin + xrange * uniform()
                y = ymin + yrange * uniform()
                if _is_free(x, y, keepout, margin, taken):
                    break
                # With several rectangles, every trial chooses anew.
                xmin, xrange, ymin, yrange = _choose(self._areas[name], generator)
            else:
                return None
            layout[name] = (x, y)
            taken.append((x, y, keepout))
        return layout

    def goal(self, generator: np.random.RandomState, layout: Mapping[str, Array]) -> Array | None:
        """A place for the next goal among the objects of ``layout``, (2,) in m; None if there is none."""
        taken = [(float(xy[0]), float(xy[1]), self._keepouts[name]) for name, xy in layout.items()]
        keepout = self._keepouts["goal"]
        for _ in range(_GOAL_TRIALS):
            xmin, xrange, ymin, yrange = _choose(self._areas["goal"], generator)
            x = xmin + xrange * generator.random_sample()
            y = ymin + yrange * generator.random_sample()
            if _is_free(x, y, keepout, self._margin, taken):
                return np.array([x, y])
        return None


Area = tuple[list[tuple[float, float, float, float]], Array]
"""Rectangles as ``xmin, width, ymin, height``, without the margin kept free, and their shares of the area."""


def _areas(rectangles: Sequence[Rectangle] | None, extents: Rectangle, keepout: float) -> Area:
    inner = []
    for xmin, ymin, xmax, ymax in [extents] if rectangles is None else rectangles:
        low_x, low_y, high_x, high_y = xmin + keepout, ymin + keepout, xmax - keepout, ymax - keepout
        # The package leaves out a rectangle that is too small, but never the extents.
        if rectangles is None or not (low_x > high_x or low_y > high_y):
            inner.append((low_x, low_y, high_x, high_y))
    sizes = np.array([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in inner])
    shares = sizes / sizes.sum() if len(inner) > 1 else np.ones(1)
    return [(x1, x2 - x1, y1, y2 - y1) for x1, y1, x2, y2 in inner], shares


def _choose(area: Area, generator: np.random.RandomState) -> tuple[float, float, float, float]:
    rectangles, shares = area
    if len(rectangles) == 1:
        return rectangles[0]
    return rectangles[int(generator.choice(len(rectangles), p=shares))]


def _is_free(x: float, y: float, keepout: float, margin: float, taken: list[tuple[float, float, float]]) -> bool:
    for other_x, other_y, other_keepout in taken:
        dx, dy = x - other_x, y - other_y
        # In the package's order of additions, as rounding could decide.
        if math.sqrt(dx * dx + dy * dy) < other_keepout + margin + keepout:
            return False
    return True
