"""Networks and their optimisers as trees of numpy arrays, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from torch import nn

State = dict[str, Any]


def module_state(module: nn.Module) -> State:
    """The parameters and buffers of ``module``, copied."""
    return {key: to_numpy(value) for key, value in module.state_dict().items()}


def load_module_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Bring ``module`` to a state of :func:`module_state`."""
    module.load_state_dict({key: th.tensor(value) for key, value in state.items()})


def optimizer_state(optimizer: th.optim.Optimizer) -> State:
    """The moments and step sizes of ``optimizer``, copied."""
    state = optimizer.state_dict()
    return {
        "state": {
            str(index): {key: to_numpy(value) for key, value in part.items()} for index, part in state["state"].items()
        },
        "rates": [float(group["lr"]) for group in state["param_groups"]],
    }


def load_optimizer_state(optimizer: th.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Bring ``optimizer`` to a state of :func:`optimizer_state`."""
    state = optimizer.state_dict()
    state["state"] = {
        int(index): {key: th.tensor(value) for key, value in part.items()} for index, part in saved["state"].items()
    }
    for group, rate in zip(state["param_groups"], saved["rates"], strict=True):
        group["lr"] = rate
    optimizer.load_state_dict(state)


def to_numpy(value: Any) -> Any:
    """Tensors as arrays of their own, anything else as it is."""
    return value.detach().cpu().numpy().copy() if isinstance(value, th.Tensor) else value
