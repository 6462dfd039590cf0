"""What every shielded controller unit has."""

from __future__ import annotations

from typing import Protocol, TypeVar

SensorsT = TypeVar("SensorsT", contravariant=True)
RequestT = TypeVar("RequestT")
PredictionT = TypeVar("PredictionT", covariant=True)


class ControllerUnit(Protocol[SensorsT, RequestT, PredictionT]):
    """A controller state, a twin of a device, and a shielded dispatcher."""

    def update_from_sensors(self, sensors: SensorsT) -> None:
        """Take the state of the device from its sensors."""
        ...

    def safe_action(self, request: RequestT) -> RequestT:
        """The request, or the nearest one that keeps this unit's limits; the state does not change."""
        ...

    def predict_step(self, request: RequestT) -> PredictionT:
        """What the next minute gives when the request has passed :meth:`safe_action`; the state does not change."""
        ...
