"""Worker processes that each step a block of environments over shared memory."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
from gymnasium import spaces

from saferl.envs.batch import StepArrays
from saferl.envs.block import ContractFactory, EnvBlock, check_alike
from saferl.envs.state import State
from saferl.errors import EnvContractError, SaferlError, UsageError

Layout = tuple[spaces.Space[Any], spaces.Space[Any], int, int]
"""Observation space, action space, number of environments, number of constraints."""


class WorkerPool:
    """Splits environments over processes; a step is one byte each way, arrays stay in shared memory."""

    diverged = None

    def __init__(self, factories: Sequence[ContractFactory], num_workers: int, layout: Layout) -> None:
        """Start the processes and wait until each has built its environments."""
        # Processes start fresh: forking a process that runs torch threads can deadlock.
        context = multiprocessing.get_context("spawn")
        memory = context.RawArray("b", StepArrays.nbytes(*layout))
        self.arrays = StepArrays.allocate(*layout, memory=memory)
        self._connections: list[Connection] = []
        self._processes = []
        bounds = [len(factories) * i // num_workers for i in range(num_workers + 1)]
        self._rows = list(pairwise(bounds))
        payloads = [_dump(list(factories[start:stop])) for start, stop in self._rows]
        for (start, stop), payload in zip(self._rows, payloads, strict=True):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, payload, memory, layout, start, stop), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._collect()

    def reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None = None) -> None:
        """Reset all environments, as :meth:`EnvBlock.reset`."""
        self._exchange([_dump(("reset", (list(seeds[start:stop]), options))) for start, stop in self._rows])

    def step(self) -> None:
        """Step all environments, as :meth:`EnvBlock.step`."""
        self._exchange([_STEP] * len(self._rows))

    def get_states(self) -> list[State] | None:
        """The states of all environments, as :meth:`EnvBlock.get_states`."""
        answers = self._exchange([_dump(("get_states", ()))] * len(self._rows))
        if any(part is None for part in answers):
            return None
        return [state for part in answers for state in part]

    def set_states(self, states: Sequence[State]) -> None:
        """Bring all environments to their states."""
        self._exchange([_dump(("set_states", (list(states[start:stop]),))) for start, stop in self._rows])

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            with suppress(OSError):
                connection.send_bytes(cloudpickle.dumps(("close", None)))
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
                process.join()
        for connection in self._connections:
            connection.close()
        self._connections, self._processes = [], []

    def _exchange(self, messages: Sequence[bytes]) -> list[Any]:
        if not self._connections:
            raise EnvContractError("The environments' processes ended after an earlier error; make new environments.")
        for connection, message in zip(self._connections, messages, strict=True):
            # A process that died or failed is met again when its answer is read.
            with suppress(OSError):
                connection.send_bytes(message)
        return self._collect()

    def _collect(self) -> list[Any]:
        """The answer of every process: None for a bare acknowledgement."""
        failure: SaferlError | None = None
        answers: list[Any] = []
        for connection in self._connections:
            try:
                answer = connection.recv_bytes()
            except (EOFError, OSError) as error:
                self.close()
                raise EnvContractError("An environment's process died. Run with backend='sync' to see why.") from error
            value = None if answer == _OK else cloudpickle.loads(answer)
            if isinstance(value, SaferlError):
                failure = failure or value
            answers.append(value)
        if failure is not None:
            self.close()
            raise failure
        return answers


_STEP = b"s"
_OK = b"o"


def _dump(value: Any) -> bytes:
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:
        raise UsageError(
            f"The environment's factory or options cannot be sent to a worker process ({error}). Name the environment "
            "by an id or import path, or take backend='sync'."
        ) from error


def _serve(
    connection: Connection, payload: bytes, memory: Any, layout: Layout, start: int, stop: int
) -> None:  # pragma: no cover - runs in a child process
    block: EnvBlock | None = None
    try:
        envs = [factory() for factory in cloudpickle.loads(payload)]
        for env in envs[1:]:
            check_alike(envs[0], env)
        block = EnvBlock(envs, StepArrays.allocate(*layout, memory=memory).rows(start, stop))
        connection.send_bytes(_OK)
        while True:
            message = connection.recv_bytes()
            if message == _STEP:
                block.step()
            else:
                command, argument = cloudpickle.loads(message)
                if command == "close":
                    return
                answer = getattr(block, command)(*argument)
                if answer is not None:
                    connection.send_bytes(cloudpickle.dumps(answer))
                    continue
            connection.send_bytes(_OK)
    except (EOFError, KeyboardInterrupt):
        return
    except SaferlError as error:
        connection.send_bytes(cloudpickle.dumps(error))
    except Exception:
        wrapped = EnvContractError(f"An environment raised an error in its worker process:\n{traceback.format_exc()}")
        connection.send_bytes(cloudpickle.dumps(wrapped))
    finally:
        if block is not None:
            block.close()
        connection.close()
