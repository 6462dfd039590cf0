"""A policy of OSRL that acts in our evaluations: its own process answers (:mod:`saferl.bench.osrl_peer`)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError

DRIVER = Path(__file__).with_name("osrl_peer.py")
"""What the peer's Python runs."""


class OsrlPolicy:
    """Asks a process that holds the trained network; lanes begin together and run in step.

    Leave it by ``with``, which ends the process.
    """

    is_stateful = True

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        cost_name: str,
        target_return: float,
        target_cost: float,
    ) -> None:
        """Start the process.

        Args:
            command: The peer's Python.
            folder: What its training left.
            cost_name: The cost that it is told of.
            target_return: Return to ask for; without effect on BC.
            target_cost: Costs to allow; likewise.
        """
        self.cost_names = (cost_name,)
        self._begin = {"op": "begin", "target_return": target_return, "target_cost": target_cost}
        self._width = int(json.loads((folder / "facts.json").read_text(encoding="utf-8"))["action_width"])
        self._lanes = 0
        self._process = subprocess.Popen(
            [*command, str(DRIVER), "serve", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> OsrlPolicy:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def begin(self, lanes: int) -> None:
        """Episodes begin in all of ``lanes`` lanes."""
        self._lanes = lanes
        self._send({**self._begin, "lanes": lanes})

    def act(
        self, observations: Any, state: None, generators: Sequence[np.random.Generator] | None, deterministic: bool
    ) -> npt.NDArray[np.float32]:
        """Mean actions (L, A) for observations (L, F)."""
        self._send({"op": "act"}, np.asarray(observations, dtype=np.float32).reshape(self._lanes, -1))
        size = 4 * self._lanes * self._width
        assert self._process.stdout is not None
        answer = self._process.stdout.read(size)
        if len(answer) != size:
            raise ConfigError(
                "The peer must answer with actions; its process ended. Its own message stands above; run "
                f"'{DRIVER.name} serve' by hand."
            )
        return np.frombuffer(answer, dtype=np.float32).reshape(self._lanes, self._width).copy()

    def observe(
        self,
        state: None,
        rewards: npt.NDArray[np.float64],
        costs: npt.NDArray[np.float64],
        ended: npt.NDArray[np.bool_],
    ) -> None:
        """Rewards (L,) and costs (L, 1) of the last step."""
        self._send({"op": "observe"}, np.stack([rewards, costs[:, 0]]).astype(np.float32))

    def predict(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Refused: it must be told what its actions brought."""
        raise ConfigError("OSRL's policies are evaluated by saferl.evaluate only.")

    def _send(self, request: Mapping[str, Any], numbers: npt.NDArray[np.float32] | None = None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        if numbers is not None:
            self._process.stdin.write(numbers.tobytes())
        self._process.stdin.flush()
